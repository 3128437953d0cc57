"""What ReActNet adds to Bi-Real Net: learned shifts around sign and PReLU (Liu et al., ECCV 2020)."""

import torch
from torch import Tensor, nn

from bnncc.models.network import Network
from bnncc.nn import BinaryConv2d, Sign
from bnncc.nn.estimators import polynomial

# (channels out, stride) of each block of ReActNet-A, which is MobileNet's.
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
_STEM = 32


class Shift(nn.Module):
    """x + b, one learned b for each channel: float [N, C, H, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


def shifted_sign(channels: int) -> nn.Module:
    """RSign: (x + b) -> sign, with Bi-Real's estimator."""
    return nn.Sequential(Shift(channels), Sign(polynomial))


def shifted_prelu(channels: int) -> nn.Module:
    """RPReLU: + b1 -> PReLU per channel -> + b2."""
    return nn.Sequential(Shift(channels), nn.PReLU(channels), Shift(channels))


def react_conv(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Module:
    """RSign, binary convolution with zero padding, times mean |w| of each filter."""
    return _conv(in_channels, out_channels, kernel, stride, shifted_sign(in_channels))


def reactnet_a(num_classes: int = 1000) -> nn.Module:
    """ReActNet-A: float [N, 3, 224, 224] -> float [N, num_classes].

    MobileNet's layers, each a 3x3 and a 1x1 binary convolution; the stem, 3x3 stride 2, and the classifier stay full
    precision. Where MobileNet doubles the channels there are two 1x1 convolutions of one input, side by side.
    """
    stem = nn.Sequential(nn.Conv2d(3, _STEM, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(_STEM))
    blocks: list[nn.Module] = []
    channels = _STEM
    for width, stride in _BLOCKS:
        blocks.append(ReActBlock(channels, doubled=width > channels, stride=stride))
        channels = width
    return Network(stem, nn.Sequential(*blocks), nn.Identity(), nn.AdaptiveAvgPool2d(1), channels, num_classes)


class ReActBlock(nn.Module):
    """float [N, C, H, W] -> float [N, C or 2 C, H / stride, W / stride].

    RSign -> 3x3 -> BatchNorm -> + x (averaged over 2x2 at stride 2) -> RPReLU -> u;
    RSign -> 1x1 -> BatchNorm -> + u, twice side by side where `doubled`, -> RPReLU.
    """

    def __init__(self, channels: int, *, doubled: bool, stride: int) -> None:
        super().__init__()
        self.conv = react_conv(channels, channels, 3, stride)
        self.norm = nn.BatchNorm2d(channels)
        self.shortcut = nn.AvgPool2d(stride, stride) if stride > 1 else nn.Identity()
        self.activation = shifted_prelu(channels)
        self.sign = shifted_sign(channels)
        halves = 2 if doubled else 1
        self.points = nn.ModuleList(_conv(channels, channels, 1, 1, nn.Identity()) for _ in range(halves))
        self.point_norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(halves))
        self.point_activation = shifted_prelu(halves * channels)

    def forward(self, x: Tensor) -> Tensor:
        u = self.activation(self.norm(self.conv(x)) + self.shortcut(x))
        signs = self.sign(u)
        halves = [norm(point(signs)) + u for point, norm in zip(self.points, self.point_norms, strict=True)]
        y: Tensor = self.point_activation(torch.cat(halves, 1) if len(halves) > 1 else halves[0])
        return y


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int, sign: nn.Module) -> nn.Module:
    return BinaryConv2d(
        in_channels, out_channels, kernel, stride, kernel // 2, bias=False, input_quantizer=sign, scale="channel"
    )
