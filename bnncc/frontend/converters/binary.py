"""The operators of the domain bnncc."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from tvm import relax

from bnncc import bitpack
from bnncc.frontend import pads as padding
from bnncc.frontend.converters.heights import with_height, without_height
from bnncc.frontend.node import Node
from bnncc.frontend.onnx_file import check_extents
from bnncc.ops import binarize as binarize_op
from bnncc.ops import binary_conv2d, channel_interaction
from bnncc.ops import circulant_expand as rotations
from bnncc.runtime.errors import ModelError

# Attributes by operator: name -> whether it must be given.
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
    "ChannelInteraction": {},
    "CirculantExpand": {"channels": True, "orientations": True, "mixing": True},
}
# How many inputs each takes.
INPUTS = {
    "Binarize": 1,
    "BinaryConv": 2,
    "BinaryGemm": 2,
    "ChannelInteraction": 3,
    "CirculantExpand": 1,
}


def binarize(node: Node) -> relax.Expr:
    unipolar, threshold = node.integer("unipolar", 0), node.real("threshold", 0.0)
    if unipolar not in (0, 1) or not np.isfinite(threshold):
        raise ModelError(f"unipolar is {unipolar}, allowed: 0, 1; threshold is {threshold}, it must be finite")
    if not unipolar:
        threshold = 0.0  # not read, by the operator's definition
    _check_float32(node)
    return binarize_op.call(node.x, int(unipolar), float(threshold), span=node.span)


def binary_conv(node: Node) -> relax.Expr:
    rank, group, channels = padding.spatial_rank(node), node.integer("group", 1), node.integer("channels", 0)
    ones = (1,) * rank
    kernel, strides, dilations = (node.ints(name, ones) for name in ("kernel_shape", "strides", "dilations"))
    pads, pad_value = node.ints("pads", (0,) * (2 * rank)), node.real("pad_value", 0.0)
    if pad_value not in (-1.0, 0.0, 1.0):
        raise ModelError(f"pad_value is {pad_value}, allowed: -1, 0, 1")
    _check_float32(node)
    w = _packed_weight(node, 1, channels, rank=3)
    if group < 1 or channels * group != node.shape(0)[1] or w.shape[0] % group:
        raise ModelError(
            f"{channels} channels x {group} groups, {w.shape[0]} filters; input has {node.shape(0)[1]} channels"
        )
    if w.shape[1] != np.prod(kernel):
        raise ModelError(f"packed weight has {w.shape[1]} taps; kernel_shape {kernel} needs {int(np.prod(kernel))}")
    strides, dilations = padding.bounded(node.shape(0), kernel, strides, dilations, pads)
    x = node.x if rank == 2 else with_height(node.x, node.emit)
    if rank == 1:
        kernel, strides, dilations, pads = (1, *kernel), (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
    nhwc = node.emit(relax.op.permute_dims(x, [0, 2, 3, 1]))
    call = binary_conv2d.call(nhwc, w, kernel, strides, pads, dilations, group, int(pad_value), span=node.span)
    y = node.emit(relax.op.permute_dims(node.emit(call), [0, 3, 1, 2]))
    return y if rank == 2 else without_height(y, node.emit)


def binary_gemm(node: Node) -> relax.Expr:
    channels = node.integer("channels", 0)
    _check_float32(node)
    w = _packed_weight(node, 1, channels, rank=2)
    if len(node.shape(0)) != 2 or node.shape(0)[1] != channels:
        raise ModelError(f"input has shape {node.shape(0)}, needed: (M, {channels})")
    rows = node.shape(0)[0]
    image = node.emit(relax.op.reshape(node.x, (rows, 1, 1, channels)))
    y = node.emit(binary_conv2d.call(image, w[:, None], (1, 1), span=node.span))
    return relax.op.reshape(y, (rows, w.shape[0]))


def interaction(node: Node) -> relax.Expr:
    _check_float32(node)
    shape = node.shape(0)
    if not 2 <= len(shape) <= 4:
        raise ModelError(f"input of shape {shape}; allowed are [N, C], [N, C, L] and [N, C, H, W]")
    up, down = node.constant(1, "up"), node.constant(2, "down")
    if reason := channel_interaction.why_not(up, down, shape[1]):
        raise ModelError(reason)
    if len(shape) == 2:
        image = node.emit(relax.op.reshape(node.x, (shape[0], 1, 1, shape[1])))
        return relax.op.reshape(node.emit(channel_interaction.call(image, up, down, span=node.span)), shape)
    x = node.x if len(shape) == 4 else with_height(node.x, node.emit)
    nhwc = node.emit(relax.op.permute_dims(x, [0, 2, 3, 1]))
    interacted = node.emit(channel_interaction.call(nhwc, up, down, span=node.span))
    y = node.emit(relax.op.permute_dims(interacted, [0, 3, 1, 2]))
    return y if len(shape) == 4 else without_height(y, node.emit)


def circulant_expand(node: Node) -> relax.Expr:
    """The expanded weights, a constant. Kernels find out from its bits that it is circulant."""
    channels, orientations = node.integer("channels", 0), node.integer("orientations", 0)
    mixing = node.text("mixing", "")
    try:
        slices = rotations.slices(orientations, mixing)
    except ValueError as error:
        raise ModelError(str(error)) from None
    w = _packed_weight(node, 0, slices * channels, rank=3)
    if w.shape[1] not in (1, 9):
        raise ModelError(f"base filters have {w.shape[1]} taps; allowed: 9 (3x3) and 1")
    check_extents((orientations * w.shape[0], w.shape[1], orientations * channels), "the expanded weight")
    expanded = rotations.meaning(w, channels=channels, orientations=orientations, mixing=mixing)
    return relax.const(expanded, "uint8")


def _check_float32(node: Node) -> None:
    if node.dtype(0) != "float32":
        raise ModelError(f"input is {node.dtype(0)}; it must be float32")


def _packed_weight(node: Node, index: int, channels: int, *, rank: int) -> npt.NDArray[np.uint8]:
    """Input `index`, packed weights: [O, T, B] or [N, B]. ModelError unless its bytes can hold `channels` bits."""
    w = node.array(index, "packed weight")
    fits = 1 <= channels <= 8 * max(w.shape, default=0)
    if not fits or w.dtype != np.uint8 or w.ndim != rank or w.shape[-1] != bitpack.packed_bytes(channels):
        needed = f"uint8 with {rank} axes, the last of {bitpack.packed_bytes(max(channels, 1))} bytes"
        raise ModelError(f"packed weight is {w.dtype} {w.shape} for {channels} channels; it must be {needed}")
    packed: npt.NDArray[np.uint8] = w.astype(np.uint8, copy=False)
    if not (bitpack.pack(bitpack.unpack(packed, channels)) == packed).all():
        raise ModelError(f"packed weight has bits set past its {channels} channels; they must be 0")
    return packed
