"""Bases with inputs of their own, gates and sums: a base stores one map, and sums are the source's to the bit."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import bnncc
from bnncc.nn import BinaryConv2d
from bnncc.runtime.artifact import Layer


class Block(nn.Module):
    """Group-Net's: two binary convolutions a base, each conv -> ReLU -> BatchNorm -> + shortcut; the bases' outputs are
    summed with weights, and mixed with the sum by a gate in front of the next block."""

    def __init__(self, inputs: int, outputs: int, bases: int, gate: float, stride: int = 1) -> None:
        super().__init__()
        self.gate = gate
        self.first, self.second = (
            nn.ModuleList(
                BinaryConv2d(i, outputs, 3, stride=s, padding=1, bias=False, pad_value=1.0) for _ in range(bases)
            )
            for i, s in ((inputs, stride), (outputs, 1))
        )
        self.norms = nn.ModuleList(_norm(outputs) for _ in range(2 * bases))
        self.down = None
        if stride > 1:
            self.down = nn.Sequential(BinaryConv2d(inputs, outputs, 1, stride=stride, bias=False), _norm(outputs))
        self.weights = [(-1.0) ** base * (base + 0.75) for base in range(bases)]

    def forward(self, bases: list[Tensor], mean: Tensor) -> tuple[list[Tensor], Tensor]:
        """Layer by layer, all bases of each."""
        mixed = [self.gate * base + (1 - self.gate) * mean for base in bases] or [mean] * len(self.first)
        halves = [
            norm(torch.relu(conv(x))) + (self.down(x) if self.down else x)
            for conv, norm, x in zip(self.first, self.norms[::2], mixed, strict=True)
        ]
        found = [
            norm(torch.relu(conv(u))) + u for conv, norm, u in zip(self.second, self.norms[1::2], halves, strict=True)
        ]
        total: Tensor | None = None
        for weight, v in zip(self.weights, found, strict=True):
            total = weight * v if total is None else total + weight * v
        assert total is not None
        return found, total


class Blocks(nn.Module):
    """The sum of the last of three blocks."""

    def __init__(self, channels: int, bases: int, gate: float) -> None:
        super().__init__()
        kinds = ((channels, channels, 1), (channels, channels, 1), (channels, 2 * channels, 2))
        self.blocks = nn.ModuleList(Block(i, o, bases, gate, stride) for i, o, stride in kinds)

    def forward(self, x: Tensor) -> Tensor:
        bases: list[Tensor] = []
        for block in self.blocks:
            bases, x = block(bases, x)
        return x


def _norm(channels: int) -> nn.BatchNorm2d:
    """Of powers of two and small integers, whose results are exact however they are computed; scales of both signs."""
    norm = nn.BatchNorm2d(channels, eps=0.0)
    norm.running_var = 4.0 ** torch.randint(2, 5, (channels,))
    norm.running_mean = torch.randint(-8, 9, (channels,)).float()
    norm.weight.data = 2.0 ** torch.randint(-1, 2, (channels,)) * (torch.randint(0, 2, (channels,)) * 2 - 1)
    norm.bias.data = torch.randint(-2, 3, (channels,)) / 4
    return norm


def compiled(channels: int, bases: int, gate: float, size: int, path: Path, target: str = "native") -> list[Layer]:
    """The binary layers; the output is that of onnxruntime and of torch."""
    torch.manual_seed(channels + bases + size)
    network, x = Blocks(channels, bases, gate).eval(), torch.randint(-16, 17, (1, channels, size, size + 1)) / 8
    bnncc.export(network, x, path)
    model = bnncc.load(bnncc.compile(path, target))
    (name,) = [tensor.name for tensor in model.manifest.inputs]
    (want,) = onnxruntime.InferenceSession(path).run(None, {name: x.numpy()})
    (got,) = model.run(x.numpy()).values()
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(got, network(x).detach().numpy())
    return [layer for layer in model.manifest.layers if layer.kind == "xnor_conv2d"]


@settings(max_examples=6, deadline=None)
@given(
    channels=st.sampled_from([8, 24, 32]),
    bases=st.integers(1, 5),
    gate=st.sampled_from([0.25, 0.5, 1.0, 0.0]),
    size=st.integers(2, 7),
)
def test_gates_and_sums(
    channels: int, bases: int, gate: float, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    compiled(channels, bases, gate, size, tmp_path_factory.mktemp("bases") / "bases.onnx")


def test_a_base_stores_one_map_and_the_last_adds_up(tmp_path: Path) -> None:
    """Of two blocks with gates: each base's last layer but the last writes its floats alone; the last reads them all,
    and writes the next input of every base, as floats and as signs."""
    bases, channels, size = 4, 32, 4
    layers = {layer.name: layer for layer in compiled(channels, bases, 0.5, size, tmp_path / "bases.onnx")}
    floats = 4 * channels * size * (size + 1)
    for base in range(bases - 1):
        assert layers[f"blocks.0.second.{base}"].bytes_out == floats
    last = layers[f"blocks.0.second.{bases - 1}"]
    assert bases * floats < last.bytes_in < (bases + 1) * floats
    assert bases * floats < last.bytes_out < (bases + 1) * floats


def test_layers_run_base_after_base(tmp_path: Path) -> None:
    names = [layer.name for layer in compiled(32, 3, 0.5, 4, tmp_path / "bases.onnx")]
    for block in (0, 1):
        inside = [name for name in names if name.startswith(f"blocks.{block}.")]
        assert inside == [f"blocks.{block}.{part}.{base}" for base in range(3) for part in ("first", "second")]
