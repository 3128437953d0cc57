"""Networks people deploy, built from bnncc.nn. `MODELS` maps each name to its function and its input's shape."""

from typing import Protocol

from torch import nn

from bnncc.models.bireal import bireal_resnet18, bireal_resnet20
from bnncc.models.digits import digits_net
from bnncc.models.quicknet import quicknet
from bnncc.models.reactnet import reactnet18
from bnncc.models.vgg import vgg_small


class Builder(Protocol):
    """Builds an untrained network for `num_classes` classes."""

    def __call__(self, num_classes: int = ...) -> nn.Module: ...


MODELS: dict[str, tuple[Builder, tuple[int, int, int, int]]] = {
    "digits_net": (digits_net, (1, 1, 8, 8)),
    "vgg_small": (vgg_small, (1, 3, 32, 32)),
    "bireal_resnet20": (bireal_resnet20, (1, 3, 32, 32)),
    "bireal_resnet18": (bireal_resnet18, (1, 3, 224, 224)),
    "reactnet18": (reactnet18, (1, 3, 224, 224)),
    "quicknet": (quicknet, (1, 3, 224, 224)),
}

__all__ = [
    "MODELS",
    "Builder",
    "bireal_resnet18",
    "bireal_resnet20",
    "digits_net",
    "quicknet",
    "reactnet18",
    "vgg_small",
]
