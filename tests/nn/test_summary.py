"""What a summary counts, by hand, and what it prints."""

import pytest
import torch
from torch import Tensor, nn

from bnncc.models import build
from bnncc.nn import BinaryConv2d, BinaryLinear, TrainedBinaryConv2d, summary
from bnncc.runtime.errors import InputError


class Net(nn.Module):
    """A stem that binary layers follow, one of them called twice, and a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))
        self.dense = BinaryLinear(8 * 3 * 3, 5)
        self.stem = nn.Conv2d(2, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.twice = TrainedBinaryConv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.strided = BinaryConv2d(8, 8, 3, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x)) * self.gate
        z: Tensor = self.dense(self.strided(self.twice(self.twice(y))).flatten(1))
        return z


def test_counts() -> None:
    net = Net().train()
    counted = summary(net, torch.zeros(1, 2, 7, 7))
    assert all(part.training for part in net.modules())
    rows = {layer.name: layer for layer in counted.layers}
    assert list(rows) == ["Net", "stem", "norm", "twice", "strided", "dense"]
    assert {name: (r.kind, r.input_bits, r.output_shape) for name, r in rows.items()} == {
        "Net": ("Net", 32, (1, 5)),
        "stem": ("Conv2d", 32, (1, 8, 5, 5)),
        "norm": ("BatchNorm2d", 32, (1, 8, 5, 5)),
        "twice": ("TrainedBinaryConv2d", 1, (1, 8, 5, 5)),
        "strided": ("BinaryConv2d", 1, (1, 8, 3, 3)),
        "dense": ("BinaryLinear", 1, (1, 5)),
    }
    assert {name: (r.binary_weights, r.floats, r.trainable, r.bits) for name, r in rows.items()} == {
        "Net": (0, 1, 1, 32),
        "stem": (0, 144, 144, 144 * 32),
        "norm": (0, 32, 16, 32 * 32),  # gamma and beta, mean and variance
        "twice": (8 * 4 * 9, 8 + 1, 8 * 4 * 9 + 9, 8 * 4 * 9 + 9 * 32),
        "strided": (8 * 8 * 9, 0, 8 * 8 * 9, 8 * 8 * 9),
        "dense": (72 * 5, 5, 72 * 5 + 5, 72 * 5 + 5 * 32),
    }
    assert {name: (r.binary_macs, r.float_macs) for name, r in rows.items()} == {
        "Net": (0, 0),
        "stem": (0, 25 * 144),
        "norm": (0, 0),
        "twice": (2 * 25 * 8 * 4 * 9, 0),
        "strided": (9 * 8 * 8 * 9, 0),
        "dense": (72 * 5, 0),
    }
    assert counted.bits == sum(r.bits for r in rows.values())
    assert (counted.binary_macs, counted.float_macs) == (2 * 25 * 288 + 9 * 576 + 360, 3600)


def test_a_shared_weight_counts_once_and_a_batch_multiplies() -> None:
    first, second = BinaryLinear(4, 4, bias=False), BinaryLinear(4, 4, bias=False)
    second.weight = first.weight
    counted = summary(nn.Sequential(first, second), torch.zeros(3, 4))
    assert counted.binary_weights == 16
    assert counted.binary_macs == 2 * 3 * 16


def test_on_the_meta_device() -> None:
    """The same numbers, and nothing is computed."""
    with torch.device("meta"):
        counted = summary(build("resnet18", "reactnet", classes=1000, image=(3, 224, 224)), torch.empty(1, 3, 224, 224))
    # 4 convolutions of 115,605,504 products in each stage, those that halve of half as many.
    assert counted.binary_macs == 115605504 * (4 + 3 * 3.5)
    assert counted.layers[-1].float_macs == 512 * 1000


def test_table() -> None:
    lines = str(summary(Net(), torch.zeros(1, 2, 7, 7))).splitlines()
    assert lines[0].split() == [
        "layer",
        "kind",
        "input",
        "bits",
        "output",
        *["1-bit", "32-bit", "kB"],
        *["1-bit", "MACs", "32-bit", "MACs"],
    ]
    (strided,) = (line for line in lines if line.startswith("strided"))
    assert strided.split() == ["strided", "BinaryConv2d", "1", "1x8x3x3", "576", "0", "0.07", "5,184", "0"]
    (total,) = (line for line in lines if line.startswith("total"))
    assert total.split() == ["total", "1,224", "191", "0.90", "19,944", "3,600"]
    assert [line.split() for line in lines if line.startswith(("MACs", "times"))] == [
        ["times", "smaller", "6.17"],
        ["MACs", "23,544"],
    ]
    assert str(summary(nn.ReLU(), torch.zeros(1)))


def test_refusal() -> None:
    with pytest.raises(InputError, match=r"^summary: Net does not take an example of shape \[1, 3, 7, 7\]: "):
        summary(Net(), torch.zeros(1, 3, 7, 7))
