"""Batch norm with known statistics is a scale and a bias per channel.

scale = 1 / sqrt(variance + epsilon) * gamma        bias = beta - mean * scale

in float32 and in this order, which is how onnxruntime computes it: the results are equal bit for bit, and the
thresholds folded from them later as well.

Before::

    @R.function
    def main(x: R.Tensor((1, 1, 4, 4), "float32")):
        with R.dataflow():
            y = R.nn.batch_norm(x, R.const([2.0], "float32"), R.const([1.0], "float32"), R.const([3.0], "float32"),
                                R.const([3.0], "float32"), axis=1, epsilon=1.0, training=False)
            z = y[0]
            R.output(z)
        return z

After::

    @R.function
    def main(x: R.Tensor((1, 1, 4, 4), "float32")):
        with R.dataflow():
            y = R.multiply(x, R.const([[[[1.0]]]], "float32"))
            z = R.add(y, R.const([[[[-2.0]]]], "float32"))
            R.output(z)
        return z

Leaves alone: batch norm in training mode, and parameters that are not constants.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from bnncc.ops import arguments, spans
from bnncc.passes import dataflow


@relax.transform.function_pass(opt_level=0, name="bnncc.FoldBatchNorm")
class FoldBatchNorm(dataflow.LocalPass):
    def _visit(self, block: dataflow.Block, value: Any) -> Any:
        if not isinstance(value, relax.TupleGetItem) or value.index != 0:
            return None
        norm = block.call(value.tuple_value, "nn.batch_norm")
        if norm is None or not self._check(norm):
            return None
        return self._rewrite(block, norm)

    def _check(self, norm: Any) -> bool:
        if norm.attrs.training:
            self.skipped.append(f"{spans.name_of(norm)}: batch norm in training mode")
        elif not all(dataflow.is_constant(argument) for argument in norm.args[1:]):
            self.skipped.append(f"{spans.name_of(norm)}: batch norm with parameters computed at run time")
        else:
            return True
        return False

    def _rewrite(self, block: dataflow.Block, norm: Any) -> Any:
        gamma, beta, mean, variance = (arguments.array(argument) for argument in norm.args[1:])
        one = np.float32(1)
        scale = one / np.sqrt(variance + np.float32(norm.attrs.epsilon)) * (gamma if norm.attrs.scale else one)
        bias = (beta if norm.attrs.center else np.float32(0)) - mean * scale
        x = norm.args[0]
        channels = [1] * int(x.ty.ndim)
        channels[int(norm.attrs.axis)] = -1
        scale, bias = (array.astype(np.float32).reshape(channels) for array in (scale, bias))
        self.rewrites += 1
        scaled = block.emit(spans.marked(relax.op.multiply(x, relax.const(scale)), norm.span))
        return spans.marked(relax.op.add(scaled, relax.const(bias)), norm.span)
