"""The body of a fused Relax function -> the epilogue of a kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from tvm import relax

from bnncc import bitpack
from bnncc.ops import elementwise
from bnncc.ops.expressions import operator
from bnncc.ops.pack import Pack, Packing
from bnncc.ops.pad_bits import PadBits
from bnncc.ops.threshold import Threshold
from bnncc.tir import epilogue as ep

Array = npt.NDArray[np.generic]
# What an argument of a fused function is in the caller: the name of a value, or a constant.
Source = str | Array


@dataclass(frozen=True)
class Bits:
    """A packed value: the step that compared, and where its bits go."""

    value: int
    layout: ep.BitLayout


@dataclass
class Collector:
    """Reads the elementwise calls of one fused function, in order.

    geometry: extents of the anchor's output. resolve: what a variable or constant is in the caller. accumulators: how
    many values there are before the first step, convolutions that are one kernel.
    """

    geometry: ep.Geometry
    resolve: Callable[[relax.Expr], Source]
    shape_of: Callable[[str], tuple[int, ...]]
    accumulators: int = 1
    sources: list[Source] = field(default_factory=list)
    params: list[ep.Param] = field(default_factory=list)
    steps: list[ep.Step] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    values: dict[relax.Var, int | Bits] = field(default_factory=dict)
    dtypes: list[str] = field(default_factory=list)

    def add(self, var: relax.Var, call: relax.Call) -> None:
        """One binding after the anchor."""
        if padding := PadBits.match(call):
            self._pad(var, padding)
            return
        if var in self.values:  # a convolution
            self.names.append(operator(call).rpartition(".")[2])
            return
        packing = packing_of(call)
        self.steps.append(self._comparison(packing) if packing else self._step(call))
        self.names.append(operator(call).rpartition(".")[2])
        self.dtypes.append("float32")
        number = self.accumulators + len(self.steps) - 1
        self.values[var] = Bits(number, bit_layout(packing, self.geometry.channels)) if packing else number

    def epilogue(self, results: list[relax.Var]) -> ep.Epilogue:
        """The epilogue that stores `results`, variables of the function."""
        outputs = []
        for var in results:
            value = self.values[var]
            if isinstance(value, Bits):
                outputs.append(ep.Output(value.value, "uint8", value.layout))
            else:
                outputs.append(ep.Output(value, self.dtypes[value]))
        return ep.Epilogue(tuple(self.params), tuple(self.steps), tuple(outputs), self.accumulators)

    def _step(self, call: relax.Call) -> ep.Step:
        """An operation of the table."""
        operation = elementwise.find(call)
        assert operation is not None, f"{operator(call)} was fused but no kernel knows it"
        operands = operation.operands(call)
        return ep.Step(
            operation.name, tuple(_scalar(o) if isinstance(o, float) else self._operand(o) for o in operands)
        )

    def _comparison(self, packing: Packing) -> ep.Step:
        """What gives the bits."""
        value = self._operand(packing.values)
        if isinstance(packing, Threshold):
            low, high = self._operand(packing.lo), self.resolve(packing.hi)
            if isinstance(high, np.ndarray) and (high == np.iinfo(np.int32).max).all():
                return ep.Step("at_least", (value, low))
            return ep.Step("threshold", (value, low, self._operand(packing.hi)))
        assert isinstance(packing, Pack)
        return ep.Step("above" if packing.strict else "pack", (value, self._operand(packing.threshold)))

    def _pad(self, var: relax.Var, padding: PadBits) -> None:
        source = self.values[padding.bits]
        assert isinstance(source, Bits)
        layout = ep.BitLayout(
            padding.channels,
            padding.groups,
            source.layout.pixel_bytes // padding.groups,
            padding.pads,
            padding.pad_bit,
        )
        self.values[var] = replace(source, layout=layout)
        self.names.append("pad_bits")

    def _operand(self, argument: relax.Expr) -> ep.Operand:
        if argument in self.values:
            value = self.values[argument]
            assert isinstance(value, int)
            return ep.Operand("value", value)
        source = self.resolve(argument)
        if isinstance(source, np.ndarray) and source.size == 1:
            return _scalar(float(source.reshape(())))
        shape = source.shape if isinstance(source, np.ndarray) else self.shape_of(source)
        full = (self.geometry.batch, self.geometry.rows, self.geometry.width, self.geometry.channels)
        pixelless = shape[-1:] == full[-1:] and int(np.prod(shape[:-1])) == 1
        # A tensor of one pixel is both; it is read as a tensor when it is one, and the result is the same.
        constant = isinstance(source, np.ndarray)
        kind: Literal["tensor", "channel"] = (
            "channel" if pixelless and (constant or int(np.prod(full[:-1])) > 1) else "tensor"
        )
        assert kind == "channel" or int(np.prod(shape)) == int(np.prod(full)), f"{shape} does not fit {full}"
        dtype = str(source.dtype) if isinstance(source, np.ndarray) else "float32"
        for number, known in enumerate(self.sources):
            if known is source or (isinstance(source, str) and isinstance(known, str) and known == source):
                return ep.Operand("param", number)
        self.sources.append(source)
        self.params.append(ep.Param(kind, dtype))
        return ep.Operand("param", len(self.params) - 1)


def packing_of(value: relax.Expr) -> Packing | None:
    """R.bnncc.pack or R.bnncc.threshold, if `value` is one."""
    return Pack.match(value) or Threshold.match(value)


def bit_layout(packing: Packing, channels: int) -> ep.BitLayout:
    """Where the bits of so many channels are put."""
    groups = packing.groups
    return ep.BitLayout(channels, groups, bitpack.packed_bytes(channels // groups, packing.word_bytes))


def _scalar(value: float) -> ep.Operand:
    return ep.Operand("scalar", scalar=value)
