"""Float convolutions become convolutions of 8-bit integers, with the ranges of their inputs that calibration found.

An input x in the range is the integer q = round(x / s) + z: the scale s and the zero point z are those of the whole
tensor, and 0.0, which the padding holds, is the integer z exactly. A weight is w = t * v with integers v from -127 to
127 and a scale t for each output channel. So

    conv(x, w) = s * t * (sum of v * q  -  z * sum of v)

whose second sum is constant, a bias per channel. Sums are int32 and exact; s * t is a float32 multiplication, the first
step of whatever follows. (Jacob et al., Quantization and Training of Neural Networks, CVPR 2018, arXiv 1712.05877.)

With ranges {0: InputRange(-128, 127)}:

Before::

    @R.function
    def main(x: R.Tensor((1, 1, 2, 4), "float32")):
        with R.dataflow():
            y = R.nn.conv2d(x, R.const([[[[127], [2], [0], [-1]]]], "float32"), padding=[0, 0, 1, 1],
                            data_layout="NHWC", kernel_layout="HWIO")
            R.output(y)
        return y

After::

    @R.function
    def main(x: R.Tensor((1, 1, 2, 4), "float32")):
        with R.dataflow():
            q = R.bnncc.quantize(x, 1.0, 128, R.shape([0, 0, 1, 1]), 12, "uint8")
            i = R.bnncc.conv2d_int8(q, R.const([[[[127], [2], [0], [-1]]]], "int8"), R.const([-16384], "int32"), 3,
                                    R.shape([1, 1]), R.shape([1, 1]))
            f = R.astype(i, "float32")
            y = R.multiply(f, R.const([[[[1.0]]]], "float32"))
            R.output(y)
        return y

Leaves alone: convolutions in groups, with weights that are not constants or not finite, of too few products to win
anything, or of so many that int32 might not hold their sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from bnncc.ops import arguments, conv2d_int8, quantize, spans
from bnncc.ops.window import Window
from bnncc.options import InputRange
from bnncc.passes import dataflow
from bnncc.passes.watch_convs import float_convs

# With fewer products, or fewer for each value that has to be quantised first, nothing is won: a value costs as much as
# 8 products save with AVX512_VNNI and 28 with AVX2.
FEWEST_MACS = 200_000
FEWEST_MACS_PER_INPUT = 32
LARGEST_WEIGHT = 127
_GROUP = 4  # values that a machine reads at a time, see tir/int8_dot.py


def quantization(found: InputRange, dtype: str) -> tuple[np.float32, int]:
    """inverse scale and zero point for `dtype` of bnncc.quantize."""
    least, most = quantize.LIMITS[dtype]
    low, high = min(found.low, 0.0), max(found.high, 0.0)
    # Subnormal ranges have no inverse in float32; to them everything is 0 anyway.
    inverse = np.float32((most - least) / max(high - low, 1e-30))
    return inverse, int(np.clip(np.rint(least - low * float(inverse)), least, most))


@relax.transform.function_pass(opt_level=0, name="bnncc.QuantizeConvs")
class QuantizeConvs:
    """ranges: position in `float_convs` -> range of the input. dtype: of activations, the target's `int8_inputs`; ""
    where the target has nothing for 8-bit integers."""

    def __init__(
        self,
        ranges: Mapping[int, InputRange],
        *,
        dtype: str,
        fewest_macs: int = FEWEST_MACS,
        fewest_macs_per_input: int = FEWEST_MACS_PER_INPUT,
    ) -> None:
        self._ranges = dict(ranges)
        self._dtype = dtype
        self._fewest_macs = fewest_macs
        self._fewest_macs_per_input = fewest_macs_per_input
        self.skipped: list[str] = []
        self.rewrites = 0

    def transform_function(self, function: Any, module: Any, context: Any) -> Any:
        positions = iter(range(len(float_convs(function))))

        def visit(block: dataflow.Block, value: Any) -> Any:
            if not dataflow.is_call(value, "nn.conv2d") or value.attrs.data_layout != "NHWC":
                return None
            position = next(positions)
            reason = self._why_not(block.typed(value), position)
            if reason:
                self.skipped.append(f"{spans.name_of(value) or 'convolution'}: {reason}")
                return None
            self.rewrites += 1
            return self._rewrite(block, value, self._ranges[position])

        return dataflow.rebuild(function, visit)

    def _why_not(self, call: Any, position: int) -> str:
        """Why this convolution stays float32; "" if it need not."""
        if not self._dtype:
            return "the target has no instructions for 8-bit integers that are faster than float32"
        if position not in self._ranges:
            return "the range of its input is not known"
        if self._ranges[position] == InputRange(0.0, 0.0):
            return "its input was 0 in all samples"
        if int(call.attrs.groups) != 1:
            return f"a convolution in {call.attrs.groups} groups"
        if not dataflow.is_constant(call.args[1]):
            return "its weights are computed at run time"
        weights = arguments.array(call.args[1])
        if not np.isfinite(weights).all():
            return "weights that are not finite numbers"
        n, rows, columns, outputs = dataflow.shape(call)
        products = int(np.prod(weights.shape[:3]))
        macs, inputs = n * rows * columns * outputs * products, int(np.prod(dataflow.shape(call.args[0])))
        if products * 255 * LARGEST_WEIGHT >= 2**30:
            return f"sums of {products} products may not fit int32"
        if macs < self._fewest_macs:
            return f"{macs} products, fewer than {self._fewest_macs}"
        if macs < self._fewest_macs_per_input * inputs:
            return f"{macs} products of {inputs} inputs, fewer than {self._fewest_macs_per_input} each"
        return ""

    def _rewrite(self, block: dataflow.Block, call: Any, values: InputRange) -> Any:
        inverse_scale, zero_point = quantization(values, self._dtype)
        weights, scales = _integers(arguments.array(call.args[1]))
        bias = -zero_point * weights.astype(np.int64).sum(axis=(0, 1, 2))
        window, (*_, width, channels) = _window(call), dataflow.shape(call.args[0])
        top, left, bottom, right = window.pads
        row = _row(window, width, channels)
        integers = quantize.call(
            call.args[0], float(inverse_scale), zero_point, (top, left, bottom, right), row, self._dtype, call.span
        )
        sums = conv2d_int8.call(
            block.emit(integers),
            weights,
            bias.astype(np.int32),
            left + width + right,
            window.strides,
            window.dilations,
            call.span,
        )
        floats = block.emit(relax.op.astype(block.emit(sums), "float32"))
        scale = (scales / float(inverse_scale)).astype(np.float32).reshape(1, 1, 1, -1)
        return relax.op.multiply(floats, relax.const(scale))


def _integers(weights: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """HWIO weights as integers, and the scale of each output channel, float64 [O]."""
    largest = np.abs(weights.astype(np.float64)).max(axis=(0, 1, 2))
    scales = np.where(largest > 0, largest / LARGEST_WEIGHT, 1.0)
    return np.rint(weights / scales).astype(np.int8), scales


def _window(call: Any) -> Window:
    attrs, weights = call.attrs, dataflow.shape(call.args[1])
    top, left, bottom, right = (int(v) for v in attrs.padding)
    strides, dilations = ((int(pair[0]), int(pair[1])) for pair in (attrs.strides, attrs.dilation))
    return Window(
        kernel=(weights[0], weights[1]), strides=strides, pads=(top, left, bottom, right), dilations=dilations
    )


def _row(window: Window, width: int, channels: int) -> int:
    """Values in a row: its pixels and what the last group of a window's last run reads past them, in whole groups."""
    padded = window.pads[1] + width + window.pads[3]
    run = window.kernel[1] * channels if window.dilations[1] == 1 else channels
    return -(-(padded * channels + -run % _GROUP) // _GROUP) * _GROUP
