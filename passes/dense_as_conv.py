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

Leaves alone: grouped or padded layers, and weights that are not constants.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from bnncc.ops import arguments, binary_conv2d, bitpack
from bnncc.passes import dataflow
from bnncc.passes.to_nhwc import OUTWARD


@relax.transform.function_pass(opt_level=0, name="bnncc.DenseAsConv")
class DenseAsConv(dataflow.LocalPass):
    def _visit(self, block: dataflow.Block, value: Any) -> Any:
        if not dataflow.is_call(value, "bnncc.binary_conv2d") or not dataflow.is_constant(value.args[1]):
            return None
        window, groups, _ = binary_conv2d.parameters(value)
        if window.kernel != (1, 1) or any(window.pads) or groups != 1 or dataflow.shape(value.args[0])[1:3] != (1, 1):
            return None
        image = _flattened(block, value.args[0])
        if image is None:
            return None
        self.rewrites += 1
        _, height, width, channels = dataflow.shape(image)
        w = bitpack.unpack(arguments.array(value.args[1]), channels * height * width)
        by_pixel = w.reshape(-1, channels, height * width).swapaxes(1, 2)
        return binary_conv2d.call(image, bitpack.pack(np.ascontiguousarray(by_pixel)), (height, width), span=value.span)


def _flattened(block: dataflow.Block, source: Any) -> Any:
    """The image [N, H, W, C] of which `source` is the channel-major flattening; None if it is none."""
    sign, call = None, block.value(source)
    while dataflow.is_call(call, "reshape", "bnncc.binarize"):
        if dataflow.is_call(call, "bnncc.binarize"):
            if sign is not None:
                return None
            sign = call
        call = block.value(call.args[0])
    if not dataflow.is_call(call, "permute_dims") or [int(axis) for axis in call.attrs.axes or ()] != OUTWARD:
        return None
    image = call.args[0]
    if dataflow.shape(image)[0] != dataflow.shape(source)[0]:
        return None
    if sign is None:
        return image
    return block.emit(relax.Call(sign.op, [image, *sign.args[1:]], sign.attrs, sign.ty_args, sign.span))
