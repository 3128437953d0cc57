"""Circulant binary convolutions (CBCN, Liu et al., "Circulant Binary Convolutional Networks", CVPR 2019, arXiv
1910.10853): one learned filter and its M rotations in place of M filters.

Feature maps have M orientations of each base channel, orientation-major: channel l * C + c. Orientation k of an output
is the convolution with the filter turned clockwise by k * 360 / M degrees (bnncc/ops/circulant_expand.py):

    oriented   slice (l - k) mod M of the filter, turned by k, meets orientation l: weight [O, M * C, 3, 3]. M times
               fewer stored bits than the convolution it is, and the mixing that earns its accuracy
    shared     every orientation l meets the same filter, turned by k: weight [O, C, 3, 3]. M * M times fewer stored
               bits, the cheapest to compute, and the one self-consistent reading of the paper's construction

A turn permutes taps, so signs are taken once, of the learned filter; and backward turns each copy's gradient back and
sums them, the paper's circulant back-propagation, by autograd.
"""

from typing import cast

import torch
from torch import Tensor, nn

from bnncc.nn import operators
from bnncc.nn.conv import BinaryConv2d
from bnncc.nn.estimators import Estimator, gaussian, polynomial
from bnncc.nn.layer import Scale
from bnncc.nn.quantizers import Sign
from bnncc.ops.circulant_expand import MIXINGS, ORIENTATIONS, Mixing, slices
from bnncc.runtime.errors import InputError, OptionError

_KERNELS = (1, 3)


class CirculantConv2d(BinaryConv2d):
    """float [N, M * in_channels, H, W] -> float [N, M * out_channels, OH, OW]; without bias.

    Args:
        in_channels, out_channels: base channels.
        kernel_size: 3, or 1, which a turn leaves as it is.
        orientations: M: 4, 8, or 1, which is an ordinary binary convolution.
        mixing: see the module's docstring.
        pad_value: of the border, after the sign; 0, as Bi-Real Net's, since the paper names none.
        input_quantizer: default: Sign with Bi-Real Net's estimator.
        estimator: of the filters' sign. Default: the paper's Gaussian, whose width it leaves open: 1, where latent
            weights end when they are clipped to [-1, 1].
        scale: None (default): BatchNorm behind the convolution makes up for it; "channel": mean |w| of each filter, the
            same for all its orientations; "layer": of all. The paper is silent.

    OptionError: another kernel, number of orientations or mixing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        orientations: int = 4,
        mixing: Mixing = "oriented",
        pad_value: float = 0.0,
        input_quantizer: nn.Module | None = None,
        estimator: Estimator | None = None,
        scale: Scale = None,
    ) -> None:
        _check(kernel_size, orientations, mixing)
        turns = orientations > 1
        super().__init__(
            in_channels * (slices(orientations, mixing) if turns else 1),
            out_channels,
            kernel_size,
            stride,
            padding,
            bias=False,
            pad_value=pad_value,
            input_quantizer=Sign(polynomial) if input_quantizer is None else input_quantizer,
            scale=scale,
        )
        sign = Sign(gaussian() if estimator is None else estimator)
        self.orientations = orientations
        self.mixing: Mixing = mixing
        self.weight_quantizer = nn.Sequential(sign, Expand(orientations, mixing)) if turns else sign

    def weight_scale(self) -> Tensor | None:
        scale = super().weight_scale()
        return scale if scale is None or self.scale == "layer" else scale.repeat(self.orientations)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, orientations={self.orientations}, mixing={self.mixing}"  # type: ignore[no-untyped-call]


class Expand(nn.Module):
    """Base filters [O, slices * C, k, k] -> the weight [M * O, M * C, k, k] of all orientations."""

    def __init__(self, orientations: int, mixing: Mixing) -> None:
        super().__init__()
        self.orientations = orientations
        self.mixing: Mixing = mixing

    def forward(self, weight: Tensor) -> Tensor:
        return operators.circulant_expand(weight, self.orientations, self.mixing)


class Replicate(nn.Module):
    """float [N, C, H, W] -> float [N, M * C, H, W]: every orientation the same, as the first circulant layer reads it.

    The paper repeats the network's input; behind a float stem that is the stem's output.
    """

    def __init__(self, orientations: int) -> None:
        super().__init__()
        self.orientations = orientations

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x] * self.orientations, 1)


class MaxOverOrientations(nn.Module):
    """float [N, M * C, ...] -> float [N, C, ...]: the strongest orientation of each base channel."""

    def __init__(self, orientations: int) -> None:
        super().__init__()
        self.orientations = orientations

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.orientations, -1, *x.shape[2:]).amax(1)


class CenterLoss(nn.Module):
    """1 / 2 * mean over samples of |f - center of its class|^2 (Wen et al., ECCV 2016): a second term of CBCN's loss.

    Features [N, F] and labels int64 [N] -> a scalar; the caller multiplies it by the paper's lambda, which is not known
    (1e-3 to 1e-2 are usual). Centers are parameters, [classes, F], from 0: give them to the optimizer, without decay.
    """

    def __init__(self, classes: int, features: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(classes, features))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        size = self.centers.shape[1]
        if features.dim() != 2 or features.shape[1] != size or labels.shape != features.shape[:1]:
            raise InputError(
                f"CenterLoss: features are {list(features.shape)} and labels {list(labels.shape)}; allowed are "
                f"[N, {size}] and [N]. Pass what the classifier reads."
            )
        return 0.5 * (features - self.centers[labels]).square().sum(1).mean()


def _check(kernel_size: int, orientations: int, mixing: str) -> None:
    for option, value, allowed in (
        ("kernel_size", kernel_size, _KERNELS),
        ("orientations", orientations, (1, *ORIENTATIONS)),
        ("mixing", mixing, MIXINGS),
    ):
        if value not in cast(tuple[object, ...], allowed):
            listed = ", ".join(map(repr, allowed))
            raise OptionError(f"CirculantConv2d: {option} is {value!r}; allowed are {listed}.")
