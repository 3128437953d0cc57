"""Scale, bias, whatever comes after, and the sign: one integer interval per channel.

The accumulator of a binary convolution takes few values. For every one of them that can occur, the source's own float32
expression is evaluated, channel by channel and in the source's order; where the values that give a 1 are an interval,

    bit = lo <= accumulator <= hi

is the same function: exact by construction, ties and negative scales included. A channel that never gives 1 has
lo > hi. Between convolution and scale channels may interact; then more values can occur.

Before::

    @R.function
    def main(b: R.Tensor((1, 4, 4, 1), "uint8"), w: R.Tensor((1, 1, 1), "uint8")):
        with R.dataflow():
            acc = R.bnncc.xnor_conv2d(b, w, R.const([[[8]]], "int32"), R.const([0, 0, 0, 0], "int32"),
                                      R.const([0, 0, 0, 0], "int32"), 2, R.shape([1, 1]), R.shape([1, 1]),
                                      R.shape([1, 1]), 1)
            f = R.astype(acc, "float32")
            y = R.multiply(f, R.const(-0.5, "float32"))
            z = R.add(y, R.const(1.0, "float32"))
            p = R.bnncc.pack(z, R.const(0.0, "float32"), 1, 1)
            R.output(p)
        return p

After::

    @R.function
    def main(b: R.Tensor((1, 4, 4, 1), "uint8"), w: R.Tensor((1, 1, 1), "uint8")):
        with R.dataflow():
            acc = R.bnncc.xnor_conv2d(b, w, R.const([[[8]]], "int32"), R.const([0, 0, 0, 0], "int32"),
                                      R.const([0, 0, 0, 0], "int32"), 2, R.shape([1, 1]), R.shape([1, 1]),
                                      R.shape([1, 1]), 1)
            p = R.bnncc.threshold(acc, R.const([-8], "int32"), R.const([2], "int32"), 1, 1)
            R.output(p)
        return p

Refuses: floats that something else reads too (they are needed anyway), a residual or other tensor in between, and
an expression that rises and falls (PReLU with a negative slope) so that its ones are no interval.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tvm import relax

from bnncc.ops import pack, spans, threshold
from bnncc.ops.channel_interaction import ChannelInteraction
from bnncc.ops.elementwise import PerChannel
from bnncc.ops.expressions import array, extents, is_constant
from bnncc.ops.pack import Pack
from bnncc.ops.standard import Astype
from bnncc.ops.xnor_conv2d import XnorConv2d
from bnncc.passes import dataflow


class FoldThresholds(dataflow.LocalPass):
    name = "bnncc.FoldThresholds"

    def visit(self, block: dataflow.Block, value: relax.Expr) -> relax.Expr | None:
        packing = Pack.match(value)
        if packing is None:
            return None
        chain, source = [], packing.values  # from the sign back to the accumulator
        while (step := PerChannel.match(block.value(source))) is not None and step.operation.meaning is not None:
            chain.append(step)
            source = step.tensor
        cast = Astype.match(block.value(source))
        rounds, integers = [], block.value(cast.x) if cast else None
        while (interaction := ChannelInteraction.match(integers)) is not None:
            rounds.append(interaction)
            integers = block.value(interaction.acc)
        conv = XnorConv2d.match(integers)
        if cast is None or conv is None or not _check(block, conv, packing, chain):
            return None
        accumulators, occurs = reachable(conv, rounds)
        values = np.broadcast_to(accumulators[:, None].astype(np.float32), occurs.shape)
        for step in reversed(chain):
            values = step.evaluate(values)
        ones = pack.ones(values, array(packing.threshold).reshape(-1), strict=packing.strict)
        bounds = intervals(accumulators, occurs, ones)
        if bounds is None:
            block.refused.append(
                f"{spans.name_of(conv.call)}: the sign changes more than once as the accumulator rises"
            )
            return None
        block.rewrites += 1
        return threshold.call(cast.x, *bounds, packing.groups, packing.word_bytes, span=value.span)


def _check(block: dataflow.Block, conv: XnorConv2d, packing: Pack, chain: list[PerChannel]) -> bool:
    if any(block.uses(x) > 1 for x in [packing.values, *(step.tensor for step in chain)]):
        block.refused.append(f"{spans.name_of(conv.call)}: its floats have another reader")
        return False
    return is_constant(conv.offset) and is_constant(packing.threshold)


def reachable(
    conv: XnorConv2d, rounds: Sequence[ChannelInteraction] = ()
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Values that accumulators may take, ascending int64 [V], and for each channel which of them, bool [V, O]. Behind
    interactions: whatever multiples of the deltas' greatest common divisor they can add up to."""
    offset = array(conv.offset).astype(np.int64).reshape(-1, extents(conv.call)[3])
    # No more bits differ than the words hold; that allows a few values too many, in words with a tail.
    most = conv.bit_weight * 8 * int(np.prod(extents(conv.weights)[1:]))
    lower, higher, step = np.zeros((3, offset.shape[1]), np.int64)
    step += conv.bit_weight
    for interaction in rounds:
        for table in (array(interaction.up), array(interaction.down)):
            delta = table[:, 3].astype(np.int64)
            np.add.at(lower, table[:, 1], np.minimum(delta, 0))
            np.add.at(higher, table[:, 1], np.maximum(delta, 0))
            np.gcd.at(step, table[:, 1], delta)
    accumulators = np.arange((offset + lower).min() - most, (offset + higher).max() + 1)
    occurs = np.zeros((accumulators.size, offset.shape[1]), dtype=bool)
    for row in np.unique(offset, axis=0):
        below = row - accumulators[:, None]
        occurs |= (below >= -higher) & (below <= most - lower) & (below % step == 0)
    return accumulators, occurs


def intervals(
    accumulators: npt.NDArray[np.int64], occurs: npt.NDArray[np.bool_], ones: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]] | None:
    """lo and hi, int32 [O], such that of the values that occur exactly the ones lie within; None if there are none."""
    wanted, unwanted = occurs & ones, occurs & ~ones
    lo = np.where(wanted, accumulators[:, None], np.iinfo(np.int32).max).min(axis=0)
    hi = np.where(wanted, accumulators[:, None], np.iinfo(np.int32).min).max(axis=0)
    inside = (lo <= accumulators[:, None]) & (accumulators[:, None] <= hi)
    if (inside & unwanted).any():
        return None
    never = ~wanted.any(axis=0)
    lo, hi = np.where(never, 1, lo), np.where(never, 0, hi)
    return lo.astype(np.int32), hi.astype(np.int32)
