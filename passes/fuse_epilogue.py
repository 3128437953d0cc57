"""Group each convolution, product or pool with everything that can run on its results in registers: one kernel each.

A group has one anchor (or none) and the elementwise operators that follow it on tensors of the anchor's output shape,
their other operands being constants per channel or tensors that are ready before the anchor; then the packing of its
results, and a border of constant bits around them. A value that others read too is an output: one kernel writes the
float residual and the packed signs of the next layer in the same pass. A sum of two branches belongs to the later one.

A group becomes a private function with the attributes "Primitive" and "bnncc.anchor" (the anchor's name without its
dialect, "none" without an anchor). Its parameters are the tensors it reads in order of first use, then its constants;
scalars stay inside. So layers that differ in their weights alone share one function. The call carries the anchor's
span. A group with several outputs returns a tuple, in the order in which they are computed.

Before::

    @R.function
    def main(x: R.Tensor((1, 4, 4, 8), "float32"), r: R.Tensor((1, 2, 2, 8), "float32")):
        with R.dataflow():
            y = R.nn.max_pool2d(x, pool_size=[2, 2], strides=[2, 2], padding=[0, 0, 0, 0], layout="NHWC")
            z = R.add(y, r)
            p = R.bnncc.pack(z, R.const(0.0, "float32"), 1, 1)
            b = R.bnncc.pad_bits(p, R.shape([1, 1, 1, 1]), 0, 8)
            R.output(z, b)
        return (z, b)

After::

    @R.function(private=True)
    def fused_max_pool2d_add_pack_pad_bits(x: R.Tensor((1, 4, 4, 8), "float32"), r: R.Tensor((1, 2, 2, 8), "float32")):
        R.func_attr({"Primitive": 1, "bnncc.anchor": "max_pool2d"})
        with R.dataflow():
            y = R.nn.max_pool2d(x, pool_size=[2, 2], strides=[2, 2], padding=[0, 0, 0, 0], layout="NHWC")
            z = R.add(y, r)
            p = R.bnncc.pack(z, R.const(0.0, "float32"), 1, 1)
            b = R.bnncc.pad_bits(p, R.shape([1, 1, 1, 1]), 0, 8)
            R.output(z, b)
        return (z, b)

    @R.function
    def main(x: R.Tensor((1, 4, 4, 8), "float32"), r: R.Tensor((1, 2, 2, 8), "float32")):
        cls = Module
        with R.dataflow():
            t = cls.fused_max_pool2d_add_pack_pad_bits(x, r)
            z = t[0]
            b = t[1]
            R.output(z, b)
        return (z, b)

Leaves alone: operators it does not know (softmax, concat, permute_dims, ...), which TVM lowers one by one, operands
that broadcast over pixels, and packing into groups of channels that do not start at bytes, which is done afterwards.
"""

from __future__ import annotations

import heapq
from typing import Any

import tvm
from tvm import relax

from bnncc.ops import bitpack, pack, spans, threshold, xnor_conv2d
from bnncc.passes import dataflow
from bnncc.passes.elementwise import MEANINGS, is_per_channel
from bnncc.tir.epilogue import BitLayout, can_pack

# Operators that begin a group.
ANCHORS = frozenset(
    {"bnncc.xnor_conv2d", "bnncc.or_pool2d", "nn.conv2d", "nn.max_pool2d", "nn.avg_pool2d", "mean", "matmul"}
    | {"bnncc.quantize", "bnncc.conv2d_int8"}
)
ELEMENTWISE = MEANINGS.keys() | {"nn.leakyrelu"}
PACKING = frozenset({"bnncc.pack", "bnncc.threshold"})
LONGEST_NAME = 120


@tvm.transform.module_pass(opt_level=0, name="bnncc.FuseEpilogue")
class FuseEpilogue:
    def __init__(self) -> None:
        self.skipped: list[str] = []
        self.rewrites = 0

    def transform_module(self, module: Any, context: Any) -> Any:
        function = module["main"]
        if dataflow.one_block(function) is None:
            return module
        groups = _Grouping(function, self.skipped)
        if not groups.members:
            return module
        self.rewrites += len(groups.members)
        return _Build(module, groups).module


