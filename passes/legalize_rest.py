"""Hand what has no kernel of ours to TVM: each such operator becomes call_tir of the loops TVM defines for it.

They are correct and slow; `inspect` lists them. reshape, transposes between NCHW and NHWC, checks of
indices, and the calls of fused functions stay as they are. Where TVM's own loops lose a NaN
that ONNX keeps, they are ours.

Before::

    @R.function
    def main(x: R.Tensor((1, 4), "float32")):
        with R.dataflow():
            gv = R.sqrt(x)
            R.output(gv)
        return gv

After::

    @T.prim_func(private=True, s_tir=True)
    def tir_sqrt(x: T.Buffer((T.int64(1), T.int64(4)), "float32"),
                 compute: T.Buffer((T.int64(1), T.int64(4)), "float32")):
        T.func_attr({"tirx.noalias": True})
        for i0, i1 in T.grid(T.int64(1), T.int64(4)):
            with T.sblock("compute"):
                v_i0, v_i1 = T.axis.remap("SS", [i0, i1])
                T.reads(x[v_i0, v_i1])
                T.writes(compute[v_i0, v_i1])
                compute[v_i0, v_i1] = T.sqrt(x[v_i0, v_i1])

    @R.function
    def main(x: R.Tensor((1, 4), "float32")):
        cls = Module
        with R.dataflow():
            gv = R.call_tir(cls.tir_sqrt, (x,), out_ty=R.Tensor((1, 4), "float32"))
            R.output(gv)
        return gv
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import ClassVar

import tvm
from tvm import relax, te, tirx, topi

from bnncc.ops import spans
from bnncc.ops.check_indices import CheckIndices
from bnncc.ops.expressions import array, dtype, extents, is_constant, operator
from bnncc.ops.standard import TO_NCHW, TO_NHWC, CallTir, PermuteDims, Reshape
from bnncc.passes import dataflow
from bnncc.passes.contract import Outcome
from bnncc.runtime.errors import ModelError

_KEPT = frozenset({Reshape.OPERATOR, CallTir.OPERATOR, CheckIndices.OPERATOR})


class LegalizeRest:
    """The pass; its rewrites are operators."""

    name: ClassVar[str] = "bnncc.LegalizeRest"

    def __call__(self, module: tvm.IRModule) -> Outcome:
        main = module["main"]
        if dataflow.one_block(main) is None:
            return Outcome(module)
        others = {variable: function for variable, function in module.functions.items() if variable.name_hint != "main"}
        builder = relax.BlockBuilder(tvm.IRModule(others))
        mapping: dict[relax.Var, relax.Expr] = {}
        rewrites = 0
        try:
            with builder.function("main", list(main.params), dataflow.attributes(main), private=False):
                with builder.dataflow():
                    for binding in dataflow.bindings(main):
                        value = builder.normalize(dataflow.replace(binding.value, mapping))
                        if _is_left(value):
                            value, rewrites = _legal(builder, value), rewrites + 1
                        inner = isinstance(binding.var, relax.DataflowVar)
                        mapping[binding.var] = builder.emit(value) if inner else builder.emit_output(value)
                    result = dataflow.replace(main.body.body, mapping)
                builder.emit_func_output(result)
        except ModelError:
            with contextlib.suppress(Exception):
                builder._end_block()  # TVM warns about an open block otherwise
            raise
        return Outcome(builder.get() if rewrites else module, rewrites)


def _is_left(value: relax.Expr) -> bool:
    """Whether this is an operator that neither a kernel nor anything else of ours computes."""
    name = operator(value)
    return bool(name) and name not in _KEPT and not _between_layouts(value)


def _legal(builder: relax.BlockBuilder, value: relax.Call) -> relax.Expr:
    node, name = spans.name_of(value) or "a node", operator(value)
    legalize = _OURS.get(name) or value.op.get_attr("FLegalize")
    try:
        result = legalize(builder, value) if legalize is not None else value
    except Exception as error:  # whatever TVM raises
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise ModelError(f"{node}: operator {name} cannot be compiled: {lines[-1].strip()}") from None
    if operator(result) == name:
        raise ModelError(f"{node}: operator {name} cannot be compiled: TVM has no loops of fixed extents for it")
    return result


def _between_layouts(value: relax.Expr) -> bool:
    """Whether this transposes images from NCHW to NHWC or back, for which there is a kernel."""
    permuted = PermuteDims.match(value)
    if permuted is None or dtype(value) != "float32" or len(extents(value)) != 4:
        return False
    return permuted.axes in (TO_NHWC, TO_NCHW)


def _extreme(op: Callable[..., tirx.Expr], name: str) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
    """maximum or minimum. tirx.max and tirx.min give their second operand where the two do not compare."""

    def legal(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        if not dtype(call).startswith("float"):
            return builder.call_te(getattr(topi, name), *call.args, primfunc_name_hint=name)

        def compute(a: te.Tensor, b: te.Tensor) -> te.Tensor:
            shape = list(extents(call))
            left, right = topi.broadcast_to(a, shape), topi.broadcast_to(b, shape)
            return te.compute(
                left.shape,
                lambda *at: tirx.Select(tirx.isnan(left(*at)), left(*at), op(left(*at), right(*at))),
                name="compute",
            )

        return builder.call_te(compute, *call.args, primfunc_name_hint=name)

    return legal


def _arithmetic(op: Callable[..., tirx.Expr], name: str) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
    """subtract, multiply or divide. TVM takes x - x, x * 0 and 0 / x for 0, which they are not for NaN or infinity: a
    fence keeps them."""

    def legal(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        kind = dtype(call)
        zeros = [is_constant(a) and not array(a).any() for a in call.args]
        if not kind.startswith("float") or not (any(zeros) or call.args[0].same_as(call.args[1])):
            return builder.call_te(getattr(topi, name), *call.args, primfunc_name_hint=name)
        shape = list(extents(call))

        def fenced(x: te.Tensor) -> te.Tensor:
            wide = topi.broadcast_to(x, shape)
            return te.compute(
                shape, lambda *at: tirx.call_llvm_pure_intrin(kind, "llvm.arithmetic.fence", wide(*at)), name="fence"
            )

        def compute(a: te.Tensor, b: te.Tensor) -> te.Tensor:
            left, right = fenced(a), fenced(b)
            return te.compute(shape, lambda *at: op(left(*at), right(*at)), name="compute")

        return builder.call_te(compute, *call.args, primfunc_name_hint=name)

    return legal


def _relu(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def compute(x: te.Tensor) -> te.Tensor:
        zero = tirx.const(0, dtype(call))
        return te.compute(x.shape, lambda *at: tirx.max(zero, x(*at)), name="compute")

    return builder.call_te(compute, call.args[0], primfunc_name_hint="relu")


_OURS: dict[str, Callable[[relax.BlockBuilder, relax.Call], relax.Expr]] = {
    "maximum": _extreme(tirx.max, "maximum"),
    "minimum": _extreme(tirx.min, "minimum"),
    "nn.relu": _relu,
    "subtract": _arithmetic(lambda a, b: a - b, "subtract"),
    "multiply": _arithmetic(lambda a, b: a * b, "multiply"),
    "divide": _arithmetic(lambda a, b: a / b, "divide"),
}
