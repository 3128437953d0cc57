"""Take the sign before max-pooling: the pool then works on bits, where it is a bitwise OR.

binarize(max_pool(x)) = max_pool(binarize(x)), since binarize never falls. The same holds for what stands between pool
and sign if it never falls either, in float32 too, where rounding is monotone: scales >= 0, biases, clamps, PReLU with
slopes >= 0. In channels with a negative scale the function falls and the maximum becomes a minimum; with s = -1 there
and s = +1 elsewhere, for signs

    binarize(f(max_pool(x))) = s * max_pool(s * binarize(f(x)))

and for {0, 1}, where 1 - b stands for -b, s * b + (1 - s) / 2 in place of s * b: where f falls, the pool of bits is an
AND. Whatever scales there are before the pool, only f decides.

The inner s vanishes in the threshold, the outer one in the weights of the next convolution. What stands between is
moved only after a binary convolution, where it vanishes too; elsewhere it would run on more pixels for nothing.

Before::

    @R.function
    def main(x: R.Tensor((1, 4, 4, 8), "float32")):
        with R.dataflow():
            y = R.nn.max_pool2d(x, pool_size=[2, 2], strides=[2, 2], padding=[0, 0, 0, 0], layout="NHWC")
            z = R.bnncc.binarize(y, 0, 0.0)
            R.output(z)
        return z

After::

    @R.function
    def main(x: R.Tensor((1, 4, 4, 8), "float32")):
        with R.dataflow():
            y = R.bnncc.binarize(x, 0, 0.0)
            z = R.nn.max_pool2d(y, pool_size=[2, 2], strides=[2, 2], padding=[0, 0, 0, 0], layout="NHWC")
            R.output(z)
        return z

Refuses: a pool whose floats something else reads, a negative slope, and a second operand that is not a constant per
channel.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from bnncc.ops import elementwise, spans
from bnncc.ops.binarize import Binarize
from bnncc.ops.binary_conv2d import BinaryConv2d
from bnncc.ops.channel_interaction import ChannelInteraction
from bnncc.ops.elementwise import Floats, PerChannel
from bnncc.ops.expressions import operator
from bnncc.ops.standard import MaxPool2d
from bnncc.passes import dataflow


class SignBeforeMaxPool(dataflow.LocalPass):
    name = "bnncc.SignBeforeMaxPool"

    def visit(self, block: dataflow.Block, value: relax.Expr) -> relax.Expr | None:
        sign = Binarize.match(value)
        if sign is None:
            return None
        between, source = [], sign.x  # the calls from the sign back to the pool
        while _has_direction(block.value(source)):
            between.append(block.value(source))
            source = between[-1].args[0]
        pool = MaxPool2d.match(block.value(source))
        if pool is None:
            return None
        direction = _direction(block, sign, between, pool)
        if direction is None:
            return None
        block.rewrites += 1
        moved = pool.x
        for call in reversed(between):
            moved = block.emit(dataflow.on(call, moved))
        signs = block.emit(dataflow.on(value, moved))
        if (direction > 0).all():
            return dataflow.on(pool.call, signs)
        flipped = block.emit(_flipped(block, signs, direction, sign))
        pooled = block.emit(dataflow.on(pool.call, flipped))
        return _flipped(block, pooled, direction, sign)


def _flipped(block: dataflow.Block, values: relax.Expr, direction: Floats, sign: Binarize) -> relax.Call:
    """-x for signs, 1 - x for bits, in the channels where the direction is -1."""
    negated = relax.op.multiply(values, relax.const(direction))
    return relax.op.add(block.emit(negated), relax.const((1 - direction) / 2)) if sign.unipolar else negated


def _has_direction(value: relax.Expr) -> bool:
    """Whether this may stand between pool and sign. A sign there was looked at itself."""
    operation = elementwise.find(value)
    return operation is not None and operation.direction is not None and Binarize.match(value) is None


def _direction(block: dataflow.Block, sign: Binarize, between: list[relax.Call], pool: MaxPool2d) -> Floats | None:
    """+1 for each channel in which the signs rise with what is pooled, -1 where they fall, float32 [1] or [C]; None
    where the sign cannot be moved."""
    place = spans.name_of(pool.call)
    if any(block.uses(call.args[0]) > 1 for call in [sign.call, *between]):
        block.refused.append(f"{place}: the pooled floats have another reader")
        return None
    if between and not _follows_binary_conv(block, pool.x):
        return None
    total = np.ones(1, dtype=np.float32)
    for call in between:
        step = PerChannel.match(call)
        direction = step.direction() if step else None
        reason = ""
        if step is None or direction is None:
            reason = f"{operator(call)} with an operand that is not a constant per channel"
        elif (direction == 0).any():
            reason = step.operation.turns
        else:
            total = total * direction
        if reason:
            block.refused.append(f"{place}: {reason} between the pool and the sign")
            return None
    return total


def _follows_binary_conv(block: dataflow.Block, source: relax.Expr) -> bool:
    value = block.value(source)
    while _has_direction(value) or ChannelInteraction.match(value):
        value = block.value(value.args[0])
    return BinaryConv2d.match(value) is not None
