"""Networks in Group-Net's group-wise decomposition (bnncc/nn/group_net.py)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from bnncc.models.methods import Downsample
from bnncc.models.network import Network
from bnncc.models.resnet import float_shortcut
from bnncc.models.vgg import POOLS
from bnncc.nn import GroupLayer, GroupNet, GroupNetConv2d
from bnncc.nn.group_net import FusionKind, Gates

_CONVOLUTIONS = 2  # in a block


@dataclass(frozen=True)
class Grouping:
    """`GroupNet`'s arguments, and `blocks`: of two convolutions in a group; None: all layers make one."""

    bases: int
    blocks: int | None
    gates: Gates
    fusion: FusionKind

    def body(self, layers: Sequence[GroupLayer]) -> GroupNet:
        """Whole groups behind the first, which may be smaller."""
        size = len(layers) if self.blocks is None else _CONVOLUTIONS * self.blocks
        first = len(layers) % size
        groups = [layers[:first]] * (first > 0) + [layers[i : i + size] for i in range(first, len(layers), size)]
        return GroupNet(groups, bases=self.bases, gates=self.gates, fusion=self.fusion)


def group_resnet(
    stem: nn.Module,
    widths: Sequence[int],
    convolutions: int,
    classes: int,
    grouping: Grouping,
    downsample: Downsample,
) -> Network:
    """As `resnet`, in groups."""
    layers: list[GroupLayer] = []
    channels = widths[0]
    for i, width in enumerate(widths):
        for j in range(convolutions):
            stride = 2 if i > 0 and j == 0 else 1
            around = shortcut(channels, width, stride, downsample)
            layers.append(GroupLayer(channels, width, stride, bases=grouping.bases, shortcut=around))
            channels = width
    body = grouping.body(layers)
    return Network(stem, body, nn.Identity(), nn.AdaptiveAvgPool2d(1), channels, classes)


def group_vgg(
    image: tuple[int, int, int],
    widths: Sequence[int],
    classes: int,
    grouping: Grouping,
) -> Network:
    """As `vgg`, in groups counted from its last convolution."""
    layers: list[GroupLayer] = []
    channels = widths[0]
    for i, width in enumerate(widths):
        for last in (False, True) if i > 0 else (True,):
            layers.append(GroupLayer(channels, width, bases=grouping.bases, pool=nn.MaxPool2d(2) if last else None))
            channels = width
    body = grouping.body(layers)
    stem = nn.Sequential(nn.Conv2d(image[0], widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]))
    features = channels * (image[1] >> POOLS) * (image[2] >> POOLS)
    return Network(stem, body, nn.Identity(), nn.Identity(), features, classes)


def shortcut(in_channels: int, out_channels: int, stride: int, downsample: Downsample) -> nn.Module:
    """Identity where the shape stays, else 1x1 -> BatchNorm: binary, or float behind an average pool."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if downsample == "binary":
        return nn.Sequential(GroupNetConv2d(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
    return float_shortcut(in_channels, out_channels, stride)
