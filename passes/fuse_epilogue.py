"""Group each convolution, product or pool with everything that can run on its results in registers: one kernel each.

A group has one anchor (or none) and the elementwise operators that follow it on tensors of the anchor's output shape,
their other operands being constants per channel or tensors that are ready before the anchor; then the packing of its
results, and a border of constant bits around them. A value that others read too is an output: one kernel writes the
float residual and the packed signs of the next layer in the same pass. A sum of two branches belongs to the later one.
Interactions of channels join the binary convolution whose accumulators they change.

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

Refuses: operators it does not know (softmax, concat, permute_dims, ...), which TVM lowers one by one, tensors of other
ranks than 2 and 4, operands that broadcast over pixels, packing into groups of channels that do not start at bytes,
which is done afterwards, and interactions of channels whose sums pass 16 bits or are read elsewhere too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import tvm
from tvm import relax

from bnncc import bitpack
from bnncc.kernels.interacted_conv2d import why_not
from bnncc.ops import elementwise, spans
from bnncc.ops.channel_interaction import ChannelInteraction
from bnncc.ops.conv2d_int8 import Conv2dInt8
from bnncc.ops.expressions import array, dtype, extents, is_constant, is_per_channel, operator
from bnncc.ops.or_pool2d import OrPool2d
from bnncc.ops.pack import Pack, Packing
from bnncc.ops.pad_bits import PadBits
from bnncc.ops.quantize import Quantize
from bnncc.ops.standard import Astype, AvgPool2d, Conv2d, Matmul, MaxPool2d, Mean
from bnncc.ops.threshold import Threshold
from bnncc.ops.xnor_conv2d import XnorConv2d
from bnncc.passes import dataflow, late_sums, merge_convs
from bnncc.passes.contract import Outcome
from bnncc.tir.epilogue import BitLayout, can_pack

LONGEST_NAME = 120


@dataclass(frozen=True, kw_only=True)
class FuseEpilogue:
    """The pass. lanes: of the vectors that count bits, see merge_convs.py."""

    name: ClassVar[str] = "bnncc.FuseEpilogue"

    lanes: int

    def __call__(self, module: tvm.IRModule) -> Outcome:
        groups = _Grouping(module["main"])
        merge_convs.merge(groups, self.lanes)
        late_sums.sink(groups)
        fused = _Build(module, groups).module if groups.members else module
        return Outcome(fused, len(groups.members), tuple(groups.refused))


class _Grouping:
    """Which bindings of the block go together. Bindings are known by their position in the block."""

    def __init__(self, function: relax.Function) -> None:
        self.bindings = dataflow.bindings(function)
        self.position = {binding.var: index for index, binding in enumerate(self.bindings)}
        self.uses = dataflow.count_uses(function)
        self.members: dict[int, list[int]] = {}  # group (the position of its first member) -> positions
        self.anchor: dict[int, str] = {}
        self.group_of: dict[int, int] = {}
        self.refused: list[str] = []
        for index, binding in enumerate(self.bindings):
            self._place(index, binding.value)

    def reads(self, index: int) -> set[int]:
        """Positions of the bindings that a binding reads."""
        return {self.position[v] for v in dataflow.variables(self.bindings[index].value) if v in self.position}

    def unit(self, index: int) -> int:
        """The group of a binding, or the binding itself."""
        return self.group_of.get(index, index)

    def needs(self, unit: int) -> set[int]:
        """The units that a unit reads."""
        members = self.members.get(unit, [unit])
        return {self.unit(read) for index in members for read in self.reads(index)} - {unit}

    def _place(self, index: int, value: relax.Expr) -> None:
        if _is_anchor(value):
            self._begin(index, operator(value).rpartition(".")[2])
        elif packing := _packing(value):
            self._follow(index, value, extents(packing.values))
        elif interaction := ChannelInteraction.match(value):
            self._interact(index, interaction)
        elif cast := Astype.match(value):
            self._follow(index, value, extents(cast.x))
        elif padding := PadBits.match(value):
            source = self.position.get(padding.bits)
            packer = self.bindings[source].value if source is not None else None
            can_join = packer is not None and (_packing(packer) or OrPool2d.match(packer))
            if source is not None and can_join and self.uses[padding.bits] == 1 and source in self.group_of:
                self._join(index, self.group_of[source])
            else:
                self._begin(index, "pad_bits")
        else:
            operation = elementwise.find(value)
            if operation is not None and operation.emit is not None:
                self._follow(index, value, extents(value))

    def _begin(self, index: int, anchor: str) -> None:
        self.members[index], self.anchor[index], self.group_of[index] = [index], anchor, index

    def _join(self, index: int, group: int) -> None:
        self.members[group].append(index)
        self.group_of[index] = group

    def _follow(self, index: int, value: relax.Call, shape: tuple[int, ...]) -> None:
        """Join the latest group among the operands that can take it; begin one where none can. shape: of the values
        that it works on."""
        operands = [v for v in value.args if isinstance(v, relax.Var)]
        reason = _why_not(value, operands, shape)
        if reason:
            self.refused.append(f"{spans.name_of(value) or operator(value)}: {reason}")
            return
        sources = {self.position[v] for v in operands if v in self.position}
        packing = _packing(value)
        for group in sorted({self.group_of[s] for s in sources if s in self.group_of}, reverse=True):
            outside = [s for s in sources if self.unit(s) != group]
            fits = self._extents(group) == shape and (packing is None or self._packs(group, packing))
            if fits and not any(self._depends(s, group) for s in outside):
                self._join(index, group)
                return
        if not Astype.match(value):
            self._begin(index, "none")

    def _interact(self, index: int, interaction: ChannelInteraction) -> None:
        """Join the convolution whose accumulators these are, as long as nothing else reads them."""
        source = self.position.get(interaction.acc)
        group = self.group_of.get(source) if source is not None else None
        if source is None or group is None or (conv := XnorConv2d.match(self.bindings[group].value)) is None:
            return
        members = [self.bindings[member].value for member in self.members[group][1:]]
        if source != self.members[group][-1] or not all(ChannelInteraction.match(member) for member in members):
            return
        rounds = [ChannelInteraction.of(member) for member in [*members, interaction.call]]
        tables = [(array(each.up), array(each.down)) for each in rounds]
        most = conv.bit_weight * 8 * int(np.prod(extents(conv.weights)[1:]))
        if self.uses[interaction.acc] > 1:
            reason = "what it reads has another reader"
        else:
            width = extents(conv.call)[2]
            reason = why_not(tables, array(conv.offset), most, width=width, groups=conv.groups)
        if not reason:
            self._join(index, group)
            return
        self.refused.append(f"{spans.name_of(interaction.call) or 'channel interaction'}: {reason}")

    def _packs(self, group: int, packing: Packing) -> bool:
        """Whether the group's kernel can pack into this layout from registers. A layout whose groups of channels do
        not start at bytes gets a kernel of its own."""
        anchor = self.bindings[group].value
        channels, groups = extents(packing.values)[-1], packing.groups
        layout = BitLayout(channels, groups, bitpack.packed_bytes(channels // groups, packing.word_bytes))
        conv = XnorConv2d.match(anchor) or Conv2d.match(anchor)
        return can_pack(layout, conv.groups if conv else 1)

    def _extents(self, group: int) -> tuple[int, ...] | None:
        """The shape of a group's results before packing; None for a group of packed bits alone."""
        value = self.bindings[group].value
        if packing := _packing(value):
            return extents(packing.values)
        return None if dtype(value) == "uint8" else extents(value)

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


