"""The builder: every method on every network, what a method changes, and equal products or bits."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import bnncc
from bnncc.models import ARCHITECTURES, METHODS, Architecture, Method, Network, build
from bnncc.models.build import EqualTo
from bnncc.nn import ChannelInteraction, GroupNet, InteractionGraph, summary
from bnncc.nn.interaction_graph import Edge
from bnncc.nn.layer import BinaryLayer
from bnncc.runtime.errors import OptionError
from tests.conftest import randomise

DIGITS = (1, 8, 8)
EQUAL: tuple[EqualTo, ...] = ("macs", "bits")
GROUP_NETS: list[tuple[Method, dict[str, Any]]] = [
    ("xnor", {}),
    ("group-net", {"downsample": "float"}),
    ("group-net", {"downsample": "float", "equal_to": "macs"}),
]
BINARY = [method for method in METHODS if method != "float"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_every_network_trains(model: Architecture, method: Method) -> None:
    torch.manual_seed(0)
    net = build(model, method, classes=7, image=DIGITS, width=0.25)
    x = torch.randn(3, *DIGITS)
    y = net(x)
    assert y.shape == (3, 7)
    net.eval()
    assert torch.equal(net.classifier(net.features(x)), net(x))
    y.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


def binary_layers(net: nn.Module) -> list[nn.Conv2d]:
    layers = [m for m in net.modules() if isinstance(m, BinaryLayer)]
    assert all(isinstance(m, nn.Conv2d) for m in layers)
    return [m for m in layers if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(
    ("model", "image", "count"),
    [("resnet18", (3, 224, 224), 16), ("resnet20", (3, 32, 32), 18), ("vgg-small", (3, 32, 32), 5)],
)
def test_methods_share_their_networks(model: Architecture, image: tuple[int, int, int], count: int) -> None:
    """The same binary convolutions, and as many float ones in the float twin, stem and shortcuts aside."""
    with torch.device("meta"):
        nets = {
            method: build(model, method, image=image)
            for method in ("float", "xnor", "bireal", "reactnet", "trained-binarization")
        }
        counted = {method: summary(net, torch.empty(1, *image)) for method, net in nets.items()}
    of_xnor = counted["xnor"]
    shapes = [m.weight.shape for m in binary_layers(nets["xnor"])]
    assert len(shapes) == count
    for method in ("bireal", "reactnet", "trained-binarization"):
        assert [m.weight.shape for m in binary_layers(nets[method])] == shapes
        assert counted[method].binary_macs == of_xnor.binary_macs
        assert counted[method].float_macs == of_xnor.float_macs
    assert not binary_layers(nets["float"])
    assert counted["float"].float_macs == of_xnor.binary_macs + of_xnor.float_macs
    assert {type(net) for net in nets.values()} == {Network}


@pytest.mark.parametrize("backbone", ["xnor", "bireal"])
@torch.no_grad()
def test_interactions_start_without_edges(backbone: Any) -> None:
    """Then the network is its backbone's; an edge in a 1x1 convolution of a shortcut counts."""
    options: dict[str, Any] = {"image": DIGITS, "width": 0.25, "backbone": backbone, "downsample": "binary"}
    torch.manual_seed(0)
    plain = build("resnet20", backbone, **options).eval()
    torch.manual_seed(0)
    net = build("resnet20", "ci-bcnn", **options).eval()
    interactions = {name: m for name, m in net.named_modules() if isinstance(m, ChannelInteraction)}
    assert len(interactions) == len(binary_layers(net)) == 20
    x = torch.randn(2, *DIGITS)
    before = net(x)
    assert torch.equal(before, plain(x))
    point = next(m for name, m in interactions.items() if "shortcut" in name)
    point.graph = InteractionGraph.of(point.channels, [Edge(0, 1, up=((-100, 5),), down=())])
    assert not torch.equal(net(x), before)


@pytest.mark.parametrize("backbone", ["xnor", "bireal"])
@pytest.mark.parametrize("downsample", ["float", "binary"])
def test_backbones_and_downsampling(backbone: Any, downsample: Any) -> None:
    """Shortcuts around two convolutions or around each; the two 1x1 convolutions are binary or not."""
    net = build("resnet20", "xnor", backbone=backbone, downsample=downsample, width=0.25)
    points = [m for m in binary_layers(net) if m.kernel_size == (1, 1)]
    assert len(points) == (2 if downsample == "binary" else 0)
    assert {m.stride for m in points} <= {(2, 2)}
    around = [name for name, _ in net.named_modules() if name.endswith("shortcut")]
    assert len(around) == (9 if backbone == "xnor" else 18)
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_equal_products_and_bits() -> None:
    """At half of the reference's width the width that is found is one half, as near as a channel counts."""
    wide = build("resnet20", "xnor", width=0.5)
    for equal_to in EQUAL:
        net = build("resnet20", "bireal", width=0.5, equal_to=equal_to)
        assert [m.weight.shape for m in binary_layers(net)] == [m.weight.shape for m in binary_layers(wide)]


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_five_bases_of_equal_products(model: Architecture) -> None:
    """Group-Net's products and bits grow with K times the width squared; the answer is good to a channel."""
    image = (3, 32, 32)
    with torch.device("meta"):
        one, five, equal = (
            summary(build(model, method, image=image, **options), torch.empty(1, *image))
            for method, options in GROUP_NETS
        )
    assert five.binary_weights == 5 * one.binary_weights
    assert equal.binary_macs == pytest.approx(one.binary_macs, rel=0.08)


