"""Hand what has no kernel of ours to TVM: each such operator becomes call_tir of the loops TVM defines for it.

They are correct and slow; `inspect` lists them. reshape, transposes between NCHW and NHWC, and the calls of fused
functions stay as they are.

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

from typing import ClassVar

import tvm
from tvm import relax

from bnncc.ops import spans
from bnncc.ops.expressions import dtype, extents, operator
from bnncc.ops.standard import TO_NCHW, TO_NHWC, CallTir, PermuteDims, Reshape
from bnncc.passes import dataflow
from bnncc.passes.contract import Outcome
from bnncc.runtime.errors import ModelError

_KEPT = frozenset({Reshape.OPERATOR, CallTir.OPERATOR})


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
        return Outcome(builder.get() if rewrites else module, rewrites)


def _is_left(value: relax.Expr) -> bool:
    """Whether this is an operator that neither a kernel nor anything else of ours computes."""
    name = operator(value)
    return bool(name) and name not in _KEPT and not _between_layouts(value)


def _legal(builder: relax.BlockBuilder, value: relax.Call) -> relax.Expr:
    legalize = value.op.get_attr("FLegalize")
    result = legalize(builder, value) if legalize is not None else value
    if operator(result) == operator(value):
        node = spans.name_of(value) or "a node"
        raise ModelError(f"{node}: operator {operator(value)} has no static form; export the model with fixed shapes")
    return result


def _between_layouts(value: relax.Expr) -> bool:
    """Whether this transposes images from NCHW to NHWC or back, for which there is a kernel."""
    permuted = PermuteDims.match(value)
    if permuted is None or dtype(value) != "float32" or len(extents(value)) != 4:
        return False
    return permuted.axes in (TO_NHWC, TO_NCHW)
