"""The last Relax module -> Program: a kernel for every fused function, the calls in order, constants as kernels want
them. An operator without a kernel of ours is run by what TVM makes of it, and its layer says so."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx

from bnncc.kernels import transpose
from bnncc.ops import spans
from bnncc.ops.expressions import array, extents
from bnncc.runtime.artifact import Layer
from bnncc.selection.anchors import ANCHORS, Anchor
from bnncc.selection.program import Call, Kernel, Program, Value
from bnncc.selection.steps import Collector, Source, bit_layout, packing_of
from bnncc.targets.target import Target
from bnncc.tir.epilogue import can_pack

_FALLBACK = "no kernel of ours; compiled from TVM's own definition"


def select(module: tvm.IRModule, target: Target) -> Program:
    """`module["main"]` holds calls of fused functions, call_tir and reshape, as the pipeline leaves it."""
    return _Selection(module, target).run()


class _Selection:
    def __init__(self, module: tvm.IRModule, target: Target) -> None:
        self.module, self.target = module, target
        self.program = Program()
        self.names: dict[Any, Source | list[str]] = {}
        self.symbols: dict[object, str] = {}
        self.bit_channels: dict[str, int] = {}  # packed value -> the channels it holds
        self.planes: dict[str, str] = {}  # NHWC value -> the NCHW value it is the transpose of

    def run(self) -> Program:
        main = self.module["main"]
        for param in main.params:
            self.program.inputs.append(self._value(param))
        for block in main.body.blocks:
            for binding in block.bindings:
                self._binding(binding.var, binding.value)
        result = self._source(main.body.body)
        for number, source in enumerate(result if isinstance(result, list) else [result]):
            self._output(source, number)
        self._drop_unused()
        return self.program

    # Values -----------------------------------------------------------------------------------------------------

    def _value(self, var: Any, ty: Any = None, alias: str = "") -> str:
        """Make `var` a value of the program and return its name."""
        ty = ty or var.ty
        name = f"v{len(self.program.values)}"
        shape = tuple(int(extent) for extent in ty.shape.values)
        self.program.values[name] = Value(name, shape, str(ty.dtype), alias)
        if var is not None:
            self.names[var] = name
        return name

    def _values(self, var: Any) -> list[str]:
        """The values of the result of a call, one or a tuple."""
        if isinstance(var.ty, relax.TupleType):
            names = [self._value(None, field) for field in var.ty.fields]
            self.names[var] = names
            return names
        return [self._value(var)]

    def _source(self, expression: Any) -> Any:
        """What an expression of main is: the name of a value, a constant, or a list of names for a tuple."""
        if isinstance(expression, relax.Tuple):
            return [self._source(field) for field in expression.fields]
        if expression in self.names:
            return self.names[expression]
        return array(expression)

    # Bindings ---------------------------------------------------------------------------------------------------

    def _binding(self, var: Any, value: Any) -> None:
        if isinstance(value, relax.TupleGetItem):
            self.names[var] = self._source(value.tuple_value)[value.index]
        elif not isinstance(value, tvm.ir.Call):  # a variable, a constant or a tuple under another name
            self.names[var] = self._source(value)
        elif isinstance(value.op, tvm.ir.GlobalVar):
            self._fused(var, value)
        elif value.op.name == "relax.call_tir":
            self._call_tir(var, value)
        elif value.op.name == "relax.reshape":
            self._alias(var, self._source(value.args[0]))
        else:
            assert value.op.name == "relax.permute_dims", f"{value.op.name} reached kernel selection"
            self._transpose(var, value)

    def _alias(self, var: Any, source: Source) -> None:
        if isinstance(source, str):
            self._value(var, alias=source)
        else:
            self.names[var] = source.reshape([int(extent) for extent in var.ty.shape.values])

    def _transpose(self, var: Any, call: Any) -> None:
        """Between NCHW and NHWC. Where there is one channel or one pixel the bytes are the same."""
        source = self._source(call.args[0])
        assert isinstance(source, str)
        shape = self.shape(source)
        to_nhwc = [int(axis) for axis in call.attrs.axes] == [0, 2, 3, 1]
        batch, channels, pixels = shape[0], shape[1 if to_nhwc else 3], shape[2] * shape[3 if to_nhwc else 1]
        if channels == 1 or pixels == 1:
            self._alias(var, source)
            return
        outer, inner = (channels, pixels) if to_nhwc else (pixels, channels)
        key = ("transpose", batch, outer, inner)
        symbol = self.symbols.setdefault(key, f"transpose_{len(self.symbols)}")
        self.program.kernels[symbol] = Kernel(
            symbol, transpose.build(transpose.Shape(batch, outer, inner), self.target)
        )
        name = self._value(var)
        if to_nhwc:
            self.planes[name] = source
        size = self.program.values[name].size
        layer = Layer(symbol, "transpose", False, "moves data only", (), 0, size, size, 0, self.shape(name), symbol)
        self.program.calls.append(Call(symbol, (source,), (name,), layer))

    def _fused(self, var: Any, call: Any) -> None:
        """One kernel: the anchor of a fused function, the steps after it, and what it stores."""
        func = self.module[call.op]
        scope = _Scope(self, dict(zip(func.params, (self._source(argument) for argument in call.args), strict=True)))
        bindings = [binding for block in func.body.blocks for binding in block.bindings]
        results = _results(func.body.body, bindings)
        steps = [(binding.var, binding.value) for binding in bindings if isinstance(binding.value, tvm.ir.Call)]
        first_var, first = steps[0]
        kind = first.op.name if str(func.attrs["bnncc.anchor"]) != "none" else _unanchored(first)
        anchored = kind != "elementwise"
        anchor = ANCHORS[kind](first, scope, self.target)
        collector = Collector(anchor.geometry, scope.resolve, self.shape, dtypes=[anchor.dtype])
        collector.values[first_var if anchored else first.args[0]] = anchor.result
        for step_var, step in steps[1:] if anchored else steps:
            collector.add(step_var, step)
        epilogue = collector.epilogue(results)
        symbol = self._kernel(anchor, epilogue)
        outputs = self._values(var)
        for name, output in zip(outputs, epilogue.outputs, strict=True):
            if output.bits is not None:
                self.bit_channels[name] = output.bits.channels
        inputs = (*anchor.inputs, *collector.sources)
        layer = Layer(
            name=spans.name_of(call) or spans.name_of(first) or symbol,
            kind=anchor.kind,
            binary=anchor.binary,
            why_not=anchor.why_not,
            fused=tuple(collector.names),
            macs=anchor.macs,
            bytes_in=sum(self.program.values[source].size for source in inputs if isinstance(source, str)),
            bytes_out=sum(self.program.values[name].size for name in outputs),
            bytes_weights=sum(source.nbytes for source in inputs if not isinstance(source, str)),
            output_shape=astuple(anchor.geometry) if len(self.shape(outputs[0])) == 4 else self.shape(outputs[0]),
            kernel=symbol,
        )
        space = (anchor.workspace,) if anchor.workspace else ()
        padding, batch = self._padding(anchor), anchor.geometry.batch
        self.program.calls.append(
            Call(symbol, inputs, tuple(outputs), layer, space, len(anchor.inputs), padding, batch if padding else 1)
        )

    def _kernel(self, anchor: Anchor, epilogue: Any) -> str:
        """The symbol of the kernel for this shape and epilogue; equal ones are built once."""
        key = (anchor.kind, anchor.shape, epilogue)
        if key not in self.symbols:
            symbol = f"{anchor.kind}_{len(self.symbols)}"
            self.symbols[key] = symbol
            self.program.kernels[symbol] = Kernel(symbol, anchor.build(anchor.shape, epilogue, self.target))
        return self.symbols[key]

    def _padding(self, anchor: Anchor) -> str:
        """The symbol of the kernel that fills the anchor's workspace, "" where it has none."""
        if not anchor.workspace or anchor.build_padding is None:
            return ""
        key = ("padding", anchor.kind, anchor.shape)
        if key not in self.symbols:
            symbol = self.symbols[key] = f"padding_{len(self.symbols)}"
            self.program.kernels[symbol] = Kernel(symbol, anchor.build_padding(anchor.shape, self.target))
        return self.symbols[key]

    def _call_tir(self, var: Any, call: Any) -> None:
        """An operator that TVM legalised: its own loops, with temporaries lent by the arena."""
        global_var, given = call.args[0], call.args[1]
        func, spaces = _temporaries_to_params(self.module[global_var])
        symbol = f"tvm_{global_var.name_hint}"
        self.program.kernels[symbol] = Kernel(symbol, func, schedulable=True)
        inputs = tuple(self._source(field) for field in given.fields)
        outputs = self._values(var)
        layer = Layer(
            name=spans.name_of(call) or global_var.name_hint,
            kind=global_var.name_hint.rstrip("0123456789"),
            binary=False,
            why_not=_FALLBACK,
            fused=(),
            macs=0,
            bytes_in=sum(self.program.values[source].size for source in inputs if isinstance(source, str)),
            bytes_out=sum(self.program.values[name].size for name in outputs),
            bytes_weights=sum(source.nbytes for source in inputs if not isinstance(source, str)),
            output_shape=self.program.values[outputs[0]].shape,
            kernel=symbol,
        )
        # TVM's functions take their temporaries last, after the outputs.
        self.program.calls.append(Call(symbol, inputs, tuple(outputs), layer, spaces, len(inputs) + len(outputs)))

    def shape(self, name: str) -> tuple[int, ...]:
        """The extents of a value."""
        return self.program.values[name].shape

    # The end ----------------------------------------------------------------------------------------------------

    def _output(self, source: Any, number: int) -> None:
        """Name output `number`. One that nothing here computes (an input, a constant, the same tensor twice) is
        copied, because every output has memory of its own."""
        taken = {self.program.root(name) for name in (*self.program.inputs, *self.program.outputs)}
        if isinstance(source, str) and self.program.root(source) not in taken:
            self.program.outputs.append(source)
            return
        shape = source.shape if not isinstance(source, str) else self.shape(source)
        dtype = str(source.dtype) if not isinstance(source, str) else self.program.values[source].dtype
        name = f"copy{number}"
        self.program.values[name] = Value(name, shape, dtype)
        symbol = f"copy_{name}"
        count = int(np.prod(shape, dtype=np.int64))
        self.program.kernels[symbol] = Kernel(symbol, _copy(count, dtype))
        size = self.program.values[name].size
        layer = Layer(symbol, "copy", False, "moves data only", (), 0, size, size, 0, shape, symbol)
        self.program.calls.append(Call(symbol, (source,), (name,), layer))
        self.program.outputs.append(name)

    def _drop_unused(self) -> None:
        """Calls whose results nothing reads: a transpose that its convolution reads through."""
        while True:
            read = {self.program.root(name) for name in self.program.outputs}
            for call in self.program.calls:
                read |= {self.program.root(value) for value in call.inputs if isinstance(value, str)}
            kept = [
                call for call in self.program.calls if any(self.program.root(name) in read for name in call.outputs)
            ]
            if len(kept) == len(self.program.calls):
                break
            self.program.calls = kept
        used = {name for call in self.program.calls for name in (call.kernel, call.padding)}
        self.program.kernels = {name: kernel for name, kernel in self.program.kernels.items() if name in used}


