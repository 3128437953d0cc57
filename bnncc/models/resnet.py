"""Residual networks of any method: ResNet-18 and CIFAR's ResNet-20 (He et al., CVPR 2016).

Stages of layers; the first layer of every stage but the first halves the extents. The stem and the classifier stay
full precision.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from bnncc.models.methods import Recipe
from bnncc.models.network import Network


def resnet(stem: nn.Module, widths: Sequence[int], convolutions: int, recipe: Recipe, classes: int) -> Network:
    """`widths`: channels of each stage, behind a stem that gives the first; `convolutions`, an even number, in each."""
    stages: list[nn.Module] = []
    channels = widths[0]
    pre_activation = recipe.backbone == "xnor"
    layer, layers = (PreActivationBlock, convolutions // 2) if pre_activation else (ShortcutLayer, convolutions)
    for i, width in enumerate(widths):
        first = layer(channels, width, 1 if i == 0 else 2, recipe)
        stages.append(nn.Sequential(first, *(layer(width, width, 1, recipe) for _ in range(layers - 1))))
        channels = width
    maps = recipe.maps * channels
    tail = nn.Sequential(nn.BatchNorm2d(maps), recipe.tail(maps)) if pre_activation else nn.Identity()
    pool = recipe.merged(nn.AdaptiveAvgPool2d(1))
    features = recipe.maps_out * channels
    return Network(recipe.replicate(stem), nn.Sequential(*stages), tail, pool, features, classes)


class ShortcutLayer(nn.Module):
    """convolution -> BatchNorm -> + shortcut -> activation (Bi-Real Net, Liu et al., ECCV 2018).

    float [N, C, H, W] -> float [N, O, H / stride, W / stride], C and O times the recipe's maps.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, recipe: Recipe) -> None:
        super().__init__()
        self.conv = recipe.conv(in_channels, out_channels, 3, stride)
        self.norm = nn.BatchNorm2d(recipe.maps * out_channels)
        self.shortcut = shortcut(in_channels, out_channels, stride, recipe)
        self.activation = recipe.activation(recipe.maps * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.norm(self.conv(x)) + self.shortcut(x))
        return y


class PreActivationBlock(nn.Module):
    """twice BatchNorm -> activation -> convolution, then + shortcut (He et al., ECCV 2016, with XNOR-Net's order).

    float [N, C, H, W] -> float [N, O, H / stride, W / stride], C and O times the recipe's maps.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, recipe: Recipe) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(recipe.maps * in_channels)
        self.activation1 = recipe.activation(recipe.maps * in_channels)
        self.conv1 = recipe.conv(in_channels, out_channels, 3, stride)
        self.norm2 = nn.BatchNorm2d(recipe.maps * out_channels)
        self.activation2 = recipe.activation(recipe.maps * out_channels)
        self.conv2 = recipe.conv(out_channels, out_channels, 3, 1)
        self.shortcut = shortcut(in_channels, out_channels, stride, recipe)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.activation1(self.norm1(x)))
        z: Tensor = self.conv2(self.activation2(self.norm2(y))) + self.shortcut(x)
        return z


def shortcut(in_channels: int, out_channels: int, stride: int, recipe: Recipe) -> nn.Module:
    """Identity where the shape stays, else average pool -> FP 1x1 -> BatchNorm, or binary 1x1 -> BatchNorm."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if recipe.downsample == "binary":
        norm = nn.BatchNorm2d(recipe.maps * out_channels)
        return nn.Sequential(recipe.conv(in_channels, out_channels, 1, stride), norm)
    return float_shortcut(in_channels, out_channels, stride, recipe.maps)


def float_shortcut(in_channels: int, out_channels: int, stride: int, maps: int = 1) -> nn.Module:
    """Average pool -> FP 1x1, of each orientation by itself -> BatchNorm."""
    return nn.Sequential(
        nn.AvgPool2d(stride, stride),
        nn.Conv2d(maps * in_channels, maps * out_channels, 1, groups=maps, bias=False),
        nn.BatchNorm2d(maps * out_channels),
    )
