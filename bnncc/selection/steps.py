"""The body of a fused Relax function -> the epilogue of a kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from bnncc.ops import arguments, bitpack, pack, pad_bits, threshold
from bnncc.tir import epilogue as ep

Array = npt.NDArray[np.generic]
_LEAST = float(np.nextafter(np.float32(0), np.float32(1)))
# What an argument of a fused function is in the caller: the name of a value, or a constant.
Source = str | Array

_SAME_NAME = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "negative", "abs", "nn.relu")


@dataclass(frozen=True)
class Bits:
    """A packed value: the step that compared, and where its bits go."""

    value: int
    layout: ep.BitLayout


@dataclass
class Collector:
    """Reads the elementwise calls of one fused function, in order.

    geometry: extents of the anchor's output. resolve: what a variable or constant is in the caller.
    """

    geometry: ep.Geometry
    resolve: Callable[[Any], Source]
    shape_of: Callable[[str], tuple[int, ...]]
    sources: list[Source] = field(default_factory=list)
    params: list[ep.Param] = field(default_factory=list)
    steps: list[ep.Step] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    values: dict[Any, int | Bits] = field(default_factory=dict)
    dtypes: list[str] = field(default_factory=list)

    def add(self, var: Any, call: Any) -> None:
        """One binding after the anchor."""
        name = call.op.name.removeprefix("relax.")
        if name == "bnncc.pad_bits":
            self._pad(var, call)
            return
        step = self._step(name, call)
        if step is None:  # the identity
            self.values[var] = self.values[call.args[0]]
            return
        self.steps.append(step)
        self.names.append(name.removeprefix("bnncc.").removeprefix("nn."))
        self.dtypes.append("float32")
        number = len(self.steps)
        self.values[var] = number
        if name in ("bnncc.pack", "bnncc.threshold"):
            self.values[var] = Bits(number, bit_layout(call, self.geometry.channels))

    def epilogue(self, results: list[Any]) -> ep.Epilogue:
        """The epilogue that stores `results`, variables of the function."""
        outputs = []
        for var in results:
            value = self.values[var]
            if isinstance(value, Bits):
                outputs.append(ep.Output(value.value, "uint8", value.layout))
            else:
                outputs.append(ep.Output(value, self.dtypes[value]))
        return ep.Epilogue(tuple(self.params), tuple(self.steps), tuple(outputs))

    def _step(self, name: str, call: Any) -> ep.Step | None:
        first = call.args[0]
        if name in _SAME_NAME:
            return ep.Step(name.removeprefix("nn."), tuple(self._operand(argument) for argument in call.args))
        if name == "astype":
            source = self.values[first]
            assert isinstance(source, int)
            return None if self.dtypes[source] == "float32" else ep.Step("astype", (self._operand(first),))
        if name == "clip":
            limits = [_scalar(_number(argument)) for argument in call.args[1:3]]
            return ep.Step("clip", (self._operand(first), *limits))
        if name == "nn.prelu":
            return ep.Step("prelu", (self._operand(first), self._operand(call.args[1])))
        if name == "nn.leakyrelu":
            return ep.Step("prelu", (self._operand(first), _scalar(float(call.attrs.alpha))))
        if name == "bnncc.pack":
            limit = self._operand(call.args[1])
            # x > 0 is written x >= the least positive float, which 32-bit ARM would take for 0.
            if limit.kind == "scalar" and limit.scalar == _LEAST:
                return ep.Step("above", (self._operand(first), _scalar(0.0)))
            return ep.Step("pack", (self._operand(first), limit))
        if name == "bnncc.threshold":
            low, high = self._operand(call.args[1]), self.resolve(call.args[2])
            if isinstance(high, np.ndarray) and (high == np.iinfo(np.int32).max).all():
                return ep.Step("at_least", (self._operand(first), low))
            return ep.Step("threshold", (self._operand(first), low, self._operand(call.args[2])))
        if name == "bnncc.binarize":
            return self._binarize(call)
        raise AssertionError(f"{name} was fused but no kernel knows it")

    def _binarize(self, call: Any) -> ep.Step:
        from bnncc.ops import binarize

        unipolar, limit = binarize.parameters(call)
        # x > t is x >= the float after t.
        at_least = float(np.nextafter(np.float32(limit), np.float32(np.inf))) if unipolar else 0.0
        return ep.Step("binarize", (self._operand(call.args[0]), _scalar(at_least), _scalar(0.0 if unipolar else -1.0)))

    def _pad(self, var: Any, call: Any) -> None:
        source = self.values[call.args[0]]
        assert isinstance(source, Bits)
        pads, pad_bit, channels, groups = pad_bits.parameters(call)
        layout = ep.BitLayout(channels, groups, source.layout.pixel_bytes // groups, pads, pad_bit)
        self.values[var] = replace(source, layout=layout)
        self.names.append("pad_bits")

    def _operand(self, argument: Any) -> ep.Operand:
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
        kind = "channel" if pixelless and (constant or int(np.prod(full[:-1])) > 1) else "tensor"
        assert kind == "channel" or int(np.prod(shape)) == int(np.prod(full)), f"{shape} does not fit {full}"
        dtype = str(source.dtype) if isinstance(source, np.ndarray) else "float32"
        for number, known in enumerate(self.sources):
            if known is source or (isinstance(source, str) and isinstance(known, str) and known == source):
                return ep.Operand("param", number)
        self.sources.append(source)
        self.params.append(ep.Param(kind, dtype))
        return ep.Operand("param", len(self.params) - 1)


def bit_layout(call: Any, channels: int) -> ep.BitLayout:
    """Where R.bnncc.pack or R.bnncc.threshold puts the bits of so many channels."""
    operator = pack if call.op.name == pack.RELAX else threshold
    groups, word_bytes = operator.parameters(call)
    return ep.BitLayout(channels, groups, bitpack.packed_bytes(channels // groups, word_bytes))


def _scalar(value: float) -> ep.Operand:
    return ep.Operand("scalar", scalar=value)


def _number(expression: Any) -> float:
    """A number argument of a Relax call: a constant tensor or an immediate."""
    if isinstance(expression.ty, relax.TensorType):
        return float(arguments.array(expression).reshape(()))
    return float(expression.value)
