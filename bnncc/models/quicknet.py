"""QuickNet (Bannink et al., Larq Compute Engine, MLSys 2021): fast on phones, no zero padding, ReLU before BatchNorm.

Layer: sign -> binary conv 3x3 (border of +1) -> ReLU -> BatchNorm -> + x. Transition: ReLU -> max-pool 2x2 stride 1 ->
fixed 3x3 blur, depthwise, stride 2 (Zhang, ICML 2019) -> FP 1x1 -> BatchNorm. Stem: 3x3 stride 2 to C / 4, BatchNorm,
ReLU -> 3x3 stride 2 depthwise, BatchNorm -> 1x1 to C, BatchNorm. Head: ReLU -> global average -> dense.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnncc.nn import BinaryConv2d


def quicknet(num_classes: int = 1000) -> nn.Module:
    """float [N, 3, 224, 224] -> float [N, num_classes]: four sections of four layers, 64 to 512 channels."""
    widths = (64, 128, 256, 512)
    sections: list[nn.Module] = []
    for i, width in enumerate(widths):
        if i > 0:
            sections.append(transition(widths[i - 1], width))
        sections.append(nn.Sequential(*(QuickLayer(width) for _ in range(4))))
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))
    return nn.Sequential(stem(widths[0]), *sections, head)


def stem(channels: int) -> nn.Module:
    """float [N, 3, H, W] -> float [N, channels, H / 4, W / 4]."""
    few = channels // 4
    return nn.Sequential(
        nn.Conv2d(3, few, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(few),
        nn.ReLU(),
        nn.Conv2d(few, few, 3, stride=2, padding=1, groups=few, bias=False),
        nn.BatchNorm2d(few),
        nn.Conv2d(few, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


def transition(in_channels: int, out_channels: int) -> nn.Module:
    """float [N, C, H, W] -> float [N, O, H / 2, W / 2]."""
    return nn.Sequential(
        nn.ReLU(),
        nn.MaxPool2d(2, stride=1),
        Blur(in_channels),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class QuickLayer(nn.Module):
    """float [N, C, H, W] -> the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = BinaryConv2d(channels, channels, 3, padding=1, bias=False, pad_value=1.0)
        self.relu = nn.ReLU()
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.relu(self.conv(x))) + x
        return y


class Blur(nn.Module):
    """Each channel by the outer product of [1, 2, 1] / 4 with itself, stride 2, zero border of 1."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(row, row).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel, stride=2, padding=1, groups=x.shape[1])
