"""Torch operators of the domain `bnncc`: they run as torch does, and stay single nodes where torch records a graph.

- bnncc::binarize: x -> +-1, or {0, 1} (bnncc/ops/binarize.py)
- bnncc::binary_conv: binarised x [N, C, ...], quantized weight [O, C / groups, ...] -> [N, O, ...], and an x
  without N gives a result without it (ops/binary_conv.py)
- bnncc::circulant_expand: quantized base filters [O, slices * C, 3, 3] or [.., 1, 1] -> the weight [M * O, M * C, ..]
  of all M orientations (ops/circulant_expand.py)
- bnncc::binary_gemm: binarised x [..., K], quantized weight [N, K] -> [..., N] (ops/binary_gemm.py)
- bnncc::channel_interaction: acc [..., C, spatial axes], tables int32 [steps, 4] -> as acc
  (ops/channel_interaction.py)

Each is composite: training, torch.func, torch.compile, fake and half tensors see the torch operators inside, while
torch.fx and torch.export keep the call, from which the exporter writes one ONNX node. Sums are taken in float32 at
least, under autocast too, so that they are exact integers.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from bnncc.ops import circulant_expand as rotations
from bnncc.ops.circulant_expand import Mixing

_LIBRARY = torch.library.Library("bnncc", "DEF")  # type: ignore[no-untyped-call]


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


def channel_interaction(acc: Tensor, up: Tensor, down: Tensor, spatial: int) -> Tensor:
    """spatial: how many axes follow the channels. Its gradient is that of acc: the steps have none."""
    return cast(Tensor, torch.ops.bnncc.channel_interaction(acc, up, down, spatial))


def circulant_expand(weight: Tensor, orientations: int, mixing: Mixing) -> Tensor:
    """The layout of channels is that of ops/circulant_expand.py; a gradient is turned back and summed by autograd."""
    return cast(Tensor, torch.ops.bnncc.circulant_expand(weight, orientations, mixing))


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


def _channel_interaction(acc: Tensor, up: Tensor, down: Tensor, spatial: int) -> Tensor:
    axis = acc.dim() - 1 - spatial
    wide = acc.to(torch.promote_types(acc.dtype, torch.float32))
    read = wide.detach()
    change = torch.zeros_like(read)
    for table, reaches in ((up, torch.ge), (down, torch.le)):
        teacher, student, threshold, delta = table.unbind(1)
        limit, step = (column.to(wide.dtype).reshape(-1, *[1] * spatial) for column in (threshold, delta))
        reached = reaches(read.index_select(axis, teacher), limit)
        change = change.index_add(axis, student, reached.to(wide.dtype) * step)
    return (wide + change).to(acc.dtype)


def _circulant_expand(weight: Tensor, orientations: int, mixing: str) -> Tensor:
    kernel = weight.shape[2:]
    if kernel not in ((3, 3), (1, 1)):
        raise ValueError(f"circulant_expand: kernel is {tuple(kernel)}, allowed: (3, 3), (1, 1)")
    slices = rotations.slices(orientations, mixing)
    base = weight.reshape(weight.shape[0], slices, weight.shape[1] // slices, -1)  # [O, slices, C, T]
    turned = []
    for k in range(orientations):
        taps = base[..., list(rotations.turned(k * (8 // orientations), base.shape[-1]))]
        shifted = taps.roll(k, 1) if slices > 1 else taps.expand(-1, orientations, -1, -1)
        turned.append(shifted.flatten(1, 2))
    return torch.cat(turned).reshape(-1, orientations * base.shape[2], *kernel)


def _exact(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> Tensor:
    """float16 holds integers up to 2048 only, bfloat16 up to 256."""
    result = torch.promote_types(x.dtype, weight.dtype)
    wide = torch.promote_types(result, torch.float32)
    kind = x.device.type
    with torch.autocast(kind, enabled=False) if _autocast(kind) else contextlib.nullcontext():
        return product(x.to(wide), weight.to(wide)).to(result)


def _autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


_Dims = tuple[int | None, ...]


def _vmap_binarize(info: Any, in_dims: _Dims, x: Tensor, *options: Any) -> tuple[Tensor, int | None]:
    return binarize(x, *options), in_dims[0]


def _vmap_conv(
    info: Any,
    in_dims: _Dims,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: float,
) -> tuple[Tensor, int]:
    """A batch of inputs goes along N; a batch of weights makes that many times the groups."""
    size, (of_x, of_weight) = info.batch_size, in_dims[:2]
    spatial = weight.dim() - 2 - (of_weight is not None)
    if of_weight is None:
        x = x.movedim(int(of_x or 0), 0)
        flat = x.flatten(0, 1) if x.dim() == spatial + 3 else x
        y = binary_conv(flat, weight, stride, pads, dilation, groups, pad_value)
        return (y.reshape(*x.shape[:2], *y.shape[1:]) if flat is not x else y), 0
    x = x.unsqueeze(0).expand(size, *x.shape) if of_x is None else x.movedim(of_x, 0)
    single = x.dim() == spatial + 2
    x = x.unsqueeze(0) if single else x.movedim(0, 1)  # [N, B, C, ...]
    weight = weight.movedim(of_weight, 0)
    y = binary_conv(x.flatten(1, 2), weight.flatten(0, 1), stride, pads, dilation, groups * size, pad_value)
    y = y.reshape(y.shape[0], *weight.shape[:2], *y.shape[2:])
    return (y.squeeze(0) if single else y.movedim(1, 0)), 0


def _vmap_expand(info: Any, in_dims: _Dims, weight: Tensor, orientations: int, mixing: Mixing) -> tuple[Tensor, int]:
    """Filters do not meet each other: a batch of them is more filters."""
    weight = weight.movedim(int(in_dims[0] or 0), 0)
    expanded = circulant_expand(weight.flatten(0, 1), orientations, mixing)
    by_filter = expanded.reshape(orientations, *weight.shape[:2], *expanded.shape[1:])
    return by_filter.transpose(0, 1).flatten(1, 2), 0


def _vmap_gemm(info: Any, in_dims: _Dims, x: Tensor, weight: Tensor) -> tuple[Tensor, int]:
    of_x, of_weight = in_dims
    if of_weight is None:
        return binary_gemm(x.movedim(int(of_x or 0), 0), weight), 0
    x = x.unsqueeze(0).expand(info.batch_size, *x.shape) if of_x is None else x.movedim(of_x, 0)
    weight = weight.movedim(of_weight, 0).mT
    rows = x.reshape(info.batch_size, -1, x.shape[-1])
    return _exact(torch.bmm, rows, weight).reshape(*x.shape[:-1], weight.shape[-1]), 0


def _vmap_interaction(
    info: Any, in_dims: _Dims, acc: Tensor, up: Tensor, down: Tensor, spatial: int
) -> tuple[Tensor, int]:
    """A batch of tables is a loop: each has steps of its own."""
    of_acc, *of_tables = in_dims[:3]
    if of_tables == [None, None]:
        return channel_interaction(acc.movedim(int(of_acc or 0), 0), up, down, spatial), 0

    def one(i: int, x: Tensor, at: int | None) -> Tensor:
        return x if at is None else x.select(at, i)

    parts = [
        channel_interaction(one(i, acc, of_acc), one(i, up, of_tables[0]), one(i, down, of_tables[1]), spatial)
        for i in range(info.batch_size)
    ]
    return torch.stack(parts), 0


for _signature, _operator, _rule in (
    ("binarize(Tensor x, bool unipolar, float threshold) -> Tensor", _binarize, _vmap_binarize),
    (
        "binary_conv(Tensor x, Tensor weight, int[] stride, int[] pads, int[] dilation, int groups, float pad_value)"
        " -> Tensor",
        _binary_conv,
        _vmap_conv,
    ),
    ("binary_gemm(Tensor x, Tensor weight) -> Tensor", _binary_gemm, _vmap_gemm),
    (
        "channel_interaction(Tensor acc, Tensor up, Tensor down, int spatial) -> Tensor",
        _channel_interaction,
        _vmap_interaction,
    ),
    ("circulant_expand(Tensor weight, int orientations, str mixing) -> Tensor", _circulant_expand, _vmap_expand),
):
    _name = _signature.partition("(")[0]
    _LIBRARY.define(_signature)  # type: ignore[no-untyped-call]
    _LIBRARY.impl(_name, _operator, "CompositeImplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_vmap(f"bnncc::{_name}", _rule, lib=_LIBRARY)
