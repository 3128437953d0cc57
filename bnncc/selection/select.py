"""The last Relax module -> Program: a kernel for every fused function, the calls in order, constants as kernels want
them. An operator without a kernel of ours is run by what TVM makes of it, and its layer says so."""

from __future__ import annotations

import itertools
from dataclasses import astuple, dataclass
from typing import cast

import numpy as np
import tvm
from tvm import relax

from bnncc.kernels import check_indices
from bnncc.kernels.copy import Copy
from bnncc.kernels.kernel import Array, Kernel
from bnncc.kernels.schedule import Schedule, ScheduleError
from bnncc.kernels.transpose import Transpose
from bnncc.ops import spans, standard
from bnncc.ops.channel_interaction import ChannelInteraction
from bnncc.ops.check_indices import CheckIndices
from bnncc.ops.expressions import array, extents, operator
from bnncc.ops.xnor_conv2d import XnorConv2d
from bnncc.runtime import abi
from bnncc.runtime.artifact import Layer
from bnncc.runtime.errors import OptionError
from bnncc.selection import anchors
from bnncc.selection.legalised import temporaries_to_params
from bnncc.selection.program import Call, Legalised, Program, Value
from bnncc.selection.steps import Collector, Source
from bnncc.selection.task import Scheduled, Schedules, Task
from bnncc.targets.target import Target
from bnncc.tir.epilogue import BitLayout, Epilogue, Geometry, Output

MOVES_DATA = "moves data only"
Named = Source | list[Source]  # what a variable of main stands for
_FALLBACK = "no kernel of ours; compiled from TVM's own definition"


def select(module: tvm.IRModule, target: Target, schedules: Schedules | None = None) -> Program:
    """`module["main"]` holds calls of fused functions, call_tir and reshape, as the pipeline leaves it. schedules: task
    key -> the schedule to take instead of the default.

    Raises:
        OptionError: a schedule for a task that the network does not have, or one that its kernel cannot have.
    """
    chosen = dict(schedules or {})
    program = _Selection(module, target, chosen).run()
    if unknown := chosen.keys() - {task.key for task in program.tasks()}:
        raise OptionError(f"schedules: no task of this network has the key {min(unknown)[:16]}..; see bnncc.tasks")
    return program


