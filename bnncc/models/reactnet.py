"""ReActNet on ResNet-18 (Liu et al., ECCV 2020): Bi-Real layers with learned shifts around sign and PReLU.

Layer: (x + b0) -> sign -> binary conv 3x3 (zero padding, scale mean |w| per filter) -> BatchNorm -> + shortcut
-> + b1 -> PReLU per channel -> + b2. The shortcut is Bi-Real's.
"""

import torch
from torch import Tensor, nn

from bnncc.models.bireal import shortcut
from bnncc.nn import BinaryConv2d, Sign
from bnncc.nn.estimators import polynomial


def reactnet18(num_classes: int = 1000) -> nn.Module:
    """float [N, 3, 224, 224] -> float [N, num_classes]; stem 7x7 stride 2, BatchNorm, max-pool."""
    stages: list[nn.Module] = []
    channels = 64
    for i, width in enumerate((64, 128, 256, 512)):
        first = ReActLayer(channels, width, stride=1 if i == 0 else 2)
        stages.append(nn.Sequential(first, *(ReActLayer(width, width) for _ in range(3))))
        channels = width
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))
    return nn.Sequential(stem, *stages, head)


class Shift(nn.Module):
    """x + b, one learned b for each channel: float [N, C, H, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift


class ReActLayer(nn.Module):
    """float [N, C, H, W] -> float [N, O, H / stride, W / stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = BinaryConv2d(
            in_channels,
            out_channels,
            3,
            stride=stride,
            padding=1,
            bias=False,
            input_quantizer=nn.Sequential(Shift(in_channels), Sign(polynomial)),
            scale="channel",
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut(in_channels, out_channels, stride)
        self.activation = nn.Sequential(Shift(out_channels), nn.PReLU(out_channels), Shift(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.conv(x)) + self.shortcut(x))
        return y
