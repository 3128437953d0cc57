"""What every network of the builder is: stem, stages, tail, pool, classifier."""

from torch import Tensor, nn


class Network(nn.Module):
    """float [N, C, H, W] -> float [N, classes]; `classifier(features(x))`.

    `features` gives float [N, F], what the classifier reads: a centre loss pulls at it, another head takes it.
    """

    def __init__(
        self, stem: nn.Module, stages: nn.Module, tail: nn.Module, pool: nn.Module, features: int, classes: int
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = stages
        self.tail = tail
        self.pool = pool
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(features, classes)

    def features(self, input: Tensor) -> Tensor:
        y: Tensor = self.flatten(self.pool(self.tail(self.stages(self.stem(input)))))
        return y

    def forward(self, input: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.features(input))
        return y


def imagenet_stem(in_channels: int, channels: int, *, pool_first: bool = False) -> nn.Module:
    """float [N, in_channels, H, W] -> float [N, channels, H / 4, W / 4]: 7x7 stride 2, BatchNorm, max-pool.

    `pool_first`: the last two in the other order, Group-Net's.
    """
    conv = nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False)
    norm, pool = nn.BatchNorm2d(channels), nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(conv, *((pool, norm) if pool_first else (norm, pool)))


def cifar_stem(in_channels: int, channels: int) -> nn.Module:
    """float [N, in_channels, H, W] -> float [N, channels, H, W]: 3x3, BatchNorm."""
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
