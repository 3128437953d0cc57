"""Networks people deploy, built from bnncc.nn. `build` makes any network with any method.

`MODELS` maps the names of ready ones to their function and their input's shape.
"""

from typing import Protocol

from torch import nn

from bnncc.models.build import ARCHITECTURES, METHODS, Architecture, Method, build
from bnncc.models.digits import digits_net
from bnncc.models.network import Network
from bnncc.models.quicknet import quicknet
from bnncc.models.reactnet import reactnet_a


class Builder(Protocol):
    """Builds an untrained network for `num_classes` classes."""

    def __call__(self, num_classes: int = ...) -> nn.Module: ...


def bireal_resnet18(num_classes: int = 1000) -> Network:
    """Bi-Real Net, float [N, 3, 224, 224] -> float [N, num_classes]."""
    return build("resnet18", "bireal", classes=num_classes, image=(3, 224, 224))


def bireal_resnet20(num_classes: int = 10) -> Network:
    """Bi-Real Net for CIFAR, float [N, 3, 32, 32] -> float [N, num_classes]."""
    return build("resnet20", "bireal", classes=num_classes)


def reactnet18(num_classes: int = 1000) -> Network:
    """ReActNet on ResNet-18, float [N, 3, 224, 224] -> float [N, num_classes]."""
    return build("resnet18", "reactnet", classes=num_classes, image=(3, 224, 224))


def vgg_small(num_classes: int = 10) -> Network:
    """VGG-Small with XNOR-Net's layers, float [N, 3, 32, 32] -> float [N, num_classes]."""
    return build("vgg-small", "xnor", classes=num_classes)


MODELS: dict[str, tuple[Builder, tuple[int, int, int, int]]] = {
    "digits_net": (digits_net, (1, 1, 8, 8)),
    "vgg_small": (vgg_small, (1, 3, 32, 32)),
    "bireal_resnet20": (bireal_resnet20, (1, 3, 32, 32)),
    "bireal_resnet18": (bireal_resnet18, (1, 3, 224, 224)),
    "reactnet18": (reactnet18, (1, 3, 224, 224)),
    "reactnet_a": (reactnet_a, (1, 3, 224, 224)),
    "quicknet": (quicknet, (1, 3, 224, 224)),
}

__all__ = [
    "ARCHITECTURES",
    "METHODS",
    "MODELS",
    "Architecture",
    "Builder",
    "Method",
    "Network",
    "bireal_resnet18",
    "bireal_resnet20",
    "build",
    "digits_net",
    "quicknet",
    "reactnet18",
    "reactnet_a",
    "vgg_small",
]