@pytest.mark.parametrize("mixing", ["shared", "oriented"])
@pytest.mark.parametrize("orientations", [4, 8])
def test_orientations_of_equal_products_and_bits(orientations: int, mixing: Any) -> None:
    """Products: width / M. Bits: width where filters are shared, width / sqrt(M) with a slice for each orientation."""
    image, m = (3, 32, 32), orientations
    options: dict[str, Any] = {"orientations": m, "mixing": mixing, "image": image}
    with torch.device("meta"):
        plain = build("resnet20", "xnor")
        macs, bits = (build("resnet20", "cbcn", equal_to=equal_to, **options) for equal_to in EQUAL)
        full = build("resnet20", "cbcn", **options)
        counted = [summary(net, torch.empty(1, *image)) for net in (plain, macs, bits, full)]
    assert counted[1].binary_macs == counted[0].binary_macs
    assert counted[1].binary_weights == counted[0].binary_weights // (m if mixing == "oriented" else m * m)
    assert counted[2].binary_weights == pytest.approx(counted[0].binary_weights, rel=0.08)
    assert counted[3].binary_macs == m * m * counted[0].binary_macs
    assert counted[3].binary_weights == counted[0].binary_weights * (m if mixing == "oriented" else 1)
    assert [net.classifier.in_features for net in (macs, full)] == [64 // m, 64]
    everything = build("resnet20", "cbcn", merge="all", **options)
    assert everything.classifier.in_features == 64 * m


@pytest.mark.parametrize(
    ("model", "blocks", "sizes"),
    [
        ("resnet20", 1, [2] * 9),
        ("resnet20", 2, [2, 4, 4, 4, 4]),
        ("resnet20", None, [18]),
        ("vgg-small", 1, [1, 2, 2]),
        ("vgg-small", None, [5]),
    ],
)
def test_layers_of_groups(model: Architecture, blocks: int | None, sizes: list[int]) -> None:
    with torch.device("meta"):
        net = build(model, "group-net", blocks=blocks, bases=2)
    assert isinstance(net.stages, GroupNet)
    assert [len(list(group.get_submodule("layers").children())) for group in net.stages.groups] == sizes
    assert net.stages.gates is not None
    assert net.stages.gates.shape == (len(sizes) - 1, 1)


def test_same_seed_same_weights() -> None:
    """Looking for a width takes nothing from torch's random state."""
    states = []
    equal: tuple[EqualTo, ...] = (None, "macs")
    for equal_to in equal:
        torch.manual_seed(5)
        states.append(build("resnet20", "xnor", image=DIGITS, width=0.5, equal_to=equal_to).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("resnet50", {}, r"model is 'resnet50'; allowed are 'resnet18', 'resnet20', 'vgg-small'\."),
        ("resnet18", {"reference": "best"}, "reference is 'best'; allowed are 'float', "),
        ("resnet18", {"equal_to": "time"}, r"equal_to is 'time'; allowed are None, 'macs', 'bits'\."),
        ("resnet18", {"equal_to": "macs", "reference": "float"}, "equal_to='macs' with the method float"),
        ("resnet18", {"backbone": "vgg"}, r"backbone is 'vgg'; allowed are None, 'xnor', 'bireal'\."),
        ("resnet18", {"merge": "mean"}, r"merge is 'mean'; allowed are 'max', 'all'\."),
        ("resnet18", {"sigma": 0.0}, "sigma is 0.0; allowed are finite numbers above 0"),
        ("resnet18", {"blocks": 0}, "blocks is 0; allowed are whole numbers from 1, and None"),
        ("resnet18", {"classes": 0}, "classes is 0; allowed are whole numbers from 1"),
        ("resnet18", {"width": float("nan")}, "width is nan; allowed are finite numbers above 0"),
        ("resnet18", {"image": (3, 225, 224)}, r"image is \(3, 225, 224\); allowed for resnet18 .* multiples of 32"),
        ("resnet20", {"image": (3, 30, 32)}, r"image is \(3, 30, 32\); allowed for resnet20 .* multiples of 4"),
        ("vgg-small", {"image": (3, 7, 9)}, r"image is \(3, 7, 9\); allowed for vgg-small .* from 8"),
    ],
)
def test_refusals(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"^build: {message}"):
        build(model, "xnor", **options)


@pytest.mark.parametrize("method", BINARY)
def test_artifact_equals_file(method: Method, tmp_path: Path) -> None:
    """On digits, through export, onnxruntime and the native artifact; scores to 1e-4."""
    torch.manual_seed(1)
    net = build("vgg-small", method, image=DIGITS, width=0.25)
    x = torch.randn(1, *DIGITS)
    randomise(net, x, 1)
    path = tmp_path / "net.onnx"
    bnncc.export(net, x, path)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
    (found,) = bnncc.load(bnncc.compile(path, "native")).run(x.numpy()).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
