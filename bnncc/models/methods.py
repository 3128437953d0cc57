"""What a method puts into the place of a convolution, and how it arranges the layers around it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from bnncc.nn import (
    BinaryConv2d,
    ChannelInteraction,
    CirculantConv2d,
    LayerwiseConv2d,
    MaxOverOrientations,
    Replicate,
    Sign,
    TrainedBinaryConv2d,
)
from bnncc.nn.estimators import Estimator, gaussian
from bnncc.nn.group_net import FusionKind
from bnncc.nn.layer import Activation
from bnncc.nn.trained_binarization import Granularity
from bnncc.ops.circulant_expand import Mixing

Backbone = Literal["xnor", "bireal"]
Downsample = Literal["float", "binary"]
Merge = Literal["max", "all"]
Convolution = Callable[[int, int, int, int], nn.Module]


def nothing(channels: int) -> nn.Module:
    """No activation."""
    return nn.Identity()


@dataclass(frozen=True)
class Recipe:
    """A method, ready to be built into a network.

    Args:
        conv: (in channels, out channels, kernel size, stride) -> a layer that keeps the extents at stride 1 and halves
            them at 2, and that contains what comes directly before its product: a sign, {0, 1} or ReLU.
        backbone: "xnor": BatchNorm before the convolution, a shortcut around two (XNOR-Net). "bireal": BatchNorm behind
            it, a shortcut around each (Bi-Real Net).
        downsample: the 1x1 convolution of a shortcut that changes shape: "float" behind an average pool, or "binary".
        activation: channels -> what follows an addition or a BatchNorm.
        tail: channels -> what follows the last BatchNorm of all, in a network that ends in one.
        maps: orientations: feature maps for each channel that `conv` counts; what it reads and gives has maps *
            channels of them, orientation-major (bnncc/nn/circulant.py).
        merge: with several maps: "max" over them before the classifier, or "all" go there.
    """

    conv: Convolution
    backbone: Backbone
    downsample: Downsample
    activation: Callable[[int], nn.Module] = nothing
    tail: Callable[[int], nn.Module] = nothing
    maps: int = 1
    merge: Merge = "max"

    def replicate(self, stem: nn.Module) -> nn.Module:
        """The stem, and what makes `maps` of each of its channels."""
        return stem if self.maps == 1 else nn.Sequential(stem, Replicate(self.maps))

    def merged(self, pool: nn.Module) -> nn.Module:
        """The last pool, and what makes one of `maps`."""
        return pool if self.maps_out == self.maps else nn.Sequential(pool, MaxOverOrientations(self.maps))

    @property
    def maps_out(self) -> int:
        """Of each channel, at the classifier."""
        return self.maps if self.merge == "all" else 1


class ReluConv2d(nn.Conv2d):
    """torch.nn.Conv2d of relu(x), float [N, C, H, W] -> [N, O, OH, OW]: the float twin of a binary convolution."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(functional.relu(input))


def float_conv(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Module:
    """ReLU, float convolution."""
    return ReluConv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)


def scaled_conv(estimator: Estimator, *, interacting: bool = False) -> Convolution:
    """Sign with this estimator, binary convolution with zero padding, times mean |w| of each filter.

    `interacting`: with a `ChannelInteraction` of no edges between the integers and their scale (CI-BCNN).
    """
    return partial(_scaled, estimator, interacting)


def circulant_conv(orientations: int, mixing: Mixing, sigma: float) -> Convolution:
    """CBCN's, times mean |w| of each filter; of base channels."""
    return partial(_circulant, orientations, mixing, sigma)


def trained_conv(activation: Activation, granularity: Granularity) -> Convolution:
    """Trained Binarization's, with zero padding."""
    return partial(_trained, activation, granularity)


def layerwise_conv(bases: int, fusion: FusionKind) -> Convolution:
    """Group-Net's layer-wise decomposition, and the ReLU behind it."""
    return partial(_layerwise, bases, fusion)


def _layerwise(
    bases: int, fusion: FusionKind, in_channels: int, out_channels: int, kernel: int, stride: int
) -> nn.Module:
    conv = LayerwiseConv2d(in_channels, out_channels, kernel, stride, kernel // 2, bases=bases, fusion=fusion)
    return nn.Sequential(conv, nn.ReLU())


def _circulant(
    orientations: int, mixing: Mixing, sigma: float, in_channels: int, out_channels: int, kernel: int, stride: int
) -> nn.Module:
    return CirculantConv2d(
        in_channels,
        out_channels,
        kernel,
        stride,
        kernel // 2,
        orientations=orientations,
        mixing=mixing,
        estimator=gaussian(sigma),
        scale="channel",
    )


def _scaled(
    estimator: Estimator, interacting: bool, in_channels: int, out_channels: int, kernel: int, stride: int
) -> nn.Module:
    return BinaryConv2d(
        in_channels,
        out_channels,
        kernel,
        stride,
        kernel // 2,
        bias=False,
        input_quantizer=Sign(estimator),
        scale="channel",
        interaction=ChannelInteraction(out_channels) if interacting else None,
    )


def _trained(
    activation: Activation, granularity: Granularity, in_channels: int, out_channels: int, kernel: int, stride: int
) -> nn.Module:
    return TrainedBinaryConv2d(
        in_channels,
        out_channels,
        kernel,
        stride,
        kernel // 2,
        bias=False,
        activation=activation,
        granularity=granularity,
    )
