"""Drop a positive scale, or a zero bias, that feeds a sign.

sign(s * x) = sign(x) for s > 0, unless s * x underflows: a negative x with s * x = -0 would count as +1. So s must be
at least 1, or x an exact integer (a binary convolution), for which |s * x| >= s. sign(x + 0) = sign(x).

Before::

    @R.function
    def main(x: R.Tensor((1, 64), "float32")):
        with R.dataflow():
            y = R.multiply(x, R.const(2.0, "float32"))
            z = R.add(y, R.const(0.0, "float32"))
            w = R.bnncc.binarize(z, 0, 0.0)
            R.output(w)
        return w

After::

    @R.function
    def main(x: R.Tensor((1, 64), "float32")):
        with R.dataflow():
            w = R.bnncc.binarize(x, 0, 0.0)
            R.output(w)
        return w

Refuses: scales that are zero or negative (a sign flips), scales below 1 on real numbers, {0, 1} with a threshold.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from bnncc.ops import spans
from bnncc.ops.binarize import Binarize
from bnncc.ops.binary_conv2d import BinaryConv2d
from bnncc.ops.channel_interaction import ChannelInteraction
from bnncc.ops.expressions import array, extents, is_constant, operator
from bnncc.ops.standard import Add, MaxPool2d, Multiply, PermuteDims, Reshape
from bnncc.passes import dataflow

# Exact integers, and sums of them, whatever moves them or adds integers to them.
INTEGER = frozenset({BinaryConv2d.OPERATOR, Binarize.OPERATOR})
MOVING = frozenset({MaxPool2d.OPERATOR, PermuteDims.OPERATOR, Reshape.OPERATOR, ChannelInteraction.OPERATOR, "nn.relu"})


class DropScaleBeforeSign(dataflow.LocalPass):
    name = "bnncc.DropScaleBeforeSign"

    def visit(self, block: dataflow.Block, value: relax.Expr) -> relax.Expr | None:
        sign = Binarize.match(value)
        if sign is None or sign.threshold != 0:
            return None
        source, dropped = sign.x, 0
        while (x := _without_scale(block, source, spans.name_of(value))) is not None:
            source, dropped = x, dropped + 1
        if not dropped:
            return None
        block.rewrites += dropped
        return dataflow.on(value, source)


def _without_scale(block: dataflow.Block, source: relax.Expr, place: str) -> relax.Expr | None:
    """The x of s * x or x + 0, where the sign does not change; else None."""
    value = block.value(source)
    call = Multiply.match(value) or Add.match(value)
    if call is None or is_constant(call.a) == is_constant(call.b):
        return None
    x, constant = (call.b, call.a) if is_constant(call.a) else (call.a, call.b)
    if extents(x) != extents(value):
        return None
    values = array(constant)
    if isinstance(call, Add):
        return x if (values == 0).all() else None
    if not (values > 0).all():
        block.refused.append(f"{place}: {int((~(values > 0)).sum())} scales are not positive")
    elif not np.isfinite(values).all():
        block.refused.append(f"{place}: an infinite scale, which makes NaN of 0")
    elif (values < 1).any() and not _is_integer(block, x):
        block.refused.append(f"{place}: a scale of {values.min()} on real numbers can underflow to zero")
    else:
        return x
    return None


def _is_integer(block: dataflow.Block, source: relax.Expr) -> bool:
    """Whether every value is an integer, by where it comes from."""
    value = block.value(source)
    while operator(value) in MOVING:
        value = block.value(value.args[0])
    return operator(value) in INTEGER
