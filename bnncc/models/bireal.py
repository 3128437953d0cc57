"""Bi-Real Net (Liu et al., ECCV 2018): a shortcut around every binary convolution.

Layer: sign -> binary conv 3x3 (zero padding, scale mean |w| per filter) -> BatchNorm -> + shortcut. A shortcut that
changes shape is average pool 2x2 -> FP 1x1 -> BatchNorm. The stem and the classifier stay full precision.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from bnncc.nn import BinaryConv2d, Sign
from bnncc.nn.estimators import polynomial


def bireal_resnet18(num_classes: int = 1000) -> nn.Module:
    """float [N, 3, 224, 224] -> float [N, num_classes]; stem 7x7 stride 2, BatchNorm, max-pool."""
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    return BiRealNet(stem, (64, 128, 256, 512), layers=4, num_classes=num_classes)


def bireal_resnet20(num_classes: int = 10) -> nn.Module:
    """float [N, 3, 32, 32] -> float [N, num_classes]; CIFAR's ResNet-20, stem 3x3, BatchNorm."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
    return BiRealNet(stem, (16, 32, 64), layers=6, num_classes=num_classes)


class BiRealNet(nn.Module):
    """A stem, for each width a stage of `layers` layers (every stage but the first halves), and a classifier."""

    def __init__(self, stem: nn.Module, widths: Sequence[int], *, layers: int, num_classes: int) -> None:
        super().__init__()
        self.stem = stem
        stages: list[nn.Module] = []
        channels = widths[0]
        for i, width in enumerate(widths):
            first = BiRealLayer(channels, width, stride=1 if i == 0 else 2)
            stages.append(nn.Sequential(first, *(BiRealLayer(width, width) for _ in range(layers - 1))))
            channels = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        x = self.stages(self.stem(input))
        y: Tensor = self.classifier(self.flatten(self.pool(x)))
        return y


class BiRealLayer(nn.Module):
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
            input_quantizer=Sign(polynomial),
            scale="channel",
        )
        self.norm = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x)) + self.shortcut(x)
        return y


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Identity where the shape stays, else average pool -> FP 1x1 -> BatchNorm."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.AvgPool2d(stride, stride),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )
