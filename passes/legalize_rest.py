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

from typing import Any

import tvm
from tvm import relax

from bnncc.ops import spans
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
        with builder.function("main", list(main.params), dataflow.attributes(main), private=False):
            with builder.dataflow():
                for binding in block.bindings:
                    value = self._legal(builder, builder.normalize(dataflow.replace(binding.value, mapping)))
                    inner = isinstance(binding.var, relax.DataflowVar)
                    mapping[binding.var] = builder.emit(value) if inner else builder.emit_output(value)
                result = dataflow.replace(main.body.body, mapping)
            builder.emit_func_output(result)
        return builder.get() if self.rewrites else module

    def _legal(self, builder: relax.BlockBuilder, value: Any) -> Any:
        name = dataflow.name(value)
        if not name or name in _KEPT or _between_layouts(value):
            return value
        legalize = value.op.get_attr("FLegalize")
        result = legalize(builder, value) if legalize is not None else value
        if dataflow.name(result) == name:
            node = spans.name_of(value) or "a node"
            raise ModelError(f"{node}: operator {name} has no static form; export the model with fixed shapes")
        self.rewrites += 1
        return result


def _between_layouts(value: Any) -> bool:
    """Whether this transposes images from NCHW to NHWC or back, for which there is a kernel."""
    if dataflow.name(value) != "permute_dims" or str(value.ty.dtype) != "float32" or len(dataflow.shape(value)) != 4:
        return False
    return [int(axis) for axis in value.attrs.axes or ()] in ([0, 2, 3, 1], [0, 3, 1, 2])
