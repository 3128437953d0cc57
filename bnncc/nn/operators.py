"""Torch operators of the domain `bnncc`: they run as torch does, and stay single nodes where torch records a graph.

bnncc::binarize     x -> +-1, or {0, 1} (bnncc/ops/binarize.py)
bnncc::binary_conv  binarised x [N, C, ...], quantized weight [O, C / groups, ...] -> [N, O, ...] (ops/binary_conv.py);
                    an x without N gives a result without it
bnncc::binary_gemm  binarised x [..., K], quantized weight [N, K] -> [..., N] (ops/binary_gemm.py)

Each is composite: training, torch.func, torch.compile, fake and half tensors see the torch operators inside, while
torch.fx and torch.export keep the call, from which the exporter writes one ONNX node. Sums are taken in float32 at
least, under autocast too, so that they are exact integers.
"""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

_LIBRARY = torch.library.Library("bnncc", "DEF")


def binarize(x: Tensor, unipolar: bool, threshold: float) -> Tensor:
    """Without a gradient of its own; `Sign` and `Bits` add the estimator."""
    return cast(Tensor, torch.ops.bnncc.binarize(x, unipolar, threshold))


def binary_conv(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: float,
) -> Tensor:
    """pads: begins of all spatial axes, then their ends, pixels, filled with `pad_value`."""
    return cast(Tensor, torch.ops.bnncc.binary_conv(x, weight, stride, pads, dilation, groups, pad_value))


def binary_gemm(x: Tensor, weight: Tensor) -> Tensor:
    """x weight^T."""
    return cast(Tensor, torch.ops.bnncc.binary_gemm(x, weight))


def _binarize(x: Tensor, unipolar: bool, threshold: float) -> Tensor:
    if unipolar:
        return (x > threshold).to(x.dtype)
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


def _binary_conv(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: float,
) -> Tensor:
    spatial = weight.dim() - 2
    begins, ends = list(pads[:spatial]), list(pads[spatial:])
    if pad_value != 0 or begins != ends:
        border = [p for pair in zip(reversed(begins), reversed(ends), strict=True) for p in pair]
        x = functional.pad(x, border, value=pad_value)
        begins = [0] * spatial
    convolve = functional.conv1d if spatial == 1 else functional.conv2d
    return _exact(lambda x, w: convolve(x, w, None, stride, begins, dilation, groups), x, weight)


def _binary_gemm(x: Tensor, weight: Tensor) -> Tensor:
    return _exact(functional.linear, x, weight)


def _exact(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> Tensor:
    """float16 holds integers up to 2048 only, bfloat16 up to 256."""
    result = torch.promote_types(x.dtype, weight.dtype)
    wide = torch.promote_types(result, torch.float32)
    kind = x.device.type
    with torch.autocast(kind, enabled=False) if _autocast(kind) else contextlib.nullcontext():
        return product(x.to(wide), weight.to(wide)).to(result)


def _autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _batched(operator: Callable[..., Tensor], tensors: int) -> Callable[..., tuple[Tensor, int]]:
    """The vmap rule: torch's own rules for what the operator is made of."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Tensor, int]:
        inner = partial(_trailing, operator, arguments[tensors:])
        return torch.vmap(inner, in_dims[:tensors])(*arguments[:tensors]), 0

    return rule


def _trailing(operator: Callable[..., Tensor], options: tuple[Any, ...], *tensors: Tensor) -> Tensor:
    return operator(*tensors, *options)


def _define(signature: str, operator: Callable[..., Tensor], tensors: int) -> None:
    name = signature.partition("(")[0]
    _LIBRARY.define(signature)
    _LIBRARY.impl(name, operator, "CompositeImplicitAutograd")
    torch.library.register_vmap(f"bnncc::{name}", _batched(operator, tensors), lib=_LIBRARY)


_define("binarize(Tensor x, bool unipolar, float threshold) -> Tensor", _binarize, 1)
_define(
    "binary_conv(Tensor x, Tensor weight, int[] stride, int[] pads, int[] dilation, int groups, float pad_value)"
    " -> Tensor",
    _binary_conv,
    2,
)
_define("binary_gemm(Tensor x, Tensor weight) -> Tensor", _binary_gemm, 2)
