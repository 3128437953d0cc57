"""Take the sign before max-pooling: the pool then works on bits, where it is a bitwise OR.

binarize(max_pool(x)) = max_pool(binarize(x)), since binarize never falls. The same holds for what stands between pool
and sign if it never falls either, in float32 too, where rounding is monotone: scales >= 0, biases, clamps, PReLU with
slopes >= 0. In channels with a negative scale the function falls and the maximum becomes a minimum; with s = -1 there
and s = +1 elsewhere, for signs

    binarize(f(max_pool(x))) = s * max_pool(s * binarize(f(x)))

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

Leaves alone: a pool whose floats something else reads, a negative scale before {0, 1}, a negative slope, and a second
operand that is not a constant per channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from bnncc.ops import arguments, binarize, spans
from bnncc.passes import dataflow
from bnncc.passes.elementwise import is_per_channel

RISING = frozenset(
    {"multiply", "add", "subtract", "divide", "maximum", "minimum", "nn.relu", "nn.leakyrelu", "nn.prelu"}
)


@relax.transform.function_pass(opt_level=0, name="bnncc.SignBeforeMaxPool")
class SignBeforeMaxPool(dataflow.LocalPass):
    def _visit(self, block: dataflow.Block, value: Any) -> Any:
        if not dataflow.is_call(value, "bnncc.binarize"):
            return None
        between, source = [], value.args[0]
        while dataflow.name(block.value(source)) in RISING:
            between.append(block.value(source))
            source = between[-1].args[0]
        pool = block.call(source, "nn.max_pool2d")
        if pool is None or not self._check(block, value, between, pool):
            return None
        direction = _direction(between)
        if binarize.parameters(value).unipolar and (direction < 0).any():
            self.skipped.append(f"{spans.name_of(pool)}: a negative scale between the pool and {{0, 1}}")
            return None
        self.rewrites += 1
        moved = pool.args[0]
        for call in reversed(between):
            moved = block.emit(relax.Call(call.op, [moved, *call.args[1:]], call.attrs, call.ty_args, call.span))
        signs = block.emit(relax.Call(value.op, [moved, *value.args[1:]], value.attrs, value.ty_args, value.span))
        if (direction > 0).all():
            return relax.Call(pool.op, [signs], pool.attrs, pool.ty_args, pool.span)
        flip = relax.const(direction)
        flipped = block.emit(relax.op.multiply(signs, flip))
        pooled = block.emit(relax.Call(pool.op, [flipped], pool.attrs, pool.ty_args, pool.span))
        return relax.op.multiply(pooled, flip)

    def _check(self, block: dataflow.Block, value: Any, between: list[Any], pool: Any) -> bool:
        place = spans.name_of(pool)
        if any(block.uses(call.args[0]) > 1 for call in [value, *between]):
            self.skipped.append(f"{place}: the pooled floats have another reader")
            return False
        if between and not _follows_binary_conv(block, pool.args[0]):
            return False
        for call in between:
            reason = _turns(call)
            if reason:
                self.skipped.append(f"{place}: {reason} between the pool and the sign")
                return False
        return True


def _direction(between: list[Any]) -> npt.NDArray[np.float32]:
    """+1 for each channel in which the value rises with its operand, -1 where it falls; float32 [1] or [C]."""
    direction = np.ones(1, dtype=np.float32)
    for call in between:
        if dataflow.name(call) in ("multiply", "divide"):
            direction = direction * np.where(arguments.array(call.args[1]).reshape(-1) < 0, -1, 1)
    return direction.astype(np.float32)


def _turns(call: Any) -> str:
    """Why the value might rise and fall with its operand, within a channel; "" if it does not."""
    name = dataflow.name(call)
    if not all(dataflow.is_constant(c) and is_per_channel(c, dataflow.shape(call)) for c in call.args[1:]):
        return f"{name} with an operand that is not a constant per channel"
    if not all(np.isfinite(arguments.array(c)).all() for c in call.args[1:]):
        return f"{name} with a constant that is not finite"
    if name == "nn.leakyrelu" and call.attrs.alpha < 0:
        return "a negative slope"
    if name == "nn.prelu" and not (arguments.array(call.args[1]) >= 0).all():
        return "a negative slope"
    if name == "divide" and not (arguments.array(call.args[1]) != 0).all():
        return "a division by zero"
    return ""


def _follows_binary_conv(block: dataflow.Block, source: Any) -> bool:
    call = block.value(source)
    while dataflow.name(call) in RISING:
        call = block.value(call.args[0])
    return dataflow.name(call) == "bnncc.binary_conv2d"
