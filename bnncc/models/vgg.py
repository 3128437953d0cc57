"""VGG-Small for CIFAR: 2x128 - MP - 2x256 - MP - 2x512 - MP - FC (Zhang et al., LQ-Nets, ECCV 2018).

Order BatchNorm -> sign -> binary conv -> pool; the first convolution and the classifier stay full precision.
"""

from torch import nn

from bnncc.nn import BinaryConv2d


def vgg_small(num_classes: int = 10) -> nn.Module:
    """float [N, 3, 32, 32] -> float [N, num_classes]."""
    layers: list[nn.Module] = [nn.Conv2d(3, 128, 3, padding=1, bias=False)]
    channels = 128
    for width, pool in ((128, True), (256, False), (256, True), (512, False), (512, True)):
        layers += [nn.BatchNorm2d(channels), BinaryConv2d(channels, width, 3, padding=1, bias=False)]
        if pool:
            layers.append(nn.MaxPool2d(2))
        channels = width
    layers += [nn.BatchNorm2d(channels), nn.Flatten(), nn.Linear(channels * 4 * 4, num_classes)]
    return nn.Sequential(*layers)
