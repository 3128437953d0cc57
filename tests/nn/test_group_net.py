"""Group-Net: what its decompositions are special cases of, its two stages, and the line to the artifact."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bnncc
from bnncc.models import build
from bnncc.nn import GroupLayer, GroupNet, GroupNetConv2d, LayerwiseConv2d, set_tanh
from bnncc.nn.group_net import FusionKind, Gates
from bnncc.runtime.errors import OptionError


def layers(bases: int, *, seed: int) -> list[list[GroupLayer]]:
    """Three groups of two layers, the second group with a stride; statistics as if trained."""
    torch.manual_seed(seed)
    down = nn.Sequential(GroupNetConv2d(8, 16, 1, 2), nn.BatchNorm2d(16))
    made = [
        [GroupLayer(8, 8, bases=bases, shortcut=nn.Identity()) for _ in range(2)],
        [GroupLayer(8, 16, 2, bases=bases, shortcut=down), GroupLayer(16, 16, bases=bases, shortcut=nn.Identity())],
        [GroupLayer(16, 16, bases=bases, shortcut=nn.Identity()) for _ in range(2)],
    ]
    for part in nn.ModuleList(layer for group in made for layer in group).modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
            part.running_mean = torch.rand_like(part.weight) / 4
    return made


def chain(groups: list[list[GroupLayer]], base: int, x: Tensor) -> list[Tensor]:
    """What base `base` alone gives after each group: sign, convolution, ReLU, BatchNorm, + shortcut, written out."""
    results = []
    for group in groups:
        for layer in group:
            conv, norm = layer.convs[base], layer.norms[base]
            assert isinstance(conv, GroupNetConv2d)
            assert layer.shortcut is not None
            signs = functional.pad(torch.where(x >= 0, 1.0, -1.0), [1] * 4, value=1.0)
            sums = functional.conv2d(signs, torch.where(conv.weight >= 0, 1.0, -1.0), stride=conv.stride)
            x = norm(functional.relu(sums * conv.weight.abs().mean())) + layer.shortcut(x)
        results.append(x)
    return results


def fill(parameter: Tensor | None, value: Any) -> None:
    assert parameter is not None
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(value))


@torch.no_grad()
def test_one_base_is_a_network_with_a_shortcut_around_each_convolution() -> None:
    groups = layers(1, seed=0)
    net = GroupNet(groups, bases=1, gates=None).eval()
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(net(x), chain(groups, 0, x)[-1])


@torch.no_grad()
@pytest.mark.parametrize("gates", ["group", "base"])
def test_open_gates_make_independent_networks(gates: Gates) -> None:
    groups = layers(3, seed=1)
    net = GroupNet(groups, bases=3, gates=gates).eval()
    fill(net.gates, torch.inf)
    factors = [0.5, -0.25, 2.0]
    for group in net.groups:
        fill(group.fusion.factors, factors)  # type: ignore[union-attr,arg-type]
    x = torch.randn(2, 8, 6, 6)
    alone = [factor * chain(groups, base, x)[-1] for base, factor in enumerate(factors)]
    assert torch.equal(net(x), alone[0] + alone[1] + alone[2])


@torch.no_grad()
def test_gates_mix_a_stream_with_the_sum() -> None:
    """By hand for two groups: x_i = g_i G_i(x) + (1 - g_i) m; closed gates give every base the sum."""
    groups = layers(2, seed=2)[:2]
    net = GroupNet(groups, bases=2, gates="base", fusion="uniform").eval()
    fill(net.gates, [[0.5, -1.0]])
    x = torch.randn(2, 8, 6, 6)
    first, last = (group.fusion.factors for group in net.groups)  # type: ignore[union-attr]
    streams = [chain(groups[:1], base, x)[-1] for base in range(2)]
    total = first[0] * streams[0] + first[1] * streams[1]  # type: ignore[index]
    own = torch.sigmoid(torch.tensor([0.5, -1.0]))
    entries = [own[base] * streams[base] + (1 - own[base]) * total for base in range(2)]
    ends = [chain(groups[1:], base, entries[base])[-1] for base in range(2)]
    assert torch.equal(net(x), last[0] * ends[0] + last[1] * ends[1])  # type: ignore[index]
    closed = GroupNet(groups, bases=2, gates=None).eval()
    for fusion in (closed.groups[0].fusion, closed.groups[1].fusion):
        fill(fusion.factors, [1.0, 1.0])  # type: ignore[union-attr,arg-type]
    fill(net.gates, -torch.inf)
    for group in net.groups:
        fill(group.fusion.factors, [1.0, 1.0])  # type: ignore[union-attr,arg-type]
    assert torch.equal(net(x), closed(x))


@torch.no_grad()
@pytest.mark.parametrize("factor", [0.125, 4.0])
def test_a_positive_factor_folded_into_a_base_changes_no_sign(factor: float) -> None:
    """Entry, gamma and beta times lambda: the same signs are read, and the base gives lambda times as much."""
    group = layers(1, seed=3)[0]
    x = torch.randn(2, 8, 6, 6)
    signs: list[Tensor] = []
    for layer in group:
        layer.convs[0].input_quantizer.register_forward_hook(lambda module, inputs, output: signs.append(output))  # type: ignore[union-attr]
    net = GroupNet([group], bases=1).eval()
    plain = net(x)
    for layer in group:
        for parameter in layer.norms.parameters():
            parameter.mul_(factor)
    assert torch.equal(net(x * factor), plain * factor)
    assert len(signs) == 4
    assert torch.equal(signs[0], signs[2])
    assert torch.equal(signs[1], signs[3])


def test_gradient_of_the_weights_is_that_of_the_scaled_signs() -> None:
    conv = GroupNetConv2d(3, 2, 3, padding=1)
    x, upstream = torch.randn(2, 3, 4, 4), torch.randn(2, 2, 4, 4)
    conv(x).backward(upstream)
    scaled = (conv.weight.detach().abs().mean() * torch.where(conv.weight >= 0, 1.0, -1.0)).requires_grad_()
    border = functional.pad(torch.where(x >= 0, 1.0, -1.0), [1] * 4, value=1.0)
    functional.conv2d(border, scaled).backward(upstream)  # type: ignore[no-untyped-call]
    assert conv.weight.grad is not None
    torch.testing.assert_close(conv.weight.grad, scaled.grad, rtol=1e-5, atol=1e-5)


def test_first_stage_is_float() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(GroupNetConv2d(3, 4, 3, 2, 1), LayerwiseConv2d(4, 4, 1, bases=2))
    x = torch.randn(1, 3, 5, 5)
    second = net(x)
    set_tanh(net, True)
    assert "tanh" in repr(net)
    border = functional.pad(torch.tanh(x), [1] * 4, value=1.0)
    torch.testing.assert_close(
        net[0](x), functional.conv2d(border, net.get_parameter("0.weight"), stride=2), rtol=0, atol=0
    )
    assert not torch.equal(net(x), second)
    set_tanh(net, False)
    assert torch.equal(net(x), second)
    with pytest.raises(OptionError, match=r"^set_tanh: ReLU has no Group-Net convolutions; "):
        set_tanh(nn.ReLU(), True)


@pytest.mark.parametrize("decomposition", ["group", "layer"])
def test_no_two_bases_start_from_one_copy(decomposition: Any) -> None:
    net = build("resnet20", "group-net", image=(1, 8, 8), bases=3, decomposition=decomposition)
    lists = [part for part in net.modules() if isinstance(part, nn.ModuleList) and isinstance(part[0], GroupNetConv2d)]
    assert len(lists) == (18 if decomposition == "group" else 20)
    for bases in lists:
        signs = [base.get_parameter("weight") >= 0 for base in bases]
        assert len(signs) == 3
        for i in range(3):
            assert 0.4 < float((signs[i] == signs[i - 1]).float().mean()) < 0.6


@pytest.mark.parametrize(("fusion", "start"), [("equal", [0.25] * 4), ("mean", [0.25] * 4), ("uniform", None)])
def test_fusions(fusion: FusionKind, start: list[float] | None) -> None:
    torch.manual_seed(0)
    conv = LayerwiseConv2d(2, 2, 1, bases=4, fusion=fusion)
    factors: Any = conv.fusion.factors
    assert factors.requires_grad == (fusion != "mean")
    assert factors.tolist() == start or (start is None and len(set(factors.tolist())) == 4)
    assert 0 <= float(factors.detach().min()) <= float(factors.detach().max()) < 1
    x = torch.randn(1, 2, 3, 3)
    parts = [factor * base(x) for factor, base in zip(factors, conv.bases, strict=True)]
    assert torch.equal(conv(x), parts[0] + parts[1] + parts[2] + parts[3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerwiseConv2d(2, 2, 1, bases=0), "LayerwiseConv2d: bases is 0; allowed are whole numbers from 1"),
        (lambda: GroupNet([], bases=0), "GroupNet: bases is 0; allowed are whole numbers from 1"),
        (lambda: GroupNet([], gates="all"), "GroupNet: gates is 'all'; allowed are 'group', 'base' and None"),  # type: ignore[arg-type]
        (lambda: LayerwiseConv2d(2, 2, 1, fusion="sum"), "Fusion: kind is 'sum'; allowed are 'equal', 'uniform' and"),  # type: ignore[arg-type]
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(OptionError, match=f"^{message}"):
        make()


@pytest.mark.parametrize("gates", ["group", None])
def test_module_file_and_artifact_agree(gates: Gates, tmp_path: Path) -> None:
    """==; numbers are powers of two and integers, lambda and gamma of both signs, so that floats are exact anyhow."""
    groups = layers(3, seed=4)
    net = nn.Sequential(
        GroupNet(groups, bases=3, gates=gates),
        LayerwiseConv2d(16, 8, 3, padding=1, bases=2),
        nn.ReLU(),
        nn.BatchNorm2d(8),
    ).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            size = parameter.shape
            signs = torch.randint(0, 2, size, generator=generator) * 2.0 - 1
            if name.endswith(("gates", "bias")):
                parameter.zero_()  # sigmoid(0) = 1 / 2
            else:
                parameter.copy_(signs / 4 if parameter.dim() > 1 else signs / 2)  # weights: mean |w| = 1 / 4
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eps = 0.0
                part.running_mean = torch.randint(0, 4, part.weight.shape, generator=generator) * 2.0
    x = torch.randn(1, 8, 6, 6, generator=generator).round(decimals=0)
    with torch.no_grad():
        expected = net(x).numpy()
    path = tmp_path / "net.onnx"
    bnncc.export(net, x, path)
    (found,) = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
    assert np.array_equal(found, expected)
    (computed,) = bnncc.load(bnncc.compile(path, "native")).run(x.numpy()).values()
    assert np.array_equal(computed, expected)
    assert len(np.unique(expected)) > 5