def _packing(value: relax.Expr) -> Packing | None:
    return Pack.match(value) or Threshold.match(value)


def _is_anchor(value: relax.Expr) -> bool:
    """Whether this begins a group: an operator with a kernel, in the form that the kernel knows, which is NHWC and
    constant weights."""
    if conv := XnorConv2d.match(value):
        return all(is_constant(c) for c in (conv.weights, conv.offset, conv.row_class, conv.col_class))
    if integers := Conv2dInt8.match(value):
        return is_constant(integers.weights) and is_constant(integers.bias)
    if OrPool2d.match(value) or Quantize.match(value):
        return True
    if floats := Conv2d.match(value):
        layouts = (floats.data_layout, floats.kernel_layout)
        return _is_float(floats.x, value) and layouts == ("NHWC", "HWIO") and is_constant(floats.weights)
    if pool := MaxPool2d.match(value) or AvgPool2d.match(value):
        return _is_float(pool.x, value) and pool.layout == "NHWC" and not pool.ceil_mode
    if mean := Mean.match(value):
        return _is_float(mean.x, value) and mean.axes == (1, 2) and len(extents(mean.x)) == 4
    if product := Matmul.match(value):
        is_matrix = _is_float(product.x, value) and len(extents(product.x)) == 2
        return is_matrix and is_constant(product.weights) and len(extents(product.weights)) == 2
    return False


def _is_float(x: relax.Expr, result: relax.Expr) -> bool:
    return dataflow.has_static_shape(result) and dtype(x) == dtype(result) == "float32"


def _why_not(value: relax.Call, operands: list[relax.Var], shape: tuple[int, ...]) -> str:
    """Why a kernel cannot apply this operator to its results in registers; "" if it can."""
    name = operator(value)
    if cast := Astype.match(value):
        is_exact = (cast.source, cast.target) == ("int32", "float32")
        return "" if is_exact else f"astype from {cast.source} to {cast.target}"
    if not _packing(value) and dtype(value) != "float32":
        return f"{name} in {dtype(value)}"
    if len(shape) not in (2, 4):
        return f"{name} on a tensor of {len(shape)} dimensions; kernels take 2 and 4"
    if any(extents(v) != shape for v in operands):
        return f"{name} with an operand that broadcasts over pixels"
    constants = [a for a in value.args if is_constant(a)]
    if not elementwise.is_last_axis(value) or not all(is_per_channel(c, shape) for c in constants):
        return f"{name} with a constant that is not one value per channel"
    return ""


