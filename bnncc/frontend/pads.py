"""Padding as ONNX says it (auto_pad, ceil_mode) as explicit numbers: begins, then ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bnncc.ops.window import output_size
from bnncc.runtime.errors import ModelError

if TYPE_CHECKING:
    from bnncc.frontend.node import Node

Ints = tuple[int, ...]


def explicit(node: Node, kernel: Sequence[int], strides: Ints, dilations: Ints) -> Ints:
    """The pads of a convolution or pooling node."""
    mode = node.attributes.get("auto_pad", b"NOTSET")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    rank = len(kernel)
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
    kernel = tuple(int(k) for k in node.attributes["kernel_shape"])
    ones = (1,) * len(kernel)
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
