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

from typing import Any

from tvm import relax

from bnncc.passes import dataflow


def float_convs(function: Any) -> list[Any]:
    """The calls of nn.conv2d on NHWC images in `function`, in order: calibrated ranges are given by their positions."""
    block = dataflow.one_block(function)
    values = [binding.value for binding in block.bindings] if block is not None else []
    return [v for v in values if dataflow.is_call(v, "nn.conv2d") and v.attrs.data_layout == "NHWC"]


@relax.transform.function_pass(opt_level=0, name="bnncc.WatchConvs")
class WatchConvs:
    """The pass; `rewrites` counts the outputs it adds."""

    def __init__(self) -> None:
        self.skipped: list[str] = []
        self.rewrites = 0

    def transform_function(self, function: Any, module: Any, context: Any) -> Any:
        watched = [call.args[0] for call in float_convs(function)]
        if not watched:
            return function
        self.rewrites += len(watched)
        outputs = [*_outputs(function), *watched]
        builder = relax.BlockBuilder()
        mapping: dict[Any, Any] = {}
        with builder.function("main", list(function.params), dataflow.attributes(function), private=False):
            with builder.dataflow():
                for binding in dataflow.one_block(function).bindings:
                    value = dataflow.replace(binding.value, mapping)
                    inner = isinstance(binding.var, relax.DataflowVar) and binding.var not in outputs
                    mapping[binding.var] = builder.emit(value) if inner else builder.emit_output(value)
            builder.emit_func_output(relax.Tuple([dataflow.replace(output, mapping) for output in outputs]))
        return relax.analysis.remove_all_unused(builder.get()["main"])


def _outputs(function: Any) -> list[Any]:
    """What the function returns, one by one, even where it has a name for all of them."""
    result = function.body.body
    values = {binding.var: binding.value for binding in dataflow.one_block(function).bindings}
    result = values[result] if isinstance(values.get(result), relax.Tuple) else result
    return list(result.fields) if isinstance(result, relax.Tuple) else [result]
