"""Binary convolutions of signs become xor and popcount over packed words.

For +-1 activations, with N0 = taps * channels of a group:

    dot = N0 - 2 * popcount(bits ^ w)

and for {0, 1} activations, whose bit 0 means 0:

    dot = (N0 + sum(w)) / 2 - popcount(bits ^ w)

Both are `offset - step * popcount`. A border pixel of the padding holds one bit in every channel, which stands for some
value v; where the padding wants p instead, each output whose window reaches outside adds (p - v) * sum of the weights
of the taps outside. Those taps depend only on which kernel rows and columns fell outside, so offset is a small table
[row class, column class, channel]: real zero padding is exact, and costs nothing inside.

Where signs were multiplied by s = +-1 per channel, s goes into the weights (w * (s * x) = (s * w) * x) and the border
holds s * v. Signs that several convolutions read are packed once. Max-pools of signs become ORs of words. Where a
reshape or permutation stands between sign and convolution, what it gives is packed: +-1 or {0, 1} as floats.

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

Leaves alone: a convolution whose input does not come from a Binarize (it may hold any number), and weights that are
not constants.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tvm import relax

from bnncc.ops import arguments, binarize, binary_conv2d, bitpack, or_pool2d, pack, pad_bits, spans, xnor_conv2d
from bnncc.ops.window import Window
from bnncc.passes import dataflow
from bnncc.passes.elementwise import is_per_channel

# Largest |accumulator| that float32 holds exactly.
EXACT = 2**24


@relax.transform.function_pass(opt_level=0, name="bnncc.LowerToXnor")
class LowerToXnor:
    def __init__(self, *, word_bytes: int) -> None:
        self.word_bytes = word_bytes
        self.skipped: list[str] = []
        self.rewrites = 0

    def transform_function(self, function: Any, module: Any, context: Any) -> Any:
        walk = _Walk(self.word_bytes, self.skipped)
        result = dataflow.rebuild(function, walk.visit)
        self.rewrites += walk.rewrites
        return result


class _Walk:
    """One walk, and what it packed already."""

    def __init__(self, word_bytes: int, skipped: list[str]) -> None:
        self._word_bytes = word_bytes
        self._skipped = skipped
        self._made: dict[Any, Any] = {}
        self.rewrites = 0

    def visit(self, block: dataflow.Block, value: Any) -> Any:
        if not dataflow.is_call(value, "bnncc.binary_conv2d"):
            return None
        signs = _signs(block, value.args[0])
        if signs is None or not self._check(value):
            if signs is None:
                self._skipped.append(f"{_place(value)}: its input does not come from a Binarize")
            return None
        self.rewrites += 1
        window, groups, pad_value = binary_conv2d.parameters(value)
        channels = dataflow.shape(value.args[0])[3]
        bits = self._packed(block, signs.source, signs, groups)
        pad_bit = int(pad_value == 1)
        if any(window.pads):
            key = (bits, window.pads, pad_bit, channels, groups)
            bits = self._once(block, key, lambda: pad_bits.call(bits, window.pads, pad_bit, channels, groups))
        weights = bitpack.unpack(arguments.array(value.args[1]), channels // groups)
        flip = signs.flip.reshape(groups, 1, -1).repeat(weights.shape[0] // groups, axis=0)
        constants = accumulator_constants(
            weights, window, dataflow.shape(value.args[0])[1:3], flip=flip, pad_value=pad_value, unipolar=signs.unipolar
        )
        accumulator = xnor_conv2d.call(
            bits,
            bitpack.pack(weights ^ flip, self._word_bytes),
            constants.offset,
            constants.row_class,
            constants.col_class,
            constants.step,
            window.kernel,
            window.strides,
            window.dilations,
            groups,
            span=value.span,
        )
        return relax.op.astype(block.emit(accumulator), "float32")

    def _check(self, value: Any) -> bool:
        place = _place(value)
        if not dataflow.is_constant(value.args[1]):
            self._skipped.append(f"{place}: its weights are computed at run time")
        elif int(np.prod(dataflow.shape(value.args[1])[1:])) * 16 >= EXACT:
            self._skipped.append(f"{place}: sums of more than {EXACT // 2} products are not exact in float32")
        else:
            return True
        return False

    def _packed(self, block: dataflow.Block, source: Any, signs: _Signs, groups: int) -> Any:
        """The packed form of `source`, made once for each number of groups."""
        call = block.value(source)
        if dataflow.is_call(call, "nn.max_pool2d"):
            inner = self._packed(block, call.args[0], signs, groups)
            attrs = call.attrs
            numbers = [tuple(int(v) for v in n) for n in (attrs.pool_size, attrs.strides, attrs.padding)]
            pooled = or_pool2d.call(inner, *numbers[:3])
            return self._once(block, (inner, *numbers), lambda: spans.marked(pooled, call.span))
        if dataflow.is_call(call, "bnncc.binarize"):
            x, limit = call.args[0], np.float32(signs.threshold)
            if signs.unipolar:
                limit = np.nextafter(limit, np.float32(np.inf))  # strictly above
        else:
            x, limit = source, np.float32(0.5 if signs.unipolar else 0.0)
        key = (x, float(limit), groups, "pack")
        return self._once(block, key, lambda: pack.call(x, limit, groups, self._word_bytes, span=signs.span))

    def _once(self, block: dataflow.Block, key: Any, make: Any) -> Any:
        if key not in self._made:
            self._made[key] = block.emit(make())
        return self._made[key]


def _place(value: Any) -> str:
    return spans.name_of(value) or "binary convolution"


class _Signs(NamedTuple):
    """Binary values: those of `source`, with the channels negated where `flip` bool [C] says so."""

    source: Any
    flip: npt.NDArray[np.bool_]
    unipolar: bool
    threshold: float
    span: Any


def _signs(block: dataflow.Block, source: Any) -> _Signs | None:
    """The Binarize that `source` comes from, through signs per channel, pools and then moves; None if there is none."""
    flip = np.zeros(dataflow.shape(source)[3], dtype=np.bool_)
    if (factor := _flipped(block.value(source))) is not None:
        source, flip = block.value(source).args[0], flip ^ factor
    call = block.value(source)
    while dataflow.is_call(call, "nn.max_pool2d"):
        attrs = call.attrs
        plain = attrs.layout == "NHWC" and not attrs.ceil_mode and all(int(d) == 1 for d in attrs.dilation)
        if not plain:
            return None
        call = block.value(call.args[0])
    is_flipped = bool(flip.any())
    while dataflow.is_call(call, "permute_dims", "reshape") or _flipped(call) is not None:
        is_flipped = is_flipped or dataflow.is_call(call, "multiply")
        call = block.value(call.args[0])
    if not dataflow.is_call(call, "bnncc.binarize"):
        return None
    unipolar, threshold = binarize.parameters(call)
    # -1 * {0, 1} is no bit.
    return None if unipolar and is_flipped else _Signs(source, flip, unipolar, threshold, call.span)


def _flipped(call: Any) -> npt.NDArray[np.bool_] | None:
    """For a multiplication by +-1 per channel: where it is -1, bool [1] or [C]; else None."""
    if not dataflow.is_call(call, "multiply") or not dataflow.is_constant(call.args[1]):
        return None
    factor = arguments.array(call.args[1])
    if not (np.abs(factor) == 1).all() or not is_per_channel(call.args[1], dataflow.shape(call)):
        return None
    flipped: npt.NDArray[np.bool_] = factor.reshape(-1) < 0
    return flipped


class Constants(NamedTuple):
    """What xnor_conv2d needs beside bits and weights; shapes as in its file."""

    offset: npt.NDArray[np.int32]
    row_class: npt.NDArray[np.int32]
    col_class: npt.NDArray[np.int32]
    step: int


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
    sums, held_sums = (
        np.where(bits, 1, -1).sum(axis=2).reshape(outputs, *window.kernel) for bits in (weights, weights ^ flip)
    )
    fan_in = taps * channels
    base = (fan_in + sums.sum(axis=(1, 2))) // 2 if unipolar else np.full(outputs, fan_in)
    held = (1 if pad_value == 1 else 0) if unipolar else (1 if pad_value == 1 else -1)
    missing = pad_value * sums - held * held_sums
    step = 1 if unipolar else 2
    rows, columns = window.output(size[0], size[1])
    if not any(window.pads) or not missing.any():
        zeros = [np.zeros(count, dtype=np.int32) for count in (rows, columns)]
        return Constants(base.reshape(1, 1, -1).astype(np.int32), zeros[0], zeros[1], step)
    outside_y, row_class = _classes(window, size[0], rows, axis=0)
    outside_x, col_class = _classes(window, size[1], columns, axis=1)
    outside = outside_y[:, None, :, None] | outside_x[None, :, None, :]
    correction = np.einsum("rcyx,oyx->rco", outside.astype(np.int64), missing)
    return Constants((base + correction).astype(np.int32), row_class, col_class, step)


def _classes(
    window: Window, size: int, outputs: int, *, axis: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int32]]:
    """Along one axis: which taps fall outside in each class, bool [classes, kernel]; and each output's class."""
    first = np.arange(outputs) * window.strides[axis] - window.pads[axis]
    reads = first[:, None] + np.arange(window.kernel[axis]) * window.dilations[axis]
    outside, class_of = np.unique((reads < 0) | (reads >= size), axis=0, return_inverse=True)
    return outside, class_of.reshape(-1).astype(np.int32)
