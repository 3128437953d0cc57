"""Convolutions of one input: which become one kernel, and that nothing changes."""

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
from bnncc.runtime.artifact import Artifact, Layer

NARROW, BYTES = 16, "x86-avx2"  # channels that do not fill a vector of this target


class Bases(nn.Module):
    """Layer-wise decomposition of a layer, and the signs of every base besides: each with what follows it."""

    def __init__(self, bases: int, channels: int, padding_value: float = 0.0) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            BinaryConv2d(64, channels, 3, padding=1, bias=False, pad_value=padding_value) for _ in range(bases)
        )
        self.after = BinaryConv2d(channels, channels, 1, bias=False)
        self.factors = [0.5 * (-1) ** number * (number + 1) for number in range(bases)]

    def forward(self, x: Tensor) -> Tensor:
        total = self.factors[0] * self.convs[0](x)
        for factor, conv in zip(self.factors[1:], self.convs[1:], strict=True):
            total = total + factor * conv(x)
        for conv in self.convs:
            total = total + self.after(conv(x))
        y: Tensor = total
        return y


class OneNeedsTheOther(nn.Module):
    """The second convolution's sums are added to what another layer makes of the first's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (BinaryConv2d(32, NARROW, 1, bias=False) for _ in range(2))
        self.between = BinaryConv2d(NARROW, NARROW, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.between(self.first(x)) + self.second(x)
        return y


def compiled(network: nn.Module, x: Tensor, path: Path, target: str = BYTES) -> tuple[list[Layer], Artifact]:
    """The binary layers of the compiled network; where it runs here, it gives what onnxruntime gives."""
    bnncc.export(network.eval(), x, path)
    artifact = bnncc.compile(path, target)
    if target in {t.name for t in bnncc.targets.runnable()}:
        model = bnncc.load(artifact)
        (name,) = [tensor.name for tensor in model.manifest.inputs]
        (want,) = onnxruntime.InferenceSession(path).run(None, {name: x.numpy()})
        (got,) = model.run(x.numpy()).values()
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(got, network(x).detach().numpy())
    return [layer for layer in artifact.manifest.layers if layer.kind == "xnor_conv2d"], artifact


@settings(max_examples=6, deadline=None)
@given(
    bases=st.sampled_from([2, 3, 5, 9]),
    channels=st.sampled_from([8, 16, 24, 40]),
    pad=st.sampled_from([-1.0, 0.0, 1.0]),
    size=st.integers(1, 9),
)
def test_bases_of_one_input(
    bases: int, channels: int, pad: float, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    torch.manual_seed(bases + channels + size)
    x = torch.randn(2, 64, 3, size)
    layers, _ = compiled(Bases(bases, channels, pad), x, tmp_path_factory.mktemp("bases") / "bases.onnx")
    first = [layer for layer in layers if "convs" in layer.name]
    assert len(first) == -(-bases // 8)
    assert sum(1 + layer.fused.count("xnor_conv2d") for layer in first) == bases


def test_a_running_sum_is_not_written(tmp_path: Path) -> None:
    """One map comes out of the five bases, beside the bits of each."""
    torch.manual_seed(0)
    (first, *_), _ = compiled(Bases(5, NARROW), torch.randn(1, 64, 4, 4), tmp_path / "bases.onnx")
    bits = 16 * 2
    assert first.bytes_out == 16 * NARROW * 4 + 5 * bits
    assert first.macs == 5 * 16 * 9 * 64 * NARROW


def test_channels_that_fill_vectors_stay_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers, _ = compiled(Bases(3, 32), torch.randn(1, 64, 4, 4), tmp_path / "bases.onnx")
    assert len([layer for layer in layers if "convs" in layer.name]) == 3


def test_one_that_needs_another_stays_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers, artifact = compiled(OneNeedsTheOther(), torch.randn(1, 32, 4, 4), tmp_path / "needs.onnx")
    assert len(layers) == 3
    (fusing,) = [record for record in artifact.manifest.passes if record.name == "bnncc.FuseEpilogue"]
    assert "second: needs what other layers make of the same input" in fusing.refused


@pytest.mark.parametrize("target", ["arm", "x86"])
def test_other_byte_lanes(tmp_path: Path, target: str) -> None:
    torch.manual_seed(0)
    layers, _ = compiled(Bases(4, 24), torch.randn(1, 64, 4, 4), tmp_path / "bases.onnx", target)
    assert len([layer for layer in layers if "convs" in layer.name]) == 1
