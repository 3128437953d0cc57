"""Export compares its file with the module: what it must notice, name, and not be alarmed by."""

import logging
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bnncc
from bnncc import bitpack
from bnncc.nn import BinaryConv2d, BinaryLinear
from bnncc.runtime.errors import ModelError


class Then(nn.Module):
    """A function of a binary layer's result."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = BinaryConv2d(4, 4, 3, padding=1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Stateful(nn.Module):
    """Python state that torch cannot record."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


def sampled(x: Tensor) -> Tensor:
    return x * random.random()


def kept_on() -> nn.Module:
    module = nn.Sequential(BinaryConv2d(4, 4, 3), nn.Identity())
    module[1].forward = lambda x: functional.dropout(x, 0.5, training=True)
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: Then(lambda y: functional.avg_pool2d(y, 2, divisor_override=1)), r"^averagepool: the file differs "),
        (lambda: nn.Sequential(Then(nn.AvgPool2d(2, divisor_override=3)), nn.ReLU()), r"^0(\.function)?: the file dif"),
        (lambda: Then(lambda y: functional.dropout(y, 0.5, True)), r"^Then: aten\.dropout\.default draws random num"),
        (kept_on, r"^1: aten\.dropout\.default draws random numbers in eval mode; .* Turn dropout and noise off"),
        (lambda: nn.Sequential(BinaryConv2d(4, 4, 3), Noise()), r"^1: aten\.randn_like\.default draws random numbers"),
        (lambda: nn.Sequential(BinaryConv2d(4, 4, 3), Stateful()), r"^1: its result in eval mode is not the one torch"),
        (lambda: Then(sampled), r"^Then: its result in eval mode is not the one torch recorded: forward depends on so"),
    ],
)
def test_difference_is_named(module: Callable[[], nn.Module], message: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=message) as raised:
        bnncc.export(module(), torch.randn(1, 4, 6, 6), tmp_path / "net.onnx")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def network() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3)]
    for _ in range(6):
        layers += [nn.BatchNorm2d(16), BinaryConv2d(16, 16, 3, padding=1, scale="channel")]
    return nn.Sequential(*layers, nn.Flatten(), BinaryLinear(16 * 36, 5))


@pytest.mark.parametrize("runtime", ["onnxruntime", "reference"])
def test_wrong_bits_are_noticed(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of the fourth binary layer."""
    if runtime == "reference":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    module, x = network(), torch.randn(1, 3, 8, 8)
    bnncc.export(module, x, tmp_path / "net.onnx")
    packed = bitpack.pack
    calls: list[int] = []

    def flipped(positive: Any) -> Any:
        bits = packed(positive).copy()
        calls.append(1)
        if len(calls) == 4:
            bits.flat[0] ^= 1
        return bits

    with monkeypatch.context() as patch:
        patch.setattr("bnncc.frontend.translate.bitpack.pack", flipped)
        with pytest.raises(ModelError, match=r"^8: the file differs from the module: it gives"):
            bnncc.export(module, x, tmp_path / "wrong.onnx")
    assert not (tmp_path / "wrong.onnx").exists()


def test_constants_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A BatchNorm that the exporter writes with another epsilon."""
    original = onnx.ModelProto.SerializeToString

    def other(model: onnx.ModelProto, *args: Any, **options: Any) -> bytes:
        for attribute in (a for node in model.graph.node if node.name == "5" for a in node.attribute):
            attribute.f = 0.5 if attribute.name == "epsilon" else attribute.f
        data: bytes = original(model, *args, **options)
        return data

    monkeypatch.setattr(onnx.ModelProto, "SerializeToString", other)
    with pytest.raises(ModelError, match=r"^5: the file differs from the module: it gives"):
        bnncc.export(network(), torch.randn(1, 3, 8, 8), tmp_path / "wrong.onnx")


@pytest.mark.parametrize("seed", range(3))
def test_chaos_raises_no_alarm(seed: int, tmp_path: Path) -> None:
    """Inputs whose signs hang on rounding: every BatchNorm is centred on one of the numbers it gets."""
    module = network().eval()
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))

    def centre(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean = norm.get_buffer("running_mean")
        mean.copy_(inputs[0][0, :, seed, seed])

    hooks = [part.register_forward_pre_hook(centre) for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    bnncc.export(module, x, tmp_path / "net.onnx")


def test_steps_that_are_not_ours(tmp_path: Path) -> None:
    """Comparisons, roundings and an arg max between float layers."""

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 8, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            y = self.second(torch.where(self.first(x) > 0, 1.0, -1.0) + torch.sign(self.first(x)))
            return torch.round(y), y.argmax(1)

    torch.manual_seed(1)
    bnncc.export(Steps(), torch.randn(4, 3, 24, 24), tmp_path / "net.onnx")


def test_check_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    module, x = Then(lambda y: functional.avg_pool2d(y, 2, divisor_override=1)), torch.randn(1, 4, 6, 6)
    with caplog.at_level(logging.INFO, "bnncc.frontend.export"):
        bnncc.export(module, x, tmp_path / "net.onnx", check=False)
        bnncc.export(module.layer, x, tmp_path / "layer.onnx")
    lines = [record.message for record in caplog.records if record.name == "bnncc.frontend.export"]
    assert [line.split(": ")[1].split(" in ")[0] for line in lines] == ["1 binary layers, exported"] * 2
    assert lines[0].endswith("not checked")
    assert lines[1].endswith("s of them to check it on 3 inputs")
    assert (tmp_path / "net.onnx").exists()


def test_random_inputs_suit_the_module(tmp_path: Path) -> None:
    """Indices stay in their range; a module that refuses random numbers is compared on the example."""

    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.layer = nn.Embedding(5, 4), BinaryLinear(4, 3)

        def forward(self, index: Tensor, x: Tensor) -> Tensor:
            if not torch.compiler.is_exporting() and float(x.max()) > 1:
                raise ValueError("allowed are numbers up to 1")
            y: Tensor = self.layer(self.table(index) + x)
            return y

    example = (torch.tensor([4, 0, 2]), torch.linspace(-1, 1, 12).reshape(3, 4))
    bnncc.export(Picky(), example, tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").exists()
