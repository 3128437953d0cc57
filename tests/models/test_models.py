"""The networks: shapes, what is binary in them, and that training reaches every parameter."""

import pytest
import torch
from torch import nn

from bnncc.models import MODELS
from bnncc.nn import BinaryConv2d
from bnncc.nn.layer import BinaryLayer


@pytest.mark.parametrize(
    "name",
    [
        "digits_net",
        "bireal_resnet20",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("vgg_small", "quicknet", "reactnet18", "reactnet_a")),
    ],
)
def test_classes_and_gradients(name: str) -> None:
    build, (_, *shape) = MODELS[name]
    if shape[1] == 224:
        shape = [3, 64, 64]  # the large networks end in a global average: any multiple of 32 will do
    torch.manual_seed(0)
    module = build(num_classes=7)
    y = module(torch.randn(2, *shape))
    assert y.shape == (2, 7)
    y.square().sum().backward()
    assert [n for n, p in module.named_parameters() if p.grad is None] == []


# Binary weights, counted by hand from the papers' tables: widths, kernels and numbers of layers.
@pytest.mark.parametrize(
    ("name", "layers", "weights"),
    [
        ("digits_net", 3, 9 * 32 * 64 + 9 * 64 * 64 + 256 * 128),
        ("vgg_small", 5, 9 * (128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512)),
        ("bireal_resnet20", 18, 9 * (6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)),
        (
            "bireal_resnet18",
            16,
            9 * (4 * 64**2 + 64 * 128 + 3 * 128**2 + 128 * 256 + 3 * 256**2 + 256 * 512 + 3 * 512**2),
        ),
        (
            "reactnet18",
            16,
            9 * (4 * 64**2 + 64 * 128 + 3 * 128**2 + 128 * 256 + 3 * 256**2 + 256 * 512 + 3 * 512**2),
        ),
        (
            "reactnet_a",
            13 + 13 + 5,  # the width doubles five times
            9 * (32**2 + 64**2 + 2 * 128**2 + 2 * 256**2 + 6 * 512**2 + 1024**2)
            + 32 * 64
            + 64 * 128
            + 128**2
            + 128 * 256
            + 256**2
            + 256 * 512
            + 5 * 512**2
            + 512 * 1024
            + 1024**2,
        ),
        ("quicknet", 16, 9 * 4 * (64**2 + 128**2 + 256**2 + 512**2)),
    ],
)
def test_what_is_binary(name: str, layers: int, weights: int) -> None:
    module = MODELS[name][0]()
    binary = [m for m in module.modules() if isinstance(m, BinaryLayer)]
    assert len(binary) == layers
    assert sum(m.weight.numel() for m in binary) == weights
    assert all(m.bias is None for m in binary)
    assert not any(isinstance(m, nn.Conv2d) and m.in_channels < 16 for m in binary)


def test_borders_are_those_of_the_papers() -> None:
    borders = {
        name: {m.pad_value for m in MODELS[name][0]().modules() if isinstance(m, BinaryConv2d)}
        for name in ("bireal_resnet18", "reactnet18", "reactnet_a", "quicknet")
    }
    assert borders == {"bireal_resnet18": {0.0}, "reactnet18": {0.0}, "reactnet_a": {0.0}, "quicknet": {1.0}}
