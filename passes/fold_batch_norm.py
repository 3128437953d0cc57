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

Refuses: batch norm in training mode, and parameters that are not constants.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from bnncc.ops import spans
from bnncc.ops.expressions import array, is_constant
from bnncc.ops.standard import BatchNorm
from bnncc.passes import dataflow


class FoldBatchNorm(dataflow.LocalPass):
    name = "bnncc.FoldBatchNorm"

    def visit(self, block: dataflow.Block, value: relax.Expr) -> relax.Expr | None:
        if not isinstance(value, relax.TupleGetItem) or value.index != 0:
            return None
        norm = BatchNorm.match(block.value(value.tuple_value))
        if norm is None:
            return None
        place = spans.name_of(norm.call)
        if norm.training:
            block.refused.append(f"{place}: batch norm in training mode")
            return None
        if not all(is_constant(parameter) for parameter in (norm.gamma, norm.beta, norm.mean, norm.variance)):
            block.refused.append(f"{place}: batch norm with parameters computed at run time")
            return None
        return _rewrite(block, norm)


def _rewrite(block: dataflow.Block, norm: BatchNorm) -> relax.Expr:
    gamma, beta, mean, variance = (array(p) for p in (norm.gamma, norm.beta, norm.mean, norm.variance))
    one = np.float32(1)
    scale = one / np.sqrt(variance + np.float32(norm.epsilon)) * (gamma if norm.scale else one)
    bias = (beta if norm.center else np.float32(0)) - mean * scale
    channels = [1] * int(norm.x.ty.ndim)
    channels[norm.axis] = -1
    block.rewrites += 1
    span = norm.call.span
    scaled = block.emit(
        spans.marked(relax.op.multiply(norm.x, relax.const(scale.astype(np.float32).reshape(channels))), span)
    )
    return spans.marked(relax.op.add(scaled, relax.const(bias.astype(np.float32).reshape(channels))), span)