class _Grouping:
    """Which bindings of the block go together. Bindings are known by their position in the block."""

    def __init__(self, function: Any, skipped: list[str]) -> None:
        self.bindings = list(dataflow.one_block(function).bindings)
        self.position = {binding.var: index for index, binding in enumerate(self.bindings)}
        self.uses = dataflow.count_uses(function)
        self.members: dict[int, list[int]] = {}  # group (the position of its first member) -> positions
        self.anchor: dict[int, str] = {}
        self.group_of: dict[int, int] = {}
        self._skipped = skipped
        for index, binding in enumerate(self.bindings):
            self._place(index, binding.value)

    def reads(self, index: int) -> set[int]:
        """Positions of the bindings that a binding reads."""
        return {self.position[v] for v in dataflow.variables(self.bindings[index].value) if v in self.position}

    def unit(self, index: int) -> int:
        """The group of a binding, or the binding itself."""
        return self.group_of.get(index, index)

    def _place(self, index: int, value: Any) -> None:
        name = dataflow.name(value)
        if name in ANCHORS and _is_supported_anchor(value):
            self._begin(index, name.rpartition(".")[2])
        elif name == "astype" or name in ELEMENTWISE or name in PACKING:
            self._follow(index, value, name)
        elif name == "bnncc.pad_bits":
            source = self.position.get(value.args[0])
            packer = source is not None and dataflow.name(self.bindings[source].value)
            if packer in PACKING | {"bnncc.or_pool2d"} and self.uses[value.args[0]] == 1 and source in self.group_of:
                self._join(index, self.group_of[source])
            else:
                self._begin(index, "pad_bits")

    def _begin(self, index: int, anchor: str) -> None:
        self.members[index], self.anchor[index], self.group_of[index] = [index], anchor, index

    def _join(self, index: int, group: int) -> None:
        self.members[group].append(index)
        self.group_of[index] = group

    def _follow(self, index: int, value: Any, name: str) -> None:
        """Join the latest group among the operands that can take it; begin one where none can."""
        operands = [v for v in value.args if isinstance(v, relax.Var)]
        if not operands:
            self._skipped.append(f"{spans.name_of(value) or name}: {name} of constants alone")
            return
        extents = dataflow.shape(operands[0]) if name in PACKING or name == "astype" else dataflow.shape(value)
        reason = _why_not_elementwise(value, name, operands, extents)
        if reason:
            self._skipped.append(f"{spans.name_of(value) or name}: {reason}")
            return
        sources = {self.position[v] for v in operands if v in self.position}
        for group in sorted({self.group_of[s] for s in sources if s in self.group_of}, reverse=True):
            outside = [s for s in sources if self.unit(s) != group]
            fits = self._extents(group) == extents and (name not in PACKING or self._packs(group, value))
            if fits and not any(self._depends(s, group) for s in outside):
                self._join(index, group)
                return
        if name != "astype":
            self._begin(index, "none")

    def _packs(self, group: int, value: Any) -> bool:
        """Whether the group's kernel can pack into this layout from registers. A layout whose groups of channels do
        not start at bytes gets a kernel of its own."""
        anchor = self.bindings[group].value
        groups, word_bytes = (pack if dataflow.name(value) == "bnncc.pack" else threshold).parameters(value)
        channels = dataflow.shape(value.args[0])[-1]
        layout = BitLayout(channels, groups, bitpack.packed_bytes(channels // groups, word_bytes))
        if dataflow.name(anchor) == "bnncc.xnor_conv2d":
            return can_pack(layout, xnor_conv2d.parameters(anchor).groups)
        return can_pack(layout, int(anchor.attrs.groups) if dataflow.name(anchor) == "nn.conv2d" else 1)

    def _extents(self, group: int) -> tuple[int, ...] | None:
        """The shape of a group's results before packing; None for a group of packed bits alone."""
        value = self.bindings[group].value
        if dataflow.name(value) in PACKING:
            return dataflow.shape(value.args[0])
        return None if str(value.ty.dtype) == "uint8" else dataflow.shape(value)

    def _depends(self, index: int, group: int) -> bool:
        """Whether a binding, with everything its group needs, needs `group`."""
        seen, waiting = set(), [self.unit(index)]
        while waiting:
            unit = waiting.pop()
            if unit == group:
                return True
            if unit in seen:
                continue
            seen.add(unit)
            members = self.members.get(unit, [unit])
            if members[-1] < group:
                continue  # all of it was computed before the group begins
            for member in members:
                waiting += [self.unit(read) for read in self.reads(member)]
        return False


def _is_supported_anchor(value: Any) -> bool:
    """Whether our kernels know this form of an anchor: NHWC, and constant float32 weights."""
    name, args = dataflow.name(value), value.args
    if not dataflow.has_static_shape(value) or not all(dataflow.is_constant(a) or _is_tensor(a) for a in args[:1]):
        return False
    if name.startswith("bnncc."):
        constants = {"bnncc.xnor_conv2d": args[1:5], "bnncc.conv2d_int8": args[1:3]}.get(name, ())
        return all(dataflow.is_constant(a) for a in constants)
    if str(value.ty.dtype) != "float32" or str(args[0].ty.dtype) != "float32":
        return False
    if name == "nn.conv2d":
        return (
            value.attrs.data_layout == "NHWC" and value.attrs.kernel_layout == "HWIO" and dataflow.is_constant(args[1])
        )
    if name in ("nn.max_pool2d", "nn.avg_pool2d"):
        return value.attrs.layout == "NHWC" and not value.attrs.ceil_mode
    if name == "mean":
        return [int(a) for a in value.attrs.axis or ()] == [1, 2] and len(dataflow.shape(args[0])) == 4
    return len(dataflow.shape(args[0])) == 2 and dataflow.is_constant(args[1]) and len(dataflow.shape(args[1])) == 2


def _is_tensor(value: Any) -> bool:
    return isinstance(value, relax.Var) and isinstance(value.ty, relax.TensorType)


def _why_not_elementwise(value: Any, name: str, operands: list[Any], extents: tuple[int, ...]) -> str:
    """Why a kernel cannot apply this operator to its results in registers; "" if it can."""
    if name == "astype":
        is_exact = str(operands[0].ty.dtype) == "int32" and str(value.ty.dtype) == "float32"
        return "" if is_exact else f"astype from {operands[0].ty.dtype} to {value.ty.dtype}"
    if name not in PACKING and str(value.ty.dtype) != "float32":
        return f"{name} in {value.ty.dtype}"
    if name == "nn.prelu" and int(value.attrs.axis) % len(extents) != len(extents) - 1:
        return "prelu along another axis than the last"
    if any(dataflow.shape(v) != extents for v in operands):
        return f"{name} with an operand that broadcasts over pixels"
    constants = [a for a in value.args if dataflow.is_constant(a)]
    if not extents or not all(is_per_channel(c, extents) for c in constants):
        return f"{name} with a constant that is not one value per channel"
    return ""


class _Build:
    """The module with each group as a function."""

    def __init__(self, module: Any, groups: _Grouping) -> None:
        self._groups = groups
        self._old = module["main"]
        self._builder = relax.BlockBuilder(module)
        self._new: dict[Any, Any] = {}
        main = module.get_global_var("main")
        self._functions: dict[int, tuple[Any, list[Any], list[Any]]] = {}
        for group in groups.members:
            self._functions[group] = self._function(group)
        function = self._main()
        self._builder.update_func(main, function)
        self.module = self._builder.get()

    def _function(self, group: int) -> tuple[Any, list[Any], list[Any]]:
        """The group's function in the module, the operands of its call, and the variables its results stand for."""
        bindings = [self._groups.bindings[index] for index in self._groups.members[group]]
        inner = {binding.var for binding in bindings}
        tensors: list[Any] = []
        constants: list[Any] = []
        for binding in bindings:
            for argument in binding.value.args:
                if isinstance(argument, relax.Var) and argument not in inner and argument not in tensors:
                    tensors.append(argument)
                elif dataflow.is_constant(argument) and dataflow.shape(argument):
                    constants.append(argument)
        results = [binding.var for binding in bindings if self._is_read_outside(binding.var, inner)]
        names = [dataflow.name(binding.value).rpartition(".")[2] for binding in bindings]
        function = _primitive(bindings, tensors, constants, results, self._groups.anchor[group])
        name = "_".join(["fused", *names])[:LONGEST_NAME]
        return self._builder.add_func(function, name), [*tensors, *constants], results

    def _is_read_outside(self, variable: Any, inner: set[Any]) -> bool:
        if not isinstance(variable, relax.DataflowVar):
            return True
        members = [self._groups.bindings[self._groups.position[v]] for v in inner]
        return self._groups.uses[variable] > sum(
            sum(v.same_as(variable) for v in dataflow.variables(binding.value)) for binding in members
        )

    def _main(self) -> Any:
        old, builder = self._old, relax.BlockBuilder(self._builder.get())
        with builder.function("new_main", list(old.params), dataflow.attributes(old)):
            with builder.dataflow():
                for unit in self._order():
                    self._emit(builder, unit)
                result = dataflow.replace(old.body.body, self._new)
            gv = builder.emit_func_output(result)
        return builder.get()[gv].with_attr("global_symbol", "main")

    def _order(self) -> list[int]:
        """Units in an order in which each can be computed, as close to the old one as that allows."""
        groups = self._groups
        units: dict[int, list[int]] = {}
        for index in range(len(groups.bindings)):
            units.setdefault(groups.unit(index), []).append(index)
        needs = {
            unit: {groups.unit(read) for index in members for read in groups.reads(index)} - {unit}
            for unit, members in units.items()
        }
        readers: dict[int, list[int]] = {unit: [] for unit in units}
        for unit, needed in needs.items():
            for other in needed:
                readers[other].append(unit)
        missing = {unit: len(needed) for unit, needed in needs.items()}
        ready = [(units[unit][-1], unit) for unit, count in missing.items() if count == 0]
        heapq.heapify(ready)
        order = []
        while ready:
            unit = heapq.heappop(ready)[1]
            order.append(unit)
            for reader in readers[unit]:
                missing[reader] -= 1
                if missing[reader] == 0:
                    heapq.heappush(ready, (units[reader][-1], reader))
        assert len(order) == len(units), "a cycle between groups"
        return order

    def _emit(self, builder: Any, unit: int) -> None:
        if unit not in self._functions:
            binding = self._groups.bindings[unit]
            self._bind(builder, binding.var, dataflow.replace(binding.value, self._new))
            return
        function, operands, results = self._functions[unit]
        call = relax.Call(function, [self._new.get(o, o) for o in operands], span=self._span(unit))
        if len(results) == 1:
            self._bind(builder, results[0], call)
            return
        packed = builder.emit(call)
        for index, variable in enumerate(results):
            self._bind(builder, variable, relax.TupleGetItem(packed, index))

    def _bind(self, builder: Any, variable: Any, value: Any) -> None:
        inside = isinstance(variable, relax.DataflowVar)
        self._new[variable] = builder.emit(value) if inside else builder.emit_output(value)

    def _span(self, group: int) -> Any:
        """Where the group comes from: its anchor's node, or the first member that knows one."""
        values = [self._groups.bindings[index].value for index in self._groups.members[group]]
        return next((value.span for value in values if spans.name_of(value)), None)


def _primitive(
    bindings: list[Any], tensors: list[Any], constants: list[Any], results: list[Any], anchor: str
) -> relax.Function:
    """A private function that computes the bindings from parameters of its own."""
    parameters = [relax.Var(f"x{i}", value.ty) for i, value in enumerate(tensors)]
    weights = [relax.Var(f"c{i}", value.ty) for i, value in enumerate(constants)]
    mapping = dict(zip(tensors, parameters, strict=True))
    fresh = iter(weights)
    builder = relax.BlockBuilder()
    with builder.function("fused", [*parameters, *weights], {"Primitive": 1, "bnncc.anchor": anchor}, private=True):
        with builder.dataflow():
            for binding in bindings:
                value = binding.value
                operands = [
                    next(fresh) if dataflow.is_constant(a) and dataflow.shape(a) else mapping.get(a, a)
                    for a in value.args
                ]
                call = relax.Call(value.op, operands, value.attrs, value.ty_args, value.span)
                is_result = any(binding.var.same_as(result) for result in results)
                mapping[binding.var] = builder.emit_output(call) if is_result else builder.emit(call)
            outputs = [mapping[result] for result in results]
        builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
    return builder.get()["fused"]
