"""Binary convolutions of signs become xor and popcount over packed words.

For +-1 activations, with N0 = taps * channels of a group:

    dot = N0 - 2 * popcount(bits ^ w)

and for {0, 1} activations, whose bit 0 means 0:

    dot = (N0 + sum(w)) / 2 - popcount(bits ^ w)

Both are `offset - bit_weight * popcount`. A border pixel of the padding holds one bit in every channel, which stands
for some value v; where the padding wants p instead, each output whose window reaches outside adds (p - v) * sum of the
weights of the taps outside. Those taps depend only on which kernel rows and columns fell outside, so offset is a small
table [row class, column class, channel]: real zero padding is exact, and costs nothing inside.

Where signs were multiplied by s = +-1 per channel, s goes into the weights (w * (s * x) = (s * w) * x) and the border
holds s * v. Bits that became 1 - b in some channels are the same xor of inverted bits with inverted weights; a border
bit stands for its inverse there. Signs that several convolutions read are packed once. Max-pools of signs become ORs
of words. Where a reshape or permutation stands between sign and convolution, what it gives is packed: +-1 or {0, 1} as
floats. Channels that interact behind a convolution do so as integers.

Before::

    @R.function
    def main(x: R.Tensor((1, 4, 4, 8), "float32")):
        with R.dataflow():
            y = R.bnncc.binarize(x, 0, 0.0)
            z = R.bnncc.binary_conv2d(y, R.const([[[1]], [[3]]], "uint8"), R.shape([1, 1]))
            R.output(z)
        return z

After::

    @R.function
    def main(x: R.Tensor((1, 4, 4, 8), "float32")):
        with R.dataflow():
            y = R.bnncc.pack(x, R.const(0.0, "float32"), 1, 1)
            acc = R.bnncc.xnor_conv2d(y, R.const([[[1]], [[3]]], "uint8"), R.const([[[8, 8]]], "int32"),
                                      R.const([0, 0, 0, 0], "int32"), R.const([0, 0, 0, 0], "int32"), 2,
                                      R.shape([1, 1]), R.shape([1, 1]), R.shape([1, 1]), 1)
            z = R.astype(acc, "float32")
            R.output(z)
        return z

Refuses: a convolution whose input does not come from a Binarize (it may hold any number), and weights that are
not constants.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from bnncc import bitpack
from bnncc.ops import or_pool2d, pack, pad_bits, spans, xnor_conv2d
from bnncc.ops.binarize import Binarize
from bnncc.ops.binary_conv2d import BinaryConv2d
from bnncc.ops.channel_interaction import ChannelInteraction
from bnncc.ops.expressions import array, dtype, extents, is_constant, is_per_channel
from bnncc.ops.standard import Add, Astype, MaxPool2d, Multiply, PermuteDims, Reshape
from bnncc.ops.window import Window
from bnncc.passes import dataflow
from bnncc.passes.contract import Outcome

# Largest |accumulator| that float32 holds exactly.
EXACT = 2**24


@dataclass(frozen=True, kw_only=True)
class LowerToXnor:
    """The pass. word_bytes: packed pixels and filters are whole words of so many bytes, 0 past the last channel."""

    name: ClassVar[str] = "bnncc.LowerToXnor"

    word_bytes: int

    def __call__(self, module: tvm.IRModule) -> Outcome:
        return dataflow.rewrite(module, _Walk(self.word_bytes).visit)


class _Walk:
    """One walk, and what it packed already."""

    def __init__(self, word_bytes: int) -> None:
        self._word_bytes = word_bytes
        self._made: dict[Hashable, relax.Expr] = {}

    def visit(self, block: dataflow.Block, value: relax.Expr) -> relax.Expr | None:
        if interaction := ChannelInteraction.match(value):
            return self._on_integers(block, interaction)
        conv = BinaryConv2d.match(value)
        if conv is None:
            return None
        signs = _signs(block, conv.x)
        reason = "its input does not come from a Binarize" if signs is None else _why_not(conv)
        if signs is None or reason:
            block.refused.append(f"{spans.name_of(value) or 'binary convolution'}: {reason}")
            return None
        block.rewrites += 1
        window, groups, channels = conv.window, conv.groups, extents(conv.x)[3]
        bits = self._packed(block, signs.source, signs, groups)
        pad_bit = int(conv.pad_value == 1)
        if any(window.pads):
            key = (bits, window.pads, pad_bit, channels, groups)
            bits = self._once(block, key, lambda: pad_bits.call(bits, window.pads, pad_bit, channels, groups))
        weights = bitpack.unpack(array(conv.weights), channels // groups)
        flip = signs.flip.reshape(groups, 1, -1).repeat(weights.shape[0] // groups, axis=0)
        constants = accumulator_constants(
            weights,
            window,
            extents(conv.x)[1:3],
            flip=flip,
            pad_value=conv.pad_value,
            unipolar=signs.binarize.unipolar,
        )
        accumulator = xnor_conv2d.call(
            bits,
            bitpack.pack(weights ^ flip, self._word_bytes),
            constants.offset,
            constants.row_class,
            constants.col_class,
            constants.bit_weight,
            window.kernel,
            window.strides,
            window.dilations,
            groups,
            span=value.span,
        )
        return relax.op.astype(block.emit(accumulator), "float32")

    def _on_integers(self, block: dataflow.Block, interaction: ChannelInteraction) -> relax.Expr | None:
        """The interactions of accumulators, before they become floats."""
        cast = Astype.match(block.value(interaction.acc))
        if cast is None or dtype(cast.x) != "int32":
            return None
        block.rewrites += 1
        return relax.op.astype(block.emit(dataflow.on(interaction.call, cast.x)), "float32")

    def _packed(self, block: dataflow.Block, source: relax.Expr, signs: _Signs, groups: int) -> relax.Expr:
        """The packed form of `source`, made once for each number of groups."""
        value = block.value(source)
        if pool := MaxPool2d.match(value):
            inner, window = self._packed(block, pool.x, signs, groups), pool.window
            pooled = or_pool2d.call(inner, window.kernel, window.strides, window.pads)
            return self._once(block, (inner, window), lambda: spans.marked(pooled, pool.call.span))
        unipolar = signs.binarize.unipolar
        if sign := Binarize.match(value):
            x, limit = sign.x, sign.threshold if unipolar else 0.0
        else:
            x, limit = source, 0.5 if unipolar else 0.0
        span = signs.binarize.call.span
        return self._once(
            block,
            (x, limit, groups, "pack"),
            lambda: pack.call(x, limit, groups, self._word_bytes, int(unipolar), span=span),
        )

    def _once(self, block: dataflow.Block, key: Hashable, make: Callable[[], relax.Call]) -> relax.Expr:
        if key not in self._made:
            self._made[key] = block.emit(make())
        return self._made[key]


def _why_not(conv: BinaryConv2d) -> str:
    """Why a convolution of signs stays as it is; "" if it need not."""
    if not is_constant(conv.weights):
        return "its weights are computed at run time"
    if int(np.prod(extents(conv.weights)[1:])) * 16 >= EXACT:
        return f"sums of more than {EXACT // 2} products are not exact in float32"
    return ""


class _Signs(NamedTuple):
    """Binary values: those of `source`, which `binarize` made, with the channels negated where `flip` bool [C] says
    so."""

    source: relax.Expr
    flip: npt.NDArray[np.bool_]
    binarize: Binarize


def _signs(block: dataflow.Block, source: relax.Expr) -> _Signs | None:
    """The Binarize that `source` comes from, through signs per channel, pools and then moves; None if there is none."""
    flip = np.zeros(extents(source)[3], dtype=np.bool_)
    kinds = set[bool]()  # of what flipped them: whether it inverts
    if flipped := _flipped(block, block.value(source)):
        source, flip = flipped.x, flip ^ flipped.channels
        kinds |= flipped.kinds
    value = block.value(source)
    while pool := MaxPool2d.match(value):
        if pool.layout != "NHWC" or pool.ceil_mode or pool.window.dilations != (1, 1):
            return None
        value = block.value(pool.x)
    while moved := PermuteDims.match(value) or Reshape.match(value) or _flipped(block, value):
        if isinstance(moved, _Flipped):
            kinds |= moved.kinds
        value = block.value(moved.x)
    binarize = Binarize.match(value)
    # -1 * {0, 1} is no bit, nor is 1 - {-1, +1}.
    return None if binarize is None or kinds - {binarize.unipolar} else _Signs(source, flip, binarize)


class _Flipped(NamedTuple):
    """-x, or 1 - x if `inverts`, in some channels: bool [1] or [C]."""

    x: relax.Expr
    channels: npt.NDArray[np.bool_]
    inverts: bool

    @property
    def kinds(self) -> set[bool]:
        return {self.inverts} if self.channels.any() else set()


def _flipped(block: dataflow.Block, value: relax.Expr) -> _Flipped | None:
    addition = Add.match(value)
    product = Multiply.match(block.value(addition.a) if addition else value)
    if product is None or not is_constant(product.b) or not is_per_channel(product.b, extents(value)):
        return None
    factor = array(product.b).reshape(-1)
    if not (np.abs(factor) == 1).all():
        return None
    if addition is None:
        return _Flipped(product.a, factor < 0, inverts=False)
    if not is_constant(addition.b) or not np.array_equal(array(addition.b).reshape(-1), factor < 0):
        return None
    return _Flipped(product.a, factor < 0, inverts=True)


class Constants(NamedTuple):
    """What xnor_conv2d needs beside bits and weights; shapes as in its file."""

    offset: npt.NDArray[np.int32]
    row_class: npt.NDArray[np.int32]
    col_class: npt.NDArray[np.int32]
    bit_weight: int


def accumulator_constants(
    weights: npt.NDArray[np.bool_],
    window: Window,
    size: tuple[int, ...],
    *,
    flip: npt.NDArray[np.bool_],
    pad_value: int,
    unipolar: bool,
) -> Constants:
    """weights: bool [O, T, channels of a group]; flip: bool [O, 1, channels]; size: height and width before padding."""
    outputs, taps, channels = weights.shape
    signs = np.where(weights, 1, -1)
    sums = signs.sum(axis=2).reshape(outputs, *window.kernel)
    fan_in = taps * channels
    base = (fan_in + sums.sum(axis=(1, 2))) // 2 if unipolar else np.full(outputs, fan_in)
    held = (pad_value == 1) ^ flip  # what a bit of the border stands for
    values = held.astype(np.int64) if unipolar else np.where(held, 1, -1)
    missing = pad_value * sums - (values * signs).sum(axis=2).reshape(sums.shape)
    bit_weight = 1 if unipolar else 2
    rows, columns = window.output(size[0], size[1])
    if not any(window.pads) or not missing.any():
        zeros = [np.zeros(count, dtype=np.int32) for count in (rows, columns)]
        return Constants(base.reshape(1, 1, -1).astype(np.int32), zeros[0], zeros[1], bit_weight)
    outside_y, row_class = _classes(window, size[0], rows, axis=0)
    outside_x, col_class = _classes(window, size[1], columns, axis=1)
    outside = outside_y[:, None, :, None] | outside_x[None, :, None, :]
    correction = np.einsum("rcyx,oyx->rco", outside.astype(np.int64), missing)
    return Constants((base + correction).astype(np.int32), row_class, col_class, bit_weight)


def _classes(
    window: Window, size: int, outputs: int, *, axis: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int32]]:
    """Along one axis: which taps fall outside in each class, bool [classes, kernel]; and each output's class."""
    first = np.arange(outputs) * window.strides[axis] - window.pads[axis]
    reads = first[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
    outside, class_of = np.unique((reads < 0) | (reads >= size), axis=0, return_inverse=True)
    return outside, class_of.reshape(-1).astype(np.int32)
