"""VGG-Small of any method: 2x128 - MP - 2x256 - MP - 2x512 - MP - FC (Zhang et al., LQ-Nets, ECCV 2018).

Order BatchNorm -> convolution with its sign -> pool; the first convolution and the classifier stay full precision.
"""

from collections.abc import Sequence

from torch import nn

from bnncc.models.methods import Recipe
from bnncc.models.network import Network

POOLS = 3


def vgg(image: tuple[int, int, int], widths: Sequence[int], recipe: Recipe, classes: int) -> Network:
    """`widths`: channels of the three stages; `image`: channels, height, width, these at least 8."""
    channels = widths[0]
    layers: list[nn.Module] = []
    for i, width in enumerate(widths):
        for last in (False, True) if i > 0 else (True,):  # the stem is the first of the first stage
            maps = recipe.maps * channels
            layers += [nn.BatchNorm2d(maps), recipe.activation(maps), recipe.conv(channels, width, 3, 1)]
            layers += [nn.MaxPool2d(2)] if last else []
            channels = width
    maps = recipe.maps * channels
    tail = nn.Sequential(nn.BatchNorm2d(maps), recipe.tail(maps))
    stem = recipe.replicate(nn.Conv2d(image[0], widths[0], 3, padding=1, bias=False))
    features = recipe.maps_out * channels * (image[1] >> POOLS) * (image[2] >> POOLS)
    return Network(stem, nn.Sequential(*layers), tail, recipe.merged(nn.Identity()), features, classes)
