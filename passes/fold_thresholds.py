"""Scale, bias, whatever comes after, and the sign: one integer interval per channel.

The accumulator of a binary convolution takes few values. For every one of them that can occur, the source's own float32
expression is evaluated, channel by channel and in the source's order; where the values that give a 1 are an interval,

    bit = lo <= accumulator <= hi

is the same function: exact by construction, ties and negative scales included. A channel that never gives 1 has
lo > hi.

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

Leaves alone: floats that something else reads too (they are needed anyway), a residual or other tensor in between, and
an expression that rises and falls (PReLU with a negative slope) so that its ones are no interval.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from bnncc.ops import arguments, binarize, pack, spans, threshold, xnor_conv2d
from bnncc.passes import dataflow, elementwise


@relax.transform.function_pass(opt_level=0, name="bnncc.FoldThresholds")
class FoldThresholds(dataflow.LocalPass):
    def _visit(self, block: dataflow.Block, value: Any) -> Any:
        if not dataflow.is_call(value, "bnncc.pack"):
            return None
        chain, operands, source = [], [], value.args[0]
        while (operand := _operand(block.value(source))) is not None:
            chain.append(block.value(source))
            operands.append(operand)
            source = operand
        cast = block.call(source, "astype")
        conv = None if cast is None else block.call(cast.args[0], "bnncc.xnor_conv2d")
        if cast is None or conv is None or not self._check(block, conv, value, operands):
            return None
        accumulators, occurs = reachable(conv)
        values = np.broadcast_to(accumulators[:, None].astype(np.float32), occurs.shape)
        for call, operand in zip(reversed(chain), reversed(operands), strict=True):
            values = elementwise.evaluate(call, operand, values)
        ones = values >= arguments.array(value.args[1]).reshape(-1)
        bounds = intervals(accumulators, occurs, ones)
        if bounds is None:
            self.skipped.append(f"{spans.name_of(conv)}: the sign changes more than once as the accumulator rises")
            return None
        self.rewrites += 1
        groups, word_bytes = pack.parameters(value)
        return threshold.call(cast.args[0], *bounds, groups, word_bytes, span=value.span)

    def _check(self, block: dataflow.Block, conv: Any, value: Any, operands: list[Any]) -> bool:
        if any(block.uses(x) > 1 for x in [value.args[0], *operands]):
            self.skipped.append(f"{spans.name_of(conv)}: its floats have another reader")
            return False
        return all(dataflow.is_constant(constant) for constant in [conv.args[2], value.args[1]])


def _operand(call: Any) -> Any:
    """The one operand of an elementwise call whose others are constants per channel, as in the chain; else None."""
    if dataflow.name(call) not in elementwise.MEANINGS.keys() | {"nn.leakyrelu"}:
        return None
    if dataflow.is_call(call, "bnncc.binarize"):
        return None if binarize.parameters(call).unipolar else call.args[0]
    tensors = [argument for argument in call.args if not dataflow.is_constant(argument)]
    constants = [argument for argument in call.args if dataflow.is_constant(argument)]
    extents = dataflow.shape(call)
    if len(tensors) != 1 or not isinstance(tensors[0], relax.Var) or dataflow.shape(tensors[0]) != extents:
        return None
    return tensors[0] if all(elementwise.is_per_channel(c, extents) for c in constants) else None


def reachable(conv: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Values that accumulators may take, ascending int64 [V], and for each channel which of them, bool [V, O]."""
    offset = arguments.array(conv.args[2]).astype(np.int64).reshape(-1, dataflow.shape(conv)[3])
    step = xnor_conv2d.parameters(conv).step
    # No more bits differ than the words hold; that allows a few values too many, in words with a tail.
    most = 8 * int(np.prod(dataflow.shape(conv.args[1])[1:]))
    accumulators = np.arange(offset.min() - step * most, offset.max() + 1)
    occurs = np.zeros((accumulators.size, offset.shape[1]), dtype=bool)
    for row in np.unique(offset, axis=0):
        below = row - accumulators[:, None]
        occurs |= (below >= 0) & (below <= step * most) & (below % step == 0)
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
