"""A dense binary layer on a flattened image is a convolution whose kernel is the whole image.

Flattening goes channel by channel, packed words go pixel by pixel: instead of moving activations at run time, the bits
of the constant weight are put in the other order once.

    sum over k = (c, y, x) of w[o, k] * image[y, x, c]   =   sum over taps (y, x) and channels c

A sign after the flattening is taken before it.

Before::

    @R.function
    def main(x: R.Tensor((1, 1, 2, 3), "float32")):
        with R.dataflow():
            p = R.permute_dims(x, axes=[0, 3, 1, 2])
            f = R.reshape(p, R.shape([1, 6]))
            d = R.reshape(f, R.shape([1, 1, 1, 6]))
            z = R.bnncc.binary_conv2d(d, R.const([[[3]]], "uint8"), R.shape([1, 1]))
            R.output(z)
        return z

After::

    @R.function
    def main(x: R.Tensor((1, 1, 2, 3), "float32")):
        with R.dataflow():
            z = R.bnncc.binary_conv2d(x, R.const([[[1], [1]]], "uint8"), R.shape([1, 2]))
            R.output(z)
        return z

Refuses: grouped or padded layers, and weights that are not constants.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from bnncc import bitpack
from bnncc.ops import binary_conv2d
from bnncc.ops.binarize import Binarize
from bnncc.ops.binary_conv2d import BinaryConv2d
from bnncc.ops.expressions import array, extents, is_constant
from bnncc.ops.standard import TO_NCHW, PermuteDims, Reshape
from bnncc.passes import dataflow


class DenseAsConv(dataflow.LocalPass):
    name = "bnncc.DenseAsConv"

    def visit(self, block: dataflow.Block, value: relax.Expr) -> relax.Expr | None:
        conv = BinaryConv2d.match(value)
        if conv is None or not is_constant(conv.weights) or conv.groups != 1:
            return None
        if conv.window.kernel != (1, 1) or any(conv.window.pads) or extents(conv.x)[1:3] != (1, 1):
            return None
        image = _flattened(block, conv.x)
        if image is None:
            return None
        block.rewrites += 1
        _, height, width, channels = extents(image)
        w = bitpack.unpack(array(conv.weights), channels * height * width)
        by_pixel = w.reshape(-1, channels, height * width).swapaxes(1, 2)
        return binary_conv2d.call(
            image, bitpack.pack(np.ascontiguousarray(by_pixel)), (height, width), span=conv.call.span
        )


def _flattened(block: dataflow.Block, source: relax.Expr) -> relax.Expr | None:
    """The image [N, H, W, C] of which `source` is the channel-major flattening; None if it is none."""
    sign, value = None, block.value(source)
    while moved := Reshape.match(value) or Binarize.match(value):
        if isinstance(moved, Binarize):
            if sign is not None:
                return None
            sign = moved
        value = block.value(moved.x)
    permuted = PermuteDims.match(value)
    if permuted is None or permuted.axes != TO_NCHW or extents(permuted.x)[0] != extents(source)[0]:
        return None
    return permuted.x if sign is None else block.emit(dataflow.on(sign.call, permuted.x))