@dataclass(frozen=True)
class _Scope:
    """The network as seen from inside a fused function, whose parameters stand for values of main."""

    selection: _Selection
    params: dict[Any, Source]

    def resolve(self, expression: Any) -> Source:
        return self.params[expression] if expression in self.params else array(expression)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.selection.shape(name)

    def channels(self, name: str) -> int:
        return self.selection.bit_channels[self.selection.program.root(name)]

    def before_transpose(self, name: str) -> str | None:
        return self.selection.planes.get(name)


def _unanchored(first: Any) -> str:
    """What runs a function that begins with this call and has no anchor."""
    packing = packing_of(first)
    if packing is None:
        return "elementwise"
    layout = bit_layout(packing, extents(packing.values)[-1])
    return "elementwise" if can_pack(layout, 1) else "packing"


def _results(returned: Any, bindings: list[Any]) -> list[Any]:
    """The variables a fused function returns, whatever names they go by at its end."""
    values = {binding.var: binding.value for binding in bindings if not isinstance(binding.value, tvm.ir.Call)}
    while returned in values:
        returned = values[returned]
    fields = list(returned.fields) if isinstance(returned, relax.Tuple) else [returned]
    return [values.get(field, field) for field in fields]


def _temporaries_to_params(func: tirx.PrimFunc) -> tuple[tirx.PrimFunc, tuple[int, ...]]:
    """Turn the buffers that a function of TVM's allocates into parameters, and say their sizes in bytes: there is no
    runtime to allocate them, and the stack of a thread is small."""
    realize = func.body
    block = realize.block
    sizes = tuple(
        int(np.prod([int(extent) for extent in buffer.shape], dtype=np.int64)) * np.dtype(str(buffer.dtype)).itemsize
        for buffer in block.alloc_buffers
    )
    if not sizes:
        return func, ()
    bare = tvm.s_tir.SBlock(
        block.iter_vars, block.reads, block.writes, block.name_hint, block.body, block.init, [], block.match_buffers,
        block.annotations,
    )  # fmt: skip
    body = tvm.s_tir.SBlockRealize(realize.iter_values, realize.predicate, bare)
    return tirx.PrimFunc([*func.params, *block.alloc_buffers], body, func.ret_type, func.attrs), sizes


def _copy(count: int, dtype: str) -> tirx.PrimFunc:
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script.builder import ir as T

    with IRBuilder() as ib, T.prim_func():
        source = T.arg("source", T.buffer((count,), dtype))
        to = T.arg("to", T.buffer((count,), dtype))
        with T.serial(0, count) as i:
            T.buffer_store(to, source[i], [i])
    return ib.get()
