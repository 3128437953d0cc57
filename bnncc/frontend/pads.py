"""Padding as ONNX says it (auto_pad, ceil_mode) as explicit numbers: begins, then ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bnncc.frontend.onnx_file import check_extents
from bnncc.ops.window import output_size
from bnncc.runtime.errors import ModelError

if TYPE_CHECKING:
    from bnncc.frontend.node import Node

Ints = tuple[int, ...]

# Of taps farther apart than the image is long, so many windows at least have one in the padding alone.
MOST_WINDOWS = 2**20


def spatial_rank(node: Node) -> int:
    """1 for sequences, 2 for images."""
    rank = len(node.shape(0)) - 2
    if rank not in (1, 2):
        raise ModelError(f"input of shape {node.shape(0)}; images [N, C, H, W] and sequences [N, C, L] are supported")
    return rank


def bounded(shape: Sequence[int], kernel: Ints, strides: Ints, dilations: Ints, pads: Ints) -> tuple[Ints, Ints]:
    """Strides and dilations that mean the same and are no larger than the padded image [N, C, ...]. ModelError where no
    window fits into it, or it is too large for any memory."""
    rank = len(kernel)
    padded = [size + pads[axis] + pads[axis + rank] for axis, size in enumerate(shape[2:])]
    check_extents([*shape[:2], *padded], "the padded input")
    for axis, size in enumerate(padded):
        if output_size(size, 0, 0, kernel[axis], strides[axis], dilations[axis]) < 1:
            raise ModelError(
                f"kernel_shape {kernel}, dilations {dilations} does not fit into {tuple(shape[2:])} padded by {pads}"
            )
    return (
        tuple(min(stride, size) for stride, size in zip(strides, padded, strict=True)),
        tuple(1 if k == 1 else dilation for k, dilation in zip(kernel, dilations, strict=True)),
    )


def has_window_in_padding(size: int, before: int, after: int, kernel: int, stride: int, dilation: int) -> bool:
    """Whether some window along an axis has no tap on the image: there onnxruntime's maximum is the least number, and
    an average divides by nothing."""
    windows = output_size(size, before, after, kernel, stride, dilation)
    if before > dilation * (kernel - 1) or (windows - 1) * stride - before >= size:
        return True  # the first, or the last
    if dilation <= size:
        return False  # taps do not step over the image
    if windows > MOST_WINDOWS:
        return True
    first = np.arange(windows) * stride - before
    tap = np.maximum(0, -(first // dilation))  # the first at or past the image's begin
    return bool((first + tap * dilation >= size).any())


def explicit(node: Node, kernel: Sequence[int], strides: Ints, dilations: Ints) -> Ints:
    """The pads of a convolution or pooling node."""
    mode, rank = node.text("auto_pad", "NOTSET"), len(kernel)
    if mode in ("", "NOTSET"):
        return node.ints("pads", (0,) * (2 * rank))
    if mode == "VALID":
        return (0,) * (2 * rank)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise ModelError(f"auto_pad is {mode!r}, allowed: NOTSET, VALID, SAME_UPPER, SAME_LOWER")
    sizes = node.shape(0)[2:]
    totals = [
        max(0, (-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size)
        for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return (*small, *large) if mode == "SAME_UPPER" else (*large, *small)


def for_ceil_mode(sizes: Sequence[int], kernel: Ints, strides: Ints, dilations: Ints, pads: Ints) -> Ints:
    """Pads with which rounding down gives what ceil_mode gives: a last window may be incomplete, but must begin
    inside the image or its leading padding."""
    rank, ends = len(kernel), []
    for axis, size in enumerate(sizes):
        before, after = pads[axis], pads[axis + rank]
        reach, stride = dilations[axis] * (kernel[axis] - 1) + 1, strides[axis]
        windows = -(-(size + before + after - reach) // stride) + 1
        if (windows - 1) * stride >= size + before:
            windows -= 1
        ends.append(max(after, (windows - 1) * stride + reach - size - before))
    return (*pads[:rank], *ends)


def ceil_changes_nothing(node: Node) -> bool:
    """Whether a pooling node with ceil_mode has the windows it would have without."""
    ones = (1,) * (len(node.shape(0)) - 2)
    kernel = node.ints("kernel_shape", ones)
    strides, dilations = node.ints("strides", ones), node.ints("dilations", ones)
    pads, sizes = explicit(node, kernel, strides, dilations), node.shape(0)[2:]
    ceiled = for_ceil_mode(sizes, kernel, strides, dilations, pads)
    rank = len(kernel)
    return all(
        output_size(size, p[axis], p[axis + rank], kernel[axis], strides[axis], dilations[axis])
        == output_size(size, pads[axis], pads[axis + rank], kernel[axis], strides[axis], dilations[axis])
        for p in (ceiled,)
        for axis, size in enumerate(sizes)
    )
