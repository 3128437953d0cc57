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

Refuses: convolutions in groups, with weights that are not constants or not finite, of too few products to win
anything, or of so many that int32 might not hold their sum.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from bnncc.ops import conv2d_int8, quantize, spans
from bnncc.ops.expressions import array, extents, is_constant
from bnncc.ops.standard import Conv2d
from bnncc.ops.window import Window
from bnncc.options import InputRange
from bnncc.passes import dataflow
from bnncc.passes.contract import Outcome
from bnncc.passes.watch_convs import float_conv

# Multiply-accumulates of a convolution, and of each value of its input, from which on 8 bits are faster: quantising
# one value takes as long as 8 products save with AVX512_VNNI, and 28 with AVX2.
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


@dataclass(frozen=True)
class QuantizeConvs:
    """The pass. ranges: position in `float_convs` -> range of the input. dtype: of activations, the target's
    `int8_inputs`; "" where the target has nothing for 8-bit integers."""

    name: ClassVar[str] = "bnncc.QuantizeConvs"

    ranges: Mapping[int, InputRange]
    dtype: str
    fewest_macs: int = FEWEST_MACS
    fewest_macs_per_input: int = FEWEST_MACS_PER_INPUT

    def __call__(self, module: tvm.IRModule) -> Outcome:
        positions = itertools.count()

        def visit(block: dataflow.Block, value: relax.Expr) -> relax.Expr | None:
            conv = float_conv(value)
            if conv is None:
                return None
            position = next(positions)
            reason = self._why_not(conv, extents(block.typed(value)), position)
            if reason:
                block.refused.append(f"{spans.name_of(value) or 'convolution'}: {reason}")
                return None
            block.rewrites += 1
            return self._rewrite(block, conv, self.ranges[position])

        return dataflow.rewrite(module, visit)

    def _why_not(self, conv: Conv2d, result: tuple[int, ...], position: int) -> str:
        """Why this convolution, whose result has those extents, stays float32; "" if it need not."""
        if not self.dtype:
            return "the target has no instructions for 8-bit integers that are faster than float32"
        if position not in self.ranges:
            return "the range of its input is not known"
        if self.ranges[position] == InputRange(0.0, 0.0):
            return "its input was 0 in all samples"
        if conv.groups != 1:
            return f"a convolution in {conv.groups} groups"
        if not is_constant(conv.weights):
            return "its weights are computed at run time"
        weights = array(conv.weights)
        if not np.isfinite(weights).all():
            return "weights that are not finite numbers"
        products = int(np.prod(weights.shape[:3]))
        macs, inputs = int(np.prod(result)) * products, int(np.prod(extents(conv.x)))
        if products * 255 * LARGEST_WEIGHT >= 2**30:
            return f"sums of {products} products may not fit int32"
        if macs < self.fewest_macs:
            return f"{macs} products, fewer than {self.fewest_macs}"
        if macs < self.fewest_macs_per_input * inputs:
            return f"{macs} products of {inputs} inputs, fewer than {self.fewest_macs_per_input} each"
        return ""

    def _rewrite(self, block: dataflow.Block, conv: Conv2d, values: InputRange) -> relax.Expr:
        inverse_scale, zero_point = quantization(values, self.dtype)
        weights, scales = _integers(array(conv.weights))
        bias = -zero_point * weights.astype(np.int64).sum(axis=(0, 1, 2))
        window, span, (*_, width, channels) = conv.window, conv.call.span, extents(conv.x)
        _, left, _, right = window.pads
        row_elements = _row_elements(window, width, channels)
        integers = quantize.call(conv.x, float(inverse_scale), zero_point, window.pads, row_elements, self.dtype, span)
        sums = conv2d_int8.call(
            block.emit(integers),
            weights,
            bias.astype(np.int32),
            left + width + right,
            window.strides,
            window.dilations,
            span,
        )
        floats = block.emit(relax.op.astype(block.emit(sums), "float32"))
        scale = (scales / float(inverse_scale)).astype(np.float32).reshape(1, 1, 1, -1)
        return relax.op.multiply(floats, relax.const(scale))


def _integers(weights: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """HWIO weights as integers, and the scale of each output channel, float64 [O]."""
    largest = np.abs(weights.astype(np.float64)).max(axis=(0, 1, 2))
    scales = np.where(largest > 0, largest / LARGEST_WEIGHT, 1.0)
    return np.rint(weights / scales).astype(np.int8), scales


def _row_elements(window: Window, width: int, channels: int) -> int:
    """Values in a row: its pixels and what the last group of a window's last run reads past them, in whole groups."""
    padded = window.pads[1] + width + window.pads[3]
    run = window.kernel[1] * channels if window.dilations[1] == 1 else channels
    return -(-(padded * channels + -run % _GROUP) // _GROUP) * _GROUP
