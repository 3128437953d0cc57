"""Group-Net (Zhuang, Shen, Tan, Liu, Reid, "Structured Binary Neural Networks for Accurate Image Classification and
Semantic Segmentation", CVPR 2019, arXiv 1811.10413; journal arXiv 1909.09934): K homogeneous binary bases in place of
one float network.

    layer-wise   y = sum over bases i:  lambda_i * (sign(x) (*) b_i)                           `LayerwiseConv2d`
    group-wise   m = sum over bases i:  lambda_i * G_i(x_i)                                    `Group`
    soft gates   x_i = g * G_i(x_i before) + (1 - g) * m, g = sigmoid(theta), between groups   `GroupNet`

G_i are some layers sign -> convolution -> ReLU -> BatchNorm -> + shortcut, in that order and with a shortcut around
each. Their binary convolutions (`GroupNetConv2d`) have one scale, mean |w| of all filters together, a border of +1 and
for gradients of the weights the identity, as in the authors' release; activations have Bi-Real Net's estimator.

Bases that start from one copy stay one base: each draws weights of its own.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnncc.nn import estimators
from bnncc.nn.conv import BinaryConv2d
from bnncc.nn.quantizers import Sign
from bnncc.runtime.errors import OptionError

FusionKind = Literal["equal", "uniform", "mean"]
Gates = Literal["group", "base"] | None


class GroupNetConv2d(BinaryConv2d):
    """mean |w| * (sign(x) (*) sign(w)): float [N, C, H, W] -> float [N, O, OH, OW]; without bias.

    dL/dw = dL/d(mean |w| * sign(w)), of which the mean is a constant. Weights start as Glorot's (the release's first
    stage). With `tanh` (see `set_tanh`) it is the float convolution of tanh(x), in the same border.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            bias=False,
            pad_value=1.0,
            input_quantizer=Sign(estimators.polynomial),
            weight_quantizer=Sign(_without_scale),
        )
        self.tanh = False
        nn.init.xavier_uniform_(self.weight)

    def weight_scale(self) -> Tensor:
        return self.weight.detach().abs().mean().reshape(1)

    def forward(self, input: Tensor) -> Tensor:
        if not self.tanh:
            return super().forward(input)
        padded = functional.pad(torch.tanh(input), [int(p) for p in self.padding for _ in range(2)], value=1.0)
        return functional.conv2d(padded, self.weight, None, self.stride)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}{', tanh' if self.tanh else ''}"  # type: ignore[no-untyped-call]


def set_tanh(module: nn.Module, on: bool) -> None:
    """Switch every Group-Net convolution in `module` to the first of two stages of training, or back.

    In the first, tanh stands in place of every sign and weights are floats (released code); the second starts from its
    weights. OptionError: there is none to switch.
    """
    convolutions = [part for part in module.modules() if isinstance(part, GroupNetConv2d)]
    if not convolutions:
        raise OptionError(
            f"set_tanh: {type(module).__name__} has no Group-Net convolutions; allowed are modules with some. "
            f"Build one with the method group-net."
        )
    for convolution in convolutions:
        convolution.tanh = on


class Fusion(nn.Module):
    """K tensors of one shape -> sum over i of lambda_i * x_i.

    Args:
        kind: "equal" (default): trained lambda float [K], from 1 / K (the co-author's later code). "uniform": trained,
            from U[0, 1) (released code of CVPR 2019); with K = 5 each fusion then makes the shortcut's stream about 2.5
            times larger. "mean": 1 / K, not trained (the journal).
    """

    factors: Tensor

    def __init__(self, bases: int, kind: FusionKind = "equal") -> None:
        super().__init__()
        if kind not in ("equal", "uniform", "mean"):
            raise OptionError(f"Fusion: kind is {kind!r}; allowed are 'equal', 'uniform' and 'mean'.")
        start = torch.rand(bases) if kind == "uniform" else torch.full((bases,), 1 / bases)
        if kind == "mean":
            self.register_buffer("factors", start, persistent=False)
        else:
            self.factors = nn.Parameter(start)

    def forward(self, streams: Sequence[Tensor]) -> Tensor:
        first, *others = (factor * stream for factor, stream in zip(self.factors, streams, strict=True))
        total: Tensor = sum(others, first)
        return total