class _Selection:
    def __init__(self, module: tvm.IRModule, target: Target, schedules: Schedules) -> None:
        self.module, self.target, self.schedules = module, target, schedules
        self.program = Program()
        self.names: dict[relax.Var, Named] = {}
        self.symbols: dict[Task, str] = {}
        self.layouts: dict[str, BitLayout] = {}  # packed value -> how its bits lie
        self.planes: dict[str, str] = {}  # NHWC value -> the NCHW value it is the transpose of

    def run(self) -> Program:
        main = self.module["main"]
        for param in main.params:
            self.names[param] = self._value(param.ty)
            self.program.inputs.append(cast(str, self.names[param]))
        for block in main.body.blocks:
            for binding in block.bindings:
                self._binding(binding.var, binding.value)
        result = self._named(main.body.body)
        for number, source in enumerate(result if isinstance(result, list) else [result]):
            self._output(source, number)
        self._drop_unused()
        return self.program

    # Values -----------------------------------------------------------------------------------------------------

    def _value(self, ty: relax.TensorType, alias: str = "") -> str:
        """Make a value of the program and return its name."""
        name = f"v{len(self.program.values)}"
        shape = tuple(int(extent) for extent in ty.shape.values)
        self.program.values[name] = Value(name, shape, str(ty.dtype), alias)
        return name

    def _values(self, var: relax.Var) -> list[str]:
        """The values of the result of a call, one or a tuple."""
        if isinstance(var.ty, relax.TupleType):
            names = [self._value(field) for field in var.ty.fields]
            self.names[var] = list(names)
            return names
        name = self.names[var] = self._value(var.ty)
        return [name]

    def _named(self, expression: relax.Expr) -> Named:
        """What an expression of main is: the name of a value, a constant, or a list of them for a tuple."""
        if isinstance(expression, relax.Tuple):
            return [self._source(field) for field in expression.fields]
        if expression in self.names:
            return self.names[expression]
        return array(expression)

    def _source(self, expression: relax.Expr) -> Source:
        """What an expression that is no tuple is."""
        named = self._named(expression)
        assert not isinstance(named, list)
        return named

    # Bindings ---------------------------------------------------------------------------------------------------

    def _binding(self, var: relax.Var, value: relax.Expr) -> None:
        if isinstance(value, relax.TupleGetItem):
            self.names[var] = cast("list[Source]", self._named(value.tuple_value))[value.index]
        elif not isinstance(value, tvm.ir.Call):  # a variable, a constant or a tuple under another name
            self.names[var] = self._named(value)
        elif isinstance(value.op, tvm.ir.GlobalVar):
            self._fused(var, value)
        elif (tir := standard.CallTir.match(value)) is not None:
            self._call_tir(var, tir)
        elif (check := CheckIndices.match(value)) is not None:
            self._check_indices(var, check)
        elif (reshape := standard.Reshape.match(value)) is not None:
            self._alias(var, self._source(reshape.x))
        else:
            permutation = standard.PermuteDims.match(value)
            assert permutation is not None, f"{operator(value)} reached kernel selection"
            self._transpose(var, permutation)

    def _alias(self, var: relax.Var, source: Source) -> None:
        if isinstance(source, str):
            self.names[var] = self._value(var.ty, alias=source)
        else:
            self.names[var] = source.reshape(extents(var))

    def _transpose(self, var: relax.Var, permutation: standard.PermuteDims) -> None:
        """Between NCHW and NHWC. Where there is one channel or one pixel the bytes are the same."""
        source = self._source(permutation.x)
        assert isinstance(source, str)
        shape = self.shape(source)
        to_nhwc = permutation.axes == standard.TO_NHWC
        batch, channels, pixels = shape[0], shape[1 if to_nhwc else 3], shape[2] * shape[3 if to_nhwc else 1]
        if channels == 1 or pixels == 1:
            self._alias(var, source)
            return
        outer, inner = (channels, pixels) if to_nhwc else (pixels, channels)
        kernel = Transpose(Geometry(batch, 1, inner, outer))
        (name,) = self._call(kernel, Epilogue(), (source,), (), (), self._values(var), spans.name_of(permutation.call))
        if to_nhwc:
            self.planes[name] = source

    def _fused(self, var: relax.Var, call: relax.Call) -> None:
        """One kernel: the anchor of a fused function, the steps after it, and what it stores."""
        func = self.module[call.op]
        arguments = (self._source(argument) for argument in call.args)
        bindings = [binding for block in func.body.blocks for binding in block.bindings]
        results = _results(func.body.body, bindings)
        steps = [(binding.var, binding.value) for binding in bindings if isinstance(binding.value, tvm.ir.Call)]
        first_var, first = steps[0]
        make = anchors.find(first)
        name = spans.name_of(call) or spans.name_of(first)
        scope = _Scope(self, dict(zip(func.params, arguments, strict=True)), name)
        start = first_var if make else anchors.loaded(first, scope)
        rest = steps[1:] if make else steps
        interactions = list(itertools.takewhile(lambda step: ChannelInteraction.match(step[1]), rest))
        convs = {var: step for var, step in steps if XnorConv2d.match(step)}
        if interactions:
            anchor = anchors.interacted(first, [step for _, step in interactions], scope)
            start, rest = interactions[-1][0], rest[len(interactions) :]
        elif len(convs) > 1:
            anchor = anchors.merged(list(convs.values()), scope)
        else:
            anchor = make(first, scope) if make else anchors.elementwise(start, scope)
        collector = Collector(anchor.kernel.output, scope.resolve, self.shape, accumulators=max(1, len(convs)))
        collector.dtypes = [anchor.dtype] * collector.accumulators
        collector.values |= {conv: number for number, conv in enumerate(convs)}
        collector.values[start] = anchor.result
        collector.names += ["interaction"] * len(interactions)
        for step_var, step in rest:
            collector.add(step_var, step)
        inputs = self._before(anchor, name)
        outputs = self._values(var)
        self._call(
            anchor.kernel,
            collector.epilogue(results),
            inputs,
            anchor.constants,
            tuple(collector.sources),
            outputs,
            name,
            fused=(*anchor.fused, *collector.names),
            why_not=anchor.why_not,
        )

    def _before(self, anchor: anchors.Anchor, name: str) -> tuple[str, ...]:
        """Call the kernel that runs before an anchor's own, if there is one; the inputs of its own."""
        if anchor.before is None:
            return anchor.inputs
        kernel, constants = anchor.before
        dtype = kernel.results(Epilogue())[0].dtype
        outputs = [self._value(relax.TensorType(list(astuple(kernel.output)), dtype))]
        epilogue, name = Epilogue(outputs=(Output(0, dtype),)), f"{name}/{kernel.kind}"
        return tuple(self._call(kernel, epilogue, anchor.inputs, constants, (), outputs, name, why_not=anchor.why_not))

    def _call(
        self,
        kernel: Kernel,
        epilogue: Epilogue,
        inputs: tuple[str, ...],
        constants: tuple[Array, ...],
        params: tuple[Source, ...],
        outputs: list[str],
        name: str,
        *,
        fused: tuple[str, ...] = (),
        why_not: str = MOVES_DATA,
    ) -> list[str]:
        """Add the call of a kernel; returns `outputs`."""
        symbol = self._symbol(kernel, epilogue)
        schedule = cast(Scheduled, self.program.kernels[symbol]).schedule
        for value, output in zip(outputs, epilogue.outputs, strict=True):
            if output.bits is not None:
                self.layouts[value] = output.bits
        arguments_ = (*inputs, *kernel.arrange(constants, self.target, schedule), *params)
        filler = kernel.filler()
        self.program.calls.append(
            Call(
                symbol,
                arguments_,
                tuple(outputs),
                self._layer(name or symbol, kernel.kind, symbol, arguments_, outputs, kernel, fused, why_not),
                workspace=(kernel.workspace_bytes(),) if filler else (),
                workspace_at=len(inputs) + len(constants),
                filler=self._symbol(filler, Epilogue()) if filler else "",
                batch=kernel.output.batch if filler else 1,
            )
        )
        return outputs

    def _symbol(self, kernel: Kernel, epilogue: Epilogue) -> str:
        """The symbol of the function for this kernel and epilogue; equal ones are one."""
        task = Task(kernel, epilogue, self.target)
        if task not in self.symbols:
            symbol = self.symbols[task] = f"{kernel.kind}_{len(self.symbols)}"
            self.program.kernels[symbol] = Scheduled(task, self._schedule(task))
        return self.symbols[task]

    def _schedule(self, task: Task) -> Schedule:
        schedule = self.schedules.get(task.key) if self.schedules else None
        if schedule is None:
            return task.kernel.default(task.target)
        try:
            task.kernel.check(schedule, task.target)
        except ScheduleError as error:
            raise OptionError(f"schedules: task {task.key[:16]}..: {error}") from None
        return schedule

    def _layer(
        self,
        name: str,
        kind: str,
        symbol: str,
        inputs: tuple[Source, ...],
        outputs: list[str],
        kernel: Kernel | None = None,
        fused: tuple[str, ...] = (),
        why_not: str = _FALLBACK,
    ) -> Layer:
        shape = self.shape(outputs[0])
        return Layer(
            name=name,
            kind=kind,
            binary=not why_not,
            why_not=why_not,
            fused=fused,
            macs=kernel.macs if kernel else 0,
            bytes_in=sum(self.program.values[source].size for source in inputs if isinstance(source, str)),
            bytes_out=sum(self.program.values[name].size for name in outputs),
            bytes_weights=sum(source.nbytes for source in inputs if not isinstance(source, str)),
            output_shape=astuple(kernel.output) if kernel and len(shape) == 4 and why_not != MOVES_DATA else shape,
            kernel=symbol,
        )

    def _call_tir(self, var: relax.Var, tir: standard.CallTir) -> None:
        """An operator that TVM legalised: its own loops, with temporaries lent by the arena."""
        global_var = tir.function
        func, spaces = temporaries_to_params(self.module[global_var])
        symbol = f"tvm_{global_var.name_hint}"
        self.program.kernels[symbol] = Legalised(func)
        inputs = tuple(self._source(operand) for operand in tir.tensors)
        outputs = self._values(var)
        kind = global_var.name_hint.rstrip("0123456789")
        layer = self._layer(spans.name_of(tir.call) or global_var.name_hint, kind, symbol, inputs, outputs)
        # TVM's functions take their temporaries last, after the outputs.
        self.program.calls.append(Call(symbol, inputs, tuple(outputs), layer, spaces, len(inputs) + len(outputs)))

    def _check_indices(self, var: relax.Var, check: CheckIndices) -> None:
        """Checks are numbered as they are called."""
        source = self._source(check.x)
        assert isinstance(source, str)
        value, outputs = self.program.values[source], self._values(var)
        number = 1 + sum(call.reports for call in self.program.calls)
        symbol = f"{abi.CHECK_INDICES}_{number}"
        count = int(np.prod(value.shape, dtype=np.int64))
        self.program.kernels[symbol] = Legalised(check_indices.build(count, value.dtype, check.extents, number))
        name = spans.name_of(check.call) or symbol
        layer = self._layer(name, abi.CHECK_INDICES, symbol, (source,), outputs, why_not=MOVES_DATA)
        self.program.calls.append(Call(symbol, (source,), tuple(outputs), layer, reports=True))

    def shape(self, name: str) -> tuple[int, ...]:
        """The extents of a value."""
        return self.program.values[name].shape

    # The end ----------------------------------------------------------------------------------------------------

    def _output(self, source: Source, number: int) -> None:
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
        kernel = Copy(Geometry(1, 1, 1, int(np.prod(shape, dtype=np.int64))), dtype)
        inputs, constants = ((source,), ()) if isinstance(source, str) else ((), (source,))
        self._call(kernel, Epilogue(), inputs, constants, (), [name], "")
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
        used = {name for call in self.program.calls for name in (call.kernel, call.filler)}
        self.program.kernels = {name: kernel for name, kernel in self.program.kernels.items() if name in used}


