"""Standard operators on images: convolution, pooling, and what works channel by channel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
from tvm import relax

from bnncc.frontend import pads as padding
from bnncc.frontend.converters.heights import with_height, without_height
from bnncc.frontend.node import Node, shape_of
from bnncc.ops import spans
from bnncc.runtime.errors import ModelError


def conv(node: Node) -> relax.Expr:
    rank, group = padding.spatial_rank(node), node.integer("group", 1)
    w = node.array(1, "weight")
    _check_float32(node)
    if w.ndim != rank + 2 or group < 1 or w.shape[1] * group != node.shape(0)[1] or w.shape[0] % group:
        raise ModelError(f"weight has shape {w.shape}, {group} groups; input has shape {node.shape(0)}")
    kernel = w.shape[2:]
    if node.ints("kernel_shape", kernel) != kernel:
        raise ModelError(f"kernel_shape is {node.attributes['kernel_shape']}; the weight has shape {w.shape}")
    strides, dilations = node.ints("strides", (1,) * rank), node.ints("dilations", (1,) * rank)
    pads = padding.explicit(node, kernel, strides, dilations)
    strides, dilations = padding.bounded(node.shape(0), kernel, strides, dilations, pads)
    x = node.x
    if rank == 1:
        x, w = with_height(x, node.emit), w[:, :, None]
        strides, dilations, pads = (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
    y = node.emit(
        spans.marked(
            relax.op.nn.conv2d(x, relax.const(w), strides=strides, padding=pads, dilation=dilations, groups=group),
            node.span,
        )
    )
    if node.given(2):
        bias = node.array(2, "bias")
        if bias.shape != w.shape[:1]:
            raise ModelError(f"bias has shape {bias.shape}, needed: {w.shape[:1]}")
        y = node.emit(relax.op.add(y, _per_channel(bias, 4)))
    return y if rank == 2 else without_height(y, node.emit)


def _per_channel(values: npt.NDArray[np.generic], rank: int) -> relax.Expr:
    """float32 [C] as a constant [1, C, 1, ...] that broadcasts over an image."""
    return relax.const(np.ascontiguousarray(values.reshape(1, -1, *[1] * (rank - 2)), dtype=np.float32))


def _check_float32(node: Node) -> None:
    if node.dtype(0) != "float32":
        raise ModelError(f"input is {node.dtype(0)}; it must be float32")


def batch_normalization(node: Node) -> relax.Expr:
    if node.integer("training_mode", 0) or node.outputs > 1:
        raise ModelError("in training mode; export the network after model.eval()")
    if node.integer("spatial", 1) != 1:
        raise ModelError("spatial is 0: one mean for each pixel; only one for each channel is supported")
    _check_float32(node)
    names = ("scale", "bias", "mean", "variance")
    arrays = [node.array(i + 1, name) for i, name in enumerate(names)]
    epsilon = node.real("epsilon", 1e-5)
    if not epsilon >= 0:
        raise ModelError(f"epsilon is {epsilon}; it must be 0 or more")
    if len(node.shape(0)) < 2:
        raise ModelError(f"input has shape {node.shape(0)}; a batch [N, C, ...] is supported")
    channels = node.shape(0)[1]
    for name, array in zip(names, arrays, strict=True):
        if array.shape != (channels,):
            raise ModelError(f"{name} has shape {array.shape}, needed: ({channels},)")
        if array.dtype != np.float32:
            raise ModelError(f"{name} is {array.dtype}; it must be float32")
    variance = arrays[3].astype(np.float32, copy=False)
    if (variance < 0).any():
        raise ModelError(f"variance is negative ({variance.min()}); no data has that")
    if not (variance + np.float32(epsilon) > 0).all():
        raise ModelError(f"variance 0 with epsilon {epsilon} divides by zero; give epsilon > 0")
    constants = [relax.const(array) for array in arrays]
    call = relax.op.nn.batch_norm(node.x, *constants, axis=1, epsilon=epsilon, training=False)
    return relax.TupleGetItem(node.emit(spans.marked(call, node.span)), 0)


def prelu(node: Node) -> relax.Expr:
    shape, slope, kind = node.shape(0), node.array(1, "slope"), node.dtype(0)
    channels = shape[1] if len(shape) > 1 else 1
    aligned = slope.reshape((1,) * (len(shape) - slope.ndim) + slope.shape) if slope.ndim <= len(shape) else slope
    one_each = (1, channels) + (1,) * (len(shape) - 2)
    if kind == "float32" and len(shape) > 1 and aligned.shape in (one_each, (1,) * len(shape)):
        per_channel = np.ascontiguousarray(np.broadcast_to(aligned.reshape(-1), (channels,)))
        return relax.op.nn.prelu(node.x, relax.const(per_channel), axis=1)
    scaled = node.emit(relax.op.multiply(node.x, relax.const(slope, kind)))
    return relax.op.where(node.emit(relax.op.less(node.x, relax.const(0, kind))), scaled, node.x)


def max_pool(node: Node) -> relax.Expr:
    return _pool(node, relax.op.nn.max_pool2d)


def average_pool(node: Node) -> relax.Expr:
    inside = not node.integer("count_include_pad", 0)
    if node.integer("ceil_mode", 0) and not padding.ceil_changes_nothing(node):
        raise ModelError("ceil_mode average pooling with an incomplete last window is not supported; pad explicitly")
    return _pool(node, partial(relax.op.nn.avg_pool2d, count_include_pad=not inside))


def _pool(node: Node, op: Callable[..., relax.Call]) -> relax.Expr:
    rank = padding.spatial_rank(node)
    if node.outputs > 1 or node.integer("storage_order", 0):
        raise ModelError("indices of a max-pool are not supported")
    _check_float32(node)
    kernel = node.ints("kernel_shape", (1,) * rank)
    strides, dilations = node.ints("strides", (1,) * rank), node.ints("dilations", (1,) * rank)
    pads = padding.explicit(node, kernel, strides, dilations)
    if node.integer("ceil_mode", 0):
        pads = padding.for_ceil_mode(node.shape(0)[2:], kernel, strides, dilations, pads)
    strides, dilations = padding.bounded(node.shape(0), kernel, strides, dilations, pads)
    for axis, size in enumerate(node.shape(0)[2:]):
        one = (size, pads[axis], pads[axis + rank], kernel[axis], strides[axis], dilations[axis])
        if padding.has_window_in_padding(*one):
            raise ModelError(
                f"kernel_shape {kernel} with pads {pads}, dilations {dilations}: a window would lie in the padding"
            )
    x = node.x
    if rank == 1:
        x = with_height(x, node.emit)
        kernel, strides, dilations, pads = (1, *kernel), (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
    call = op(x, pool_size=kernel, strides=strides, padding=pads, dilation=dilations)
    y = node.emit(spans.marked(call, node.span))
    return y if rank == 2 else without_height(y, node.emit)


def global_average_pool(node: Node) -> relax.Expr:
    axes = list(range(2, len(node.shape(0))))
    return spans.marked(relax.op.mean(node.x, axis=axes, keepdims=True), node.span)


def global_max_pool(node: Node) -> relax.Expr:
    rank = padding.spatial_rank(node)
    _check_float32(node)
    x = node.x if rank == 2 else with_height(node.x, node.emit)
    y = node.emit(spans.marked(relax.op.nn.max_pool2d(x, pool_size=shape_of(x)[2:]), node.span))
    return y if rank == 2 else without_height(y, node.emit)
