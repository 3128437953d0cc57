"""Make the inputs of float convolutions outputs of the network, after its own: what calibration has to see.

The convolutions are those of `float_convs`, in order, so that QuantizeConvs at the same place of the pipeline means the
same ones by the same numbers.

Before::

    @R.function
    def main(x: R.Tensor((1, 4, 4, 8), "float32"), w: R.Tensor((1, 1, 8, 8), "float32")):
        with R.dataflow():
            y = R.nn.relu(x)
            z = R.nn.conv2d(y, w, data_layout="NHWC", kernel_layout="HWIO")
            R.output(z)
        return z

After::

    @R.function
    def main(x: R.Tensor((1, 4, 4, 8), "float32"), w: R.Tensor((1, 1, 8, 8), "float32")):
        with R.dataflow():
            y = R.nn.relu(x)
            z = R.nn.conv2d(y, w, data_layout="NHWC", kernel_layout="HWIO")
            R.output(y, z)
        return (z, y)
"""

from __future__ import annotations

from typing import ClassVar

import tvm
from tvm import relax

from bnncc.ops.standard import Conv2d
from bnncc.passes import dataflow
from bnncc.passes.contract import Outcome


def float_conv(value: relax.Expr) -> Conv2d | None:
    """`value` if it is a convolution of an NHWC image in float32."""
    conv = Conv2d.match(value)
    return conv if conv is not None and conv.data_layout == "NHWC" else None


def float_convs(function: relax.Function) -> list[Conv2d]:
    """The float convolutions in `function`, in order: calibrated ranges are given by their positions."""
    convs = [float_conv(binding.value) for binding in dataflow.bindings(function)]
    return [conv for conv in convs if conv is not None]


class WatchConvs:
    """The pass; its rewrites are the outputs it adds."""

    name: ClassVar[str] = "bnncc.WatchConvs"

    def __call__(self, module: tvm.IRModule) -> Outcome:
        function = module["main"]
        watched = [conv.x for conv in float_convs(function)]
        if not watched:
            return Outcome(module)
        outputs = [*_outputs(function), *watched]
        builder = relax.BlockBuilder()
        mapping: dict[relax.Var, relax.Expr] = {}
        with builder.function("main", list(function.params), dataflow.attributes(function), private=False):
            with builder.dataflow():
                for binding in dataflow.bindings(function):
                    value = dataflow.replace(binding.value, mapping)
                    inner = isinstance(binding.var, relax.DataflowVar) and binding.var not in outputs
                    mapping[binding.var] = builder.emit(value) if inner else builder.emit_output(value)
            builder.emit_func_output(relax.Tuple([dataflow.replace(output, mapping) for output in outputs]))
        main = relax.analysis.remove_all_unused(builder.get()["main"])
        return Outcome(dataflow.with_main(module, main), len(watched))


def _outputs(function: relax.Function) -> list[relax.Expr]:
    """What the function returns, one by one, even where it has a name for all of them."""
    result = function.body.body
    values = {binding.var: binding.value for binding in dataflow.bindings(function)}
    result = values[result] if isinstance(values.get(result), relax.Tuple) else result
    return list(result.fields) if isinstance(result, relax.Tuple) else [result]
