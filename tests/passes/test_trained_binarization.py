"""{0, 1} activations and scaling factors of either sign, with pools between: integers and bits from end to end."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import bnncc
from bnncc.nn import BinaryConv2d, BinaryLinear
from bnncc.runtime.artifact import Layer


class Scale(nn.Module):
    """alpha_w * alpha_a, both of either sign, behind the sums of a layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha_w = nn.Parameter(2.0 ** -torch.randint(1, 5, (channels, 1, 1)) * _signs(channels, 1, 1))
        self.alpha_a = nn.Parameter(torch.tensor(-0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.alpha_w * self.alpha_a)


class Network(nn.Module):
    """BN -> H -> conv -> scale, a pool, and again; the outputs are exact sums of the last layer."""

    def __init__(self, channels: int, pool: nn.Module, *, padding: int, dense: bool, pad_value: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _norm(channels),
            BinaryConv2d(channels, 24, 3, padding=1, bias=False, activation="bits", pad_value=pad_value),
            Scale(24),
            pool,
            _norm(24),
            BinaryConv2d(24, 16, 3, padding=padding, bias=False, activation="bits", pad_value=pad_value),
        )
        self.dense = dense
        if dense:
            self.layers.pop(-1)
            self.layers.extend([nn.Flatten(), BinaryLinear(24 * 6, 10, activation="bits")])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


def _signs(*shape: int) -> Tensor:
    return torch.randint(0, 2, shape) * 2 - 1


def _norm(channels: int) -> nn.BatchNorm2d:
    """Of powers of two and small integers, so that torch's own way of computing it gives the same floats."""
    norm = nn.BatchNorm2d(channels, eps=0.0)
    norm.running_var = 4.0 ** torch.randint(1, 4, (channels,))
    norm.running_mean = torch.randint(-8, 9, (channels,)) / 4
    norm.weight.data = 2.0 ** torch.randint(-1, 2, (channels,)) * _signs(channels)
    norm.bias.data = torch.randint(-4, 5, (channels,)) / 16
    return norm


def compiled(network: nn.Module, x: Tensor, path: Path, target: str = "native") -> list[Layer]:
    """The layers; the output is that of onnxruntime and of torch."""
    bnncc.export(network.eval(), x, path)
    model = bnncc.load(bnncc.compile(path, target))
    (name,) = [tensor.name for tensor in model.manifest.inputs]
    (want,) = onnxruntime.InferenceSession(path).run(None, {name: x.numpy()})
    (got,) = model.run(x.numpy()).values()
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got, network(x).detach().numpy())
    return list(model.manifest.layers)


POOLS = {
    "2x2": nn.MaxPool2d(2),
    "3x3, stride 2, padding 1": nn.MaxPool2d(3, 2, 1),
    "none": nn.Identity(),
}


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    channels=st.sampled_from([3, 8, 40]),
    pool=st.sampled_from(sorted(POOLS)),
    padding=st.integers(0, 2),
    pad_value=st.sampled_from([-1.0, 0.0, 1.0]),
)
def test_exact(
    seed: int, channels: int, pool: str, padding: int, pad_value: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Sums are integers; every fold below has to be right in each channel for them to be equal."""
    torch.manual_seed(seed)
    network = Network(channels, POOLS[pool], padding=padding, dense=False, pad_value=pad_value)
    x = torch.randint(-16, 17, (2, channels, 6, 8)) / 4
    layers = compiled(network, x, tmp_path_factory.mktemp("bits") / "bits.onnx")
    first, *_ = [layer for layer in layers if layer.binary]
    assert "threshold" in first.fused
    assert "multiply" not in first.fused
    assert [layer.kind for layer in layers if "pool" in layer.kind] == ([] if pool == "none" else ["or_pool2d"])


@pytest.mark.parametrize("seed", range(3))
def test_a_dense_layer_on_pooled_bits(seed: int, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    network = Network(8, nn.MaxPool2d(2), padding=0, dense=True, pad_value=0.0)
    compiled(network, torch.randint(-16, 17, (1, 8, 4, 6)) / 4, tmp_path / "dense.onnx")


@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_alpha_a_changes_no_bit(factor: float, tmp_path: Path) -> None:
    """In front of a BatchNorm that was moved with it: the thresholds are the same integers."""
    torch.manual_seed(0)
    network = Network(8, nn.MaxPool2d(2), padding=1, dense=False, pad_value=0.0)
    x = torch.randint(-16, 17, (1, 8, 6, 6)) / 4
    before = network.eval()(x)
    with torch.no_grad():
        network.get_parameter("layers.2.alpha_a").mul_(factor)
        network.get_buffer("layers.4.running_mean").mul_(factor)
        network.get_buffer("layers.4.running_var").mul_(factor * factor)
    compiled(network, x, tmp_path / "scaled.onnx")
    torch.testing.assert_close(network(x), before, rtol=0, atol=0)
