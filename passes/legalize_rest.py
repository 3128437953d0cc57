"""Hand what has no kernel of ours to TVM: each such operator becomes call_tir of the loops TVM defines for it.

They are correct and slow; `inspect` lists them. reshape, transposes between NCHW and NHWC, and the calls of fused
functions stay as they are. Where TVM's own loops lose a NaN that ONNX keeps (relu, maximum, x - x), they are ours.

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
from typing import Any

import tvm
from tvm import relax, te, tirx, topi

from bnncc.ops import arguments, spans
from bnncc.passes import dataflow
from bnncc.runtime.errors import ModelError

_KEPT = frozenset({"reshape", "call_tir"})


@tvm.transform.module_pass(opt_level=0, name="bnncc.LegalizeRest")
class LegalizeRest:
    """The pass; `rewrites` counts operators, `skipped` names them."""

    def __init__(self) -> None:
        self.rewrites = 0
        self.skipped: list[str] = []

    def transform_module(self, module: tvm.IRModule, context: Any) -> tvm.IRModule:
        main = module["main"]
        block = dataflow.one_block(main)
        if block is None:
            return module
        others = {variable: function for variable, function in module.functions.items() if variable.name_hint != "main"}
        builder = relax.BlockBuilder(tvm.IRModule(others))
        mapping: dict[Any, Any] = {}
        try:
            with builder.function("main", list(main.params), dataflow.attributes(main), private=False):
                with builder.dataflow():
                    for binding in block.bindings:
                        value = self._legal(builder, builder.normalize(dataflow.replace(binding.value, mapping)))
                        inner = isinstance(binding.var, relax.DataflowVar)
                        mapping[binding.var] = builder.emit(value) if inner else builder.emit_output(value)
                    result = dataflow.replace(main.body.body, mapping)
                builder.emit_func_output(result)
        except ModelError:
            with contextlib.suppress(Exception):
                builder._end_block()  # TVM warns about an open block otherwise
            raise
        return builder.get() if self.rewrites else module

    def _legal(self, builder: relax.BlockBuilder, value: Any) -> Any:
        name = dataflow.name(value)
        if not name or name in _KEPT or _between_layouts(value):
            return value
        node = spans.name_of(value) or "a node"
        legalize = _OURS.get(name) or value.op.get_attr("FLegalize")
        try:
            result = legalize(builder, value) if legalize is not None else value
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise ModelError(f"{node}: operator {name} cannot be compiled: {lines[-1].strip()}") from None
        if dataflow.name(result) == name:
            raise ModelError(f"{node}: operator {name} cannot be compiled: TVM has no loops of fixed extents for it")
        self.rewrites += 1
        return result


def _between_layouts(value: Any) -> bool:
    """Whether this transposes images from NCHW to NHWC or back, for which there is a kernel."""
    if dataflow.name(value) != "permute_dims" or str(value.ty.dtype) != "float32" or len(dataflow.shape(value)) != 4:
        return False
    return [int(axis) for axis in value.attrs.axes or ()] in ([0, 2, 3, 1], [0, 3, 1, 2])


def _extreme(op: Callable[..., tirx.PrimExpr], name: str) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
    """maximum or minimum. tirx.max and tirx.min give their second operand where the two do not compare."""

    def legal(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        if not str(call.ty.dtype).startswith("float"):
            return builder.call_te(getattr(topi, name), *call.args, primfunc_name_hint=name)

        def compute(a: te.Tensor, b: te.Tensor) -> te.Tensor:
            extents = list(call.ty.shape.values)
            left, right = topi.broadcast_to(a, extents), topi.broadcast_to(b, extents)
            return te.compute(
                left.shape,
                lambda *at: tirx.Select(tirx.isnan(left(*at)), left(*at), op(left(*at), right(*at))),
                name="compute",
            )

        return builder.call_te(compute, *call.args, primfunc_name_hint=name)

    return legal


def _arithmetic(op: Callable[..., tirx.PrimExpr], name: str) -> Callable[[relax.BlockBuilder, relax.Call], relax.Expr]:
    """subtract, multiply or divide. TVM takes x - x, x * 0 and 0 / x for 0, which they are not for NaN or infinity: a
    fence keeps them."""

    def legal(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        kind = str(call.ty.dtype)
        zeros = [dataflow.is_constant(a) and not arguments.array(a).any() for a in call.args]
        if not kind.startswith("float") or not (any(zeros) or call.args[0].same_as(call.args[1])):
            return builder.call_te(getattr(topi, name), *call.args, primfunc_name_hint=name)
        extents = list(call.ty.shape.values)

        def fenced(x: te.Tensor) -> te.Tensor:
            wide = topi.broadcast_to(x, extents)
            return te.compute(
                extents, lambda *at: tirx.call_llvm_pure_intrin(kind, "llvm.arithmetic.fence", wide(*at)), name="fence"
            )

        def compute(a: te.Tensor, b: te.Tensor) -> te.Tensor:
            left, right = fenced(a), fenced(b)
            return te.compute(extents, lambda *at: op(left(*at), right(*at)), name="compute")

        return builder.call_te(compute, *call.args, primfunc_name_hint=name)

    return legal


def _relu(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    def compute(x: te.Tensor) -> te.Tensor:
        zero = tirx.const(0, str(call.ty.dtype))
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