class _Fused(NamedTuple):
    """A group's function in the module, the operands of its call, and the variables its results stand for."""

    function: tvm.ir.GlobalVar
    operands: list[relax.Expr]
    results: list[relax.Var]


class _Build:
    """The module with each group as a function."""

    def __init__(self, module: tvm.IRModule, groups: _Grouping) -> None:
        self._groups = groups
        self._old = module["main"]
        self._builder = relax.BlockBuilder(module)
        self._new: dict[relax.Var, relax.Expr] = {}
        main = module.get_global_var("main")
        self._functions: dict[int, _Fused] = {}
        for group in groups.members:
            self._functions[group] = self._function(group)
        function = self._main()
        self._builder.update_func(main, function)
        self.module = self._builder.get()

    def _function(self, group: int) -> _Fused:
        bindings = [self._groups.bindings[index] for index in self._groups.members[group]]
        inner = {binding.var for binding in bindings}
        tensors: list[relax.Var] = []
        constants: list[relax.Expr] = []
        for binding in bindings:
            for argument in binding.value.args:
                if isinstance(argument, relax.Var) and argument not in inner and argument not in tensors:
                    tensors.append(argument)
                elif is_constant(argument) and extents(argument):
                    constants.append(argument)
        results = [binding.var for binding in bindings if self._is_read_outside(binding.var, inner)]
        names = [operator(binding.value).rpartition(".")[2] for binding in bindings]
        function = _primitive(bindings, tensors, constants, results, self._groups.anchor[group])
        name = "_".join(["fused", *names])[:LONGEST_NAME]
        return _Fused(self._builder.add_func(function, name), [*tensors, *constants], results)

    def _is_read_outside(self, variable: relax.Var, inner: set[relax.Var]) -> bool:
        if not isinstance(variable, relax.DataflowVar):
            return True
        members = [self._groups.bindings[self._groups.position[v]] for v in inner]
        return self._groups.uses[variable] > sum(
            sum(v.same_as(variable) for v in dataflow.variables(binding.value)) for binding in members
        )

    def _main(self) -> relax.Function:
        old, builder = self._old, relax.BlockBuilder(self._builder.get())
        with builder.function("new_main", list(old.params), dataflow.attributes(old)):
            with builder.dataflow():
                for unit in self._order():
                    self._emit(builder, unit)
                result = dataflow.replace(old.body.body, self._new)
            gv = builder.emit_func_output(result)
        return builder.get()[gv].with_attr("global_symbol", "main")

    def _order(self) -> list[int]:
        """Units in an order in which each can be computed: next comes what the last one made ready, whose input is in
        cache then, so branches run one after the other whichever way the source goes through them."""
        groups = self._groups
        units = sorted({groups.unit(index) for index in range(len(groups.bindings))})
        needs = {unit: groups.needs(unit) for unit in units}
        readers: dict[int, list[int]] = {unit: [] for unit in units}
        for unit, needed in needs.items():
            for other in needed:
                readers[other].append(unit)
        missing = {unit: len(needed) for unit, needed in needs.items()}
        ready = [unit for unit in reversed(units) if missing[unit] == 0]  # the last of them is next
        order = []
        while ready:
            unit = ready.pop()
            order.append(unit)
            for reader in readers[unit]:
                missing[reader] -= 1
            ready += [reader for reader in reversed(readers[unit]) if missing[reader] == 0]
        assert len(order) == len(units), "a cycle between groups"
        return order

    def _emit(self, builder: relax.BlockBuilder, unit: int) -> None:
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

    def _bind(self, builder: relax.BlockBuilder, variable: relax.Var, value: relax.Expr) -> None:
        inside = isinstance(variable, relax.DataflowVar)
        self._new[variable] = builder.emit(value) if inside else builder.emit_output(value)

    def _span(self, group: int) -> tvm.ir.Span | None:
        """Where the group comes from: its anchor's node, or the first member that knows one."""
        values = [self._groups.bindings[index].value for index in self._groups.members[group]]
        return next((value.span for value in values if spans.name_of(value)), None)


def _primitive(
    bindings: list[relax.Binding],
    tensors: list[relax.Var],
    constants: list[relax.Expr],
    results: list[relax.Var],
    anchor: str,
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
                operands = [next(fresh) if is_constant(a) and extents(a) else mapping.get(a, a) for a in value.args]
                call = relax.Call(value.op, operands, value.attrs, value.ty_args, value.span)
                is_result = any(binding.var.same_as(result) for result in results)
                mapping[binding.var] = builder.emit_output(call) if is_result else builder.emit(call)
            outputs = [mapping[result] for result in results]
        builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
    return builder.get()["fused"]