@dataclass(frozen=True)
class _Scope:
    """The network as seen from inside a fused function, whose parameters stand for values of main."""

    selection: _Selection
    params: dict[relax.Var, Source]
    layer: str

    def resolve(self, expression: relax.Expr) -> Source:
        return self.params[expression] if expression in self.params else array(expression)

    def value(self, expression: relax.Expr) -> str:
        source = self.resolve(expression)
        assert isinstance(source, str)
        return source

    def constant(self, expression: relax.Expr) -> Array:
        source = self.resolve(expression)
        assert not isinstance(source, str)
        return source

    def shape(self, name: str) -> tuple[int, ...]:
        return self.selection.shape(name)

    def channels(self, name: str) -> int:
        return self.selection.layouts[self.selection.program.root(name)].channels

    def layout(self, name: str) -> BitLayout | None:
        root = self.selection.program.root(name)
        return self.selection.layouts.get(root) if self.shape(root) == self.shape(name) else None

    @property
    def target(self) -> Target:
        return self.selection.target

    def refuse(self, reason: str) -> None:
        self.selection.program.refused.append(f"{self.layer}: {reason}")

    def before_transpose(self, name: str) -> str | None:
        return self.selection.planes.get(name)


def _results(returned: relax.Expr, bindings: list[relax.Binding]) -> list[relax.Var]:
    """The variables a fused function returns, whatever names they go by at its end."""
    values = {binding.var: binding.value for binding in bindings if not isinstance(binding.value, tvm.ir.Call)}
    while returned in values:
        returned = values[returned]
    fields = list(returned.fields) if isinstance(returned, relax.Tuple) else [returned]
    return [values.get(field, field) for field in fields]
