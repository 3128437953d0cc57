"""ONNX nodes to Relax, one function an operator: our own domain, and the standard operators that networks are made of.

The rest goes through TVM's converters. These are here because TVM's say the same in more, or already lowered, Relax
(Clip, BatchNormalization, Gemm), ignore domains, or know no 1-D convolution that becomes a 2-D one.

A converter takes a `Node` and returns an expression, images in ONNX's layout (channels second). It raises ModelError
with what is wrong; the importer puts the file and the node in front.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax
from tvm.ir import GenericConst

from bnncc.frontend import pads as padding
from bnncc.frontend.node import Node, shape_of
from bnncc.ops import binarize as binarize_op
from bnncc.ops import binary_conv2d, bitpack, spans
from bnncc.runtime.errors import ModelError


def _per_channel(values: npt.NDArray[Any], rank: int) -> Any:
    """float32 [C] as a constant [1, C, 1, ...] that broadcasts over an image."""
    shape = (1, -1, *[1] * (rank - 2)) if rank > 1 else (-1,)
    return relax.const(np.ascontiguousarray(values.reshape(shape), dtype=np.float32))


def _with_height(x: Any, emit: Callable[[Any], Any]) -> Any:
    """[N, C, L] -> [N, C, 1, L]."""
    n, channels, length = shape_of(x)
    return emit(relax.op.reshape(x, (n, channels, 1, length)))


def _without_height(x: Any, emit: Callable[[Any], Any]) -> Any:
    n, channels, _, length = shape_of(x)
    return emit(relax.op.reshape(x, (n, channels, length)))


def _spatial(node: Node) -> int:
    rank = len(node.shape(0)) - 2
    if rank not in (1, 2):
        raise ModelError(f"input of shape {node.shape(0)}; images [N, C, H, W] and sequences [N, C, L] are supported")
    return rank


# --- the domain bnncc ---


def binarize(node: Node) -> Any:
    unipolar, threshold = node.attributes.get("unipolar", 0), node.attributes.get("threshold", 0.0)
    if unipolar not in (0, 1) or not np.isfinite(threshold):
        raise ModelError(f"unipolar is {unipolar}, allowed: 0, 1; threshold is {threshold}, it must be finite")
    if not unipolar:
        threshold = 0.0  # not read, by the operator's definition
    return binarize_op.call(node.inputs[0], int(unipolar), float(threshold), span=node.span)


def _packed_weight(node: Node, channels: int, *, rank: int) -> npt.NDArray[np.uint8]:
    """The weight of a binary layer, [O, T, B] or [N, B]. ModelError unless its bytes can hold `channels` bits."""
    w = node.array(1, "packed weight")
    if channels < 1 or w.dtype != np.uint8 or w.ndim != rank or w.shape[-1] != bitpack.packed_bytes(channels):
        needed = f"uint8 with {rank} axes, the last of {bitpack.packed_bytes(max(channels, 1))} bytes"
        raise ModelError(f"packed weight is {w.dtype} {w.shape} for {channels} channels; it must be {needed}")
    if not (bitpack.pack(bitpack.unpack(w, channels)) == w).all():
        raise ModelError(f"packed weight has bits set past its {channels} channels; they must be 0")
    return w


def binary_conv(node: Node) -> Any:
    rank, group, channels = _spatial(node), int(node.attributes.get("group", 1)), int(node.attributes["channels"])
    kernel, strides = node.ints("kernel_shape", (1,) * rank), node.ints("strides", (1,) * rank)
    dilations, pads = node.ints("dilations", (1,) * rank), node.ints("pads", (0,) * (2 * rank))
    pad_value = node.attributes.get("pad_value", 0.0)
    if pad_value not in (-1.0, 0.0, 1.0):
        raise ModelError(f"pad_value is {pad_value}, allowed: -1, 0, 1")
    w = _packed_weight(node, channels, rank=3)
    if group < 1 or channels * group != node.shape(0)[1] or w.shape[0] % group:
        raise ModelError(
            f"{channels} channels x {group} groups, {w.shape[0]} filters; input has {node.shape(0)[1]} channels"
        )
    if w.shape[1] != int(np.prod(kernel)):
        raise ModelError(f"packed weight has {w.shape[1]} taps; kernel_shape {kernel} needs {int(np.prod(kernel))}")
    x = node.inputs[0] if rank == 2 else _with_height(node.inputs[0], node.emit)
    if rank == 1:
        kernel, strides, dilations, pads = (1, *kernel), (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
    nhwc = node.emit(relax.op.permute_dims(x, [0, 2, 3, 1]))
    call = binary_conv2d.call(nhwc, w, kernel, strides, pads, dilations, group, int(pad_value), span=node.span)
    y = node.emit(relax.op.permute_dims(node.emit(call), [0, 3, 1, 2]))
    return y if rank == 2 else _without_height(y, node.emit)


def binary_gemm(node: Node) -> Any:
    channels = int(node.attributes["channels"])
    w = _packed_weight(node, channels, rank=2)
    if len(node.shape(0)) != 2 or node.shape(0)[1] != channels:
        raise ModelError(f"input has shape {node.shape(0)}, needed: (M, {channels})")
    rows = node.shape(0)[0]
    image = node.emit(relax.op.reshape(node.inputs[0], (rows, 1, 1, channels)))
    y = node.emit(binary_conv2d.call(image, w[:, None], (1, 1), span=node.span))
    return relax.op.reshape(y, (rows, w.shape[0]))


# --- standard ONNX ---


def conv(node: Node) -> Any:
    rank, group = _spatial(node), int(node.attributes.get("group", 1))
    w = node.array(1, "weight")
    if w.ndim != rank + 2 or group < 1 or w.shape[1] * group != node.shape(0)[1] or w.shape[0] % group:
        raise ModelError(f"weight has shape {w.shape}, {group} groups; input has shape {node.shape(0)}")
    if tuple(node.attributes.get("kernel_shape", w.shape[2:])) != w.shape[2:]:
        raise ModelError(f"kernel_shape is {node.attributes['kernel_shape']}; the weight has shape {w.shape}")
    strides, dilations = node.ints("strides", (1,) * rank), node.ints("dilations", (1,) * rank)
    pads = padding.explicit(node, w.shape[2:], strides, dilations)
    x = node.inputs[0]
    if rank == 1:
        x, w = _with_height(x, node.emit), w[:, :, None]
        strides, dilations, pads = (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
    y = node.emit(
        spans.marked(
            relax.op.nn.conv2d(x, relax.const(w), strides=strides, padding=pads, dilation=dilations, groups=group),
            node.span,
        )
    )
    if node.given(2):
        y = node.emit(relax.op.add(y, _per_channel(node.array(2, "bias"), 4)))
    return y if rank == 2 else _without_height(y, node.emit)


def gemm(node: Node) -> Any:
    a, w = node.inputs[0], node.inputs[1]
    alpha, beta = float(node.attributes.get("alpha", 1.0)), float(node.attributes.get("beta", 1.0))
    if node.attributes.get("transA", 0):
        a = node.emit(relax.op.permute_dims(a, [1, 0]))
    if isinstance(w, GenericConst):
        value = node.array(1, "weight")
        w = relax.const(np.ascontiguousarray(value.T if node.attributes.get("transB", 0) else value))
    elif node.attributes.get("transB", 0):
        w = node.emit(relax.op.permute_dims(w, [1, 0]))
    y = node.emit(spans.marked(relax.op.matmul(a, w), node.span))
    if alpha != 1.0:
        y = node.emit(relax.op.multiply(y, relax.const(alpha, "float32")))
    if not node.given(2) or beta == 0.0:
        return y
    bias = node.inputs[2]
    if isinstance(bias, GenericConst):
        bias = relax.const((node.array(2, "bias") * np.float32(beta)).astype(np.float32))
    elif beta != 1.0:
        bias = node.emit(relax.op.multiply(bias, relax.const(beta, "float32")))
    return relax.op.add(y, bias)


def batch_normalization(node: Node) -> Any:
    if node.attributes.get("training_mode", 0) or node.outputs > 1:
        raise ModelError("in training mode; export the network after model.eval()")
    names = ("scale", "bias", "mean", "variance")
    arrays = [node.array(i + 1, name) for i, name in enumerate(names)]
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    channels = node.shape(0)[1] if len(node.shape(0)) > 1 else 1
    for name, array in zip(names, arrays, strict=True):
        if array.shape != (channels,):
            raise ModelError(f"{name} has shape {array.shape}, needed: ({channels},)")
    if (arrays[3] < 0).any():
        raise ModelError(f"variance is negative ({arrays[3].min()}); no data has that")
    if not (arrays[3] + np.float32(epsilon) > 0).all():
        raise ModelError(f"variance 0 with epsilon {epsilon} divides by zero; give epsilon > 0")
    constants = [relax.const(array) for array in arrays]
    call = relax.op.nn.batch_norm(node.inputs[0], *constants, axis=1, epsilon=epsilon, training=False)
    return relax.TupleGetItem(node.emit(spans.marked(call, node.span)), 0)


def prelu(node: Node) -> Any:
    shape, slope = node.shape(0), node.array(1, "slope")
    channels = shape[1] if len(shape) > 1 else 1
    aligned = slope.reshape((1,) * (len(shape) - slope.ndim) + slope.shape) if slope.ndim <= len(shape) else slope
    if len(shape) > 1 and aligned.shape in ((1, channels) + (1,) * (len(shape) - 2), (1,) * len(shape)):
        per_channel = np.ascontiguousarray(np.broadcast_to(aligned.reshape(-1), (channels,)))
        return relax.op.nn.prelu(node.inputs[0], relax.const(per_channel), axis=1)
    scaled = node.emit(relax.op.multiply(node.inputs[0], relax.const(slope)))
    zero = relax.const(0.0, "float32")
    return relax.op.where(node.emit(relax.op.less(node.inputs[0], zero)), scaled, node.inputs[0])


def relu(node: Node) -> Any:
    return relax.op.nn.relu(node.inputs[0])


def leaky_relu(node: Node) -> Any:
    return relax.op.nn.leakyrelu(node.inputs[0], float(node.attributes.get("alpha", 0.01)))


def clip(node: Node) -> Any:
    """Bounds are attributes before opset 11 and inputs since."""
    result = node.inputs[0]
    for index, name, op in ((1, "min", relax.op.maximum), (2, "max", relax.op.minimum)):
        bound = node.attributes.get(name)
        if node.given(index):
            if not isinstance(node.inputs[index], GenericConst):
                raise ModelError(f"{name} is computed at run time; it must be a constant")
            bound = float(node.inputs[index].value.numpy().reshape(()))
        if bound is not None and np.isfinite(bound):
            result = node.emit(op(result, relax.const(bound, str(result.ty.dtype))))
    return result


def hard_sigmoid(node: Node) -> Any:
    """max(0, min(1, alpha * x + beta))."""
    return _hard_sigmoid(node, float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5)))


def hard_swish(node: Node) -> Any:
    """x * HardSigmoid(x) with alpha = 1/6 and beta = 1/2."""
    return relax.op.multiply(node.inputs[0], node.emit(_hard_sigmoid(node, 1 / 6, 0.5)))


def _hard_sigmoid(node: Node, alpha: float, beta: float) -> Any:
    kind = str(node.inputs[0].ty.dtype)
    line = node.emit(relax.op.multiply(node.inputs[0], relax.const(alpha, kind)))
    line = node.emit(relax.op.add(line, relax.const(beta, kind)))
    return relax.op.maximum(node.emit(relax.op.minimum(line, relax.const(1.0, kind))), relax.const(0.0, kind))


def maximum(node: Node) -> Any:
    return _pairwise(node, relax.op.maximum)


def minimum(node: Node) -> Any:
    return _pairwise(node, relax.op.minimum)


def _pairwise(node: Node, op: Callable[[Any, Any], Any]) -> Any:
    result = node.inputs[0]
    for other in node.inputs[1:]:
        result = node.emit(op(result, other))
    return result


def max_pool(node: Node) -> Any:
    return _pool(node, relax.op.nn.max_pool2d)


def average_pool(node: Node) -> Any:
    inside = not node.attributes.get("count_include_pad", 0)
    if node.attributes.get("ceil_mode", 0) and not padding.ceil_changes_nothing(node):
        raise ModelError("ceil_mode average pooling with an incomplete last window is not supported; pad explicitly")
    return _pool(node, relax.op.nn.avg_pool2d, count_include_pad=not inside)


def _pool(node: Node, op: Callable[..., Any], **options: Any) -> Any:
    rank = _spatial(node)
    if node.outputs > 1 or node.attributes.get("storage_order", 0):
        raise ModelError("indices of a max-pool are not supported")
    kernel = tuple(int(k) for k in node.attributes["kernel_shape"])
    strides, dilations = node.ints("strides", (1,) * rank), node.ints("dilations", (1,) * rank)
    pads = padding.explicit(node, kernel, strides, dilations)
    if len(kernel) != rank or (any(p >= k for p, k in zip(pads, kernel * 2, strict=True)) and dilations == (1,) * rank):
        raise ModelError(f"kernel_shape {kernel} with pads {pads}: a window would lie in the padding")
    if node.attributes.get("ceil_mode", 0):
        pads = padding.for_ceil_mode(node.shape(0)[2:], kernel, strides, dilations, pads)
    x = node.inputs[0]
    if rank == 1:
        x = _with_height(x, node.emit)
        kernel, strides, dilations, pads = (1, *kernel), (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
    call = op(x, pool_size=kernel, strides=strides, padding=pads, dilation=dilations, **options)
    y = node.emit(spans.marked(call, node.span))
    return y if rank == 2 else _without_height(y, node.emit)


def global_average_pool(node: Node) -> Any:
    axes = list(range(2, len(node.shape(0))))
    return spans.marked(relax.op.mean(node.inputs[0], axis=axes, keepdims=True), node.span)


def identity(node: Node) -> Any:
    if node.outputs > 1:
        raise ModelError("a dropout mask is not supported; export the network after model.eval()")
    return node.inputs[0]


def constant(node: Node) -> Any:
    from onnx import numpy_helper

    (name, value), *more = node.attributes.items()
    kinds = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
    if more or name not in (*kinds, "value"):
        raise ModelError(f"a constant given as {name} is not supported; give a dense tensor")
    array = numpy_helper.to_array(value) if name == "value" else np.asarray(value, dtype=kinds[name])
    return relax.const(array, str(array.dtype))


CONVERTERS: dict[tuple[str, str], Callable[[Node], Any]] = {
    ("bnncc", "Binarize"): binarize,
    ("bnncc", "BinaryConv"): binary_conv,
    ("bnncc", "BinaryGemm"): binary_gemm,
    ("", "Conv"): conv,
    ("", "Gemm"): gemm,
    ("", "BatchNormalization"): batch_normalization,
    ("", "PRelu"): prelu,
    ("", "Relu"): relu,
    ("", "LeakyRelu"): leaky_relu,
    ("", "Clip"): clip,
    ("", "HardSigmoid"): hard_sigmoid,
    ("", "HardSwish"): hard_swish,
    ("", "Max"): maximum,
    ("", "Min"): minimum,
    ("", "MaxPool"): max_pool,
    ("", "AveragePool"): average_pool,
    ("", "GlobalAveragePool"): global_average_pool,
    ("", "Identity"): identity,
    ("", "Dropout"): identity,
    ("", "Constant"): constant,
}

# Attributes of the operators of our own domain: name -> whether it must be given.
ATTRIBUTES: dict[str, dict[str, bool]] = {
    "Binarize": {"unipolar": False, "threshold": False},
    "BinaryConv": {
        "channels": True,
        "kernel_shape": True,
        "strides": True,
        "pads": True,
        "dilations": True,
        "group": False,
        "pad_value": False,
    },
    "BinaryGemm": {"channels": True},
}