class LayerwiseConv2d(nn.Module):
    """K `GroupNetConv2d` of one input, fused: float [N, C, H, W] -> float [N, O, OH, OW]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bases: int = 5,
        fusion: FusionKind = "equal",
    ) -> None:
        super().__init__()
        _check_bases(bases, type(self).__name__)
        self.bases = nn.ModuleList(
            GroupNetConv2d(in_channels, out_channels, kernel_size, stride, padding) for _ in range(bases)
        )
        self.fusion = Fusion(bases, fusion)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fusion([base(x) for base in self.bases])
        return y


class GroupLayer(nn.Module):
    """One layer of all bases: K tensors [N, C, H, W] -> K tensors [N, O, H / stride, W / stride].

    sign -> convolution 3x3 -> pool, if given -> ReLU -> BatchNorm -> + shortcut(x), if given, for each base with
    convolution and BatchNorm of its own. Pool and shortcut have one set of weights for all bases (released code).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        bases: int,
        shortcut: nn.Module | None = None,
        pool: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(GroupNetConv2d(in_channels, out_channels, 3, stride, 1) for _ in range(bases))
        self.norms = nn.ModuleList(nn.BatchNorm2d(out_channels) for _ in range(bases))
        self.shortcut = shortcut
        self.pool = pool

    def forward(self, streams: Sequence[Tensor]) -> list[Tensor]:
        results: list[Tensor] = []
        around: dict[int, Tensor] = {}  # bases with one input share what the shortcut makes of it
        for conv, norm, x in zip(self.convs, self.norms, streams, strict=True):
            y = conv(x)
            y = norm(functional.relu(y if self.pool is None else self.pool(y)))
            if self.shortcut is not None:
                if id(x) not in around:
                    around[id(x)] = self.shortcut(x)
                y = y + around[id(x)]
            results.append(y)
        return results


class Group(nn.Module):
    """Layers of all bases, and the fusion of what they give: K tensors -> K tensors, and their weighted sum."""

    def __init__(self, layers: Sequence[GroupLayer], *, bases: int, fusion: FusionKind = "equal") -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.fusion = Fusion(bases, fusion)

    def forward(self, streams: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        for layer in self.layers:
            streams = layer(streams)
        return list(streams), self.fusion(streams)


class GroupNet(nn.Module):
    """Groups one after the other, soft gates between them: float [N, C, H, W] -> float [N, O, OH, OW], the last sum.

    The first group's bases all read the input. After it base i reads g * its own stream + (1 - g) * the sum.

    Args:
        groups: for each group its layers.
        gates: "group" (default): one theta for a group, from U[0, 1) (released code); "base": one for each base, as the
            paper's text can be read; None: g = 0, every base reads the sum (the paper's group-wise decomposition
            without gates). g = 1 makes K independent networks.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[GroupLayer]],
        *,
        bases: int = 5,
        gates: Gates = "group",
        fusion: FusionKind = "equal",
    ) -> None:
        super().__init__()
        _check_bases(bases, type(self).__name__)
        if gates not in ("group", "base", None):
            raise OptionError(f"GroupNet: gates is {gates!r}; allowed are 'group', 'base' and None.")
        self.bases = bases
        self.groups = nn.ModuleList(Group(layers, bases=bases, fusion=fusion) for layers in groups)
        count = len(groups) - 1
        size = {"group": (count, 1), "base": (count, bases), None: (0, 0)}[gates]
        self.gates = None if gates is None else nn.Parameter(torch.rand(size))

    def forward(self, x: Tensor) -> Tensor:
        streams, total = [x] * self.bases, x
        for i, group in enumerate(self.groups):
            if i > 0:
                streams = self._entry(i - 1, streams, total)
            streams, total = group(streams)
        return total

    def _entry(self, gate: int, streams: Sequence[Tensor], total: Tensor) -> list[Tensor]:
        if self.gates is None:
            return [total] * self.bases
        own = torch.sigmoid(self.gates[gate])  # [1] or [K]
        rest = [(1 - g) * total for g in own]
        if len(rest) == 1:
            return [own * stream + rest[0] for stream in streams]
        return [g * stream + other for g, stream, other in zip(own, streams, rest, strict=True)]


def _without_scale(weight: Tensor) -> Tensor:
    """The layer multiplies by mean |w| behind the sum, so that sums stay integers: gradients must not be multiplied."""
    return torch.ones_like(weight) / weight.abs().mean()


def _check_bases(bases: int, where: str) -> None:
    if bases < 1:
        raise OptionError(f"{where}: bases is {bases}; allowed are whole numbers from 1.")
