"""Circulant convolutions: what they are equal to, their gradients, and the parts that stand around them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bnncc
from bnncc.nn import BinaryConv2d, CenterLoss, CirculantConv2d, MaxOverOrientations, Replicate
from bnncc.nn.circulant import Expand
from bnncc.nn.estimators import gaussian, identity
from bnncc.ops.circulant_expand import Mixing
from bnncc.runtime.errors import InputError, OptionError

# One step of 45 degrees, clockwise: what the nine taps 1..9 become, row by row (CBCN's figure of a circulant filter).
STEP = (4, 1, 2, 7, 5, 3, 8, 9, 6)


def turn(filters: Tensor, eighths: int) -> Tensor:
    """[..., 3, 3] turned by `eighths` * 45 degrees, one step after the other; any [..., 1, 1] stays."""
    if filters.shape[-1] == 1:
        return filters
    taps = filters.flatten(-2)
    for _ in range(eighths % 8):
        taps = taps[..., [tap - 1 for tap in STEP]]
    return taps.reshape(filters.shape)


def by_hand(filters: Tensor, orientations: int, mixing: Mixing) -> Tensor:
    """[O, slices * C, k, k] -> [M * O, M * C, k, k], filter after filter."""
    m = orientations
    base = filters if mixing == "shared" else split(filters, m)
    rows = []
    for k in range(m):
        columns = [base if mixing == "shared" else base[:, (n - k) % m] for n in range(m)]
        rows.append(torch.cat([turn(column, k * 8 // m) for column in columns], 1))
    return torch.cat(rows)


def split(x: Tensor, orientations: int) -> Tensor:
    """[N, M * C, ...] -> [N, M, C, ...]."""
    return x.reshape(x.shape[0], orientations, -1, *x.shape[2:])


def signs(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def test_turns_are_a_group() -> None:
    filters = torch.arange(1.0, 10).reshape(3, 3)
    assert torch.equal(turn(filters, 2), filters.rot90(-1))
    assert torch.equal(turn(filters, 8), filters)
    assert torch.equal(turn(turn(filters, 3), 6), turn(filters, 1))


@pytest.mark.parametrize("mixing", ["shared", "oriented"])
@pytest.mark.parametrize("orientations", [4, 8])
@pytest.mark.parametrize("kernel", [1, 3])
@torch.no_grad()
def test_equals_the_convolution_of_all_turns(kernel: int, orientations: int, mixing: Mixing) -> None:
    torch.manual_seed(0)
    layer = CirculantConv2d(3, 5, kernel, 2, kernel // 2, orientations=orientations, mixing=mixing)
    assert layer.weight.shape == (5, 3 * (orientations if mixing == "oriented" else 1), kernel, kernel)
    x = torch.randn(2, 3 * orientations, 6, 7)
    weight = by_hand(signs(layer.weight), orientations, mixing)
    assert torch.equal(layer.weight_quantizer(layer.weight), weight)
    assert torch.equal(layer(x), functional.conv2d(signs(x), weight, stride=2, padding=kernel // 2))


@torch.no_grad()
def test_one_orientation_is_an_ordinary_convolution() -> None:
    torch.manual_seed(0)
    layer = CirculantConv2d(3, 5, 3, padding=1, orientations=1, scale="channel")
    plain = BinaryConv2d(3, 5, 3, padding=1, bias=False, scale="channel")
    plain.weight = layer.weight
    x = torch.randn(2, 3, 6, 7)
    assert torch.equal(layer(x), plain(x))


@torch.no_grad()
def test_shared_filters_meet_the_sum_of_orientations() -> None:
    torch.manual_seed(0)
    layer = CirculantConv2d(3, 5, 3, padding=1, orientations=8, mixing="shared")
    x = torch.randn(2, 24, 6, 7)
    total = split(signs(x), 8).sum(1)
    turned = torch.cat([turn(signs(layer.weight), k) for k in range(8)])
    assert torch.equal(layer(x), functional.conv2d(total, turned, padding=1))


@pytest.mark.parametrize("mixing", ["shared", "oriented"])
@pytest.mark.parametrize("orientations", [4, 8])
def test_backward_turns_gradients_back_and_sums_them(orientations: int, mixing: Mixing) -> None:
    """For a smooth function of the expanded filters: by turning back, and by finite differences, the sign left out."""
    torch.manual_seed(0)
    expand = Expand(orientations, mixing)
    slices = orientations if mixing == "oriented" else 1
    filters = torch.randn(2, slices * 3, 3, 3, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(orientations * 2, orientations * 3, 3, 3, dtype=torch.float64)
    expand(filters).backward(upstream)
    gradient = upstream.reshape(orientations, 2, orientations, 3, 3, 3)
    expected = torch.zeros(2, slices, 3, 3, 3, dtype=torch.float64)
    for k in range(orientations):
        for n in range(orientations):
            expected[:, (n - k) % slices] += turn(gradient[k][:, n], 8 - k * 8 // orientations)
    assert filters.grad is not None
    torch.testing.assert_close(filters.grad, expected.flatten(1, 2), rtol=1e-12, atol=1e-12)
    x = torch.randn(1, orientations * 3, 3, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: functional.conv2d(x, expand(w)).square().sum(), filters)


def test_estimators_of_filters_and_activations() -> None:
    """dL/dw = turned-back gradient * Gaussian; with the identity in its place the derivative of the turns alone."""
    torch.manual_seed(0)
    x = torch.randn(1, 8, 3, 3)
    grads = []
    for estimator in (None, gaussian(0.25), identity):
        torch.manual_seed(1)
        layer = CirculantConv2d(2, 3, 3, estimator=estimator)
        layer(x).sum().backward()
        assert layer.weight.grad is not None
        grads.append(layer.weight.grad)
    latent = layer.weight.detach()
    torch.testing.assert_close(grads[0], grads[2] * gaussian(1.0)(latent), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grads[1], grads[2] * gaussian(0.25)(latent), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_scales() -> None:
    """mean |w| of a filter, the same for its orientations."""
    torch.manual_seed(0)
    layer = CirculantConv2d(2, 3, 3, scale="channel")
    plain = CirculantConv2d(2, 3, 3)
    plain.weight = layer.weight
    x = torch.randn(1, 8, 4, 4)
    scale = layer.weight.abs().flatten(1).mean(1).repeat(4).reshape(-1, 1, 1)
    assert torch.equal(layer(x), plain(x) * scale)
    layer.scale = "layer"
    assert torch.equal(layer(x), plain(x) * layer.weight.abs().mean())


def test_replicate_and_maximum() -> None:
    x = torch.randn(2, 3, 4, 4)
    copies = Replicate(4)(x)
    assert torch.equal(split(copies, 4), x.unsqueeze(1).expand(2, 4, 3, 4, 4))
    assert torch.equal(
        MaxOverOrientations(4)(copies + torch.arange(12.0).reshape(12, 1, 1)),
        x + torch.arange(9.0, 12).reshape(3, 1, 1),
    )
    # Behind equal inputs shared filters answer with M times the response to each turn.
    layer = CirculantConv2d(3, 2, 3, mixing="shared")
    turned = torch.cat([turn(signs(layer.weight), 2 * k) for k in range(4)])
    assert torch.equal(layer(copies), 4 * functional.conv2d(signs(x), turned))


def test_center_loss() -> None:
    """1/2 mean |f - c|^2: the gradient pulls features to their center and centers to their features."""
    loss = CenterLoss(3, 2)
    with torch.no_grad():
        loss.centers.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]))
    features = torch.tensor([[1.0, 2.0], [1.0, 3.0]], requires_grad=True)
    value = loss(features, torch.tensor([0, 1]))
    assert float(value.detach()) == 0.5 * ((1 + 4) + (0 + 4)) / 2
    value.backward()
    assert features.grad is not None
    assert loss.centers.grad is not None
    assert features.grad.tolist() == [[0.5, 1.0], [0.0, 1.0]]
    assert loss.centers.grad.tolist() == [[-0.5, -1.0], [0.0, -1.0], [0.0, 0.0]]
    with pytest.raises(InputError, match=r"^CenterLoss: features are \[2, 3\] and labels \[2\]; allowed are \[N, 2\]"):
        loss(torch.zeros(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 5}, r"kernel_size is 5; allowed are 1, 3\."),
        ({"orientations": 6}, r"orientations is 6; allowed are 1, 4, 8\."),
        ({"mixing": "all"}, r"mixing is 'all'; allowed are 'shared', 'oriented'\."),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"^CirculantConv2d: {message}"):
        CirculantConv2d(**{"in_channels": 2, "out_channels": 2, "kernel_size": 3} | options)


@pytest.mark.parametrize("mixing", ["shared", "oriented"])
@pytest.mark.parametrize("orientations", [4, 8])
def test_module_file_and_artifact_agree(orientations: int, mixing: Mixing, tmp_path: Path) -> None:
    """==, to the integers of the last layer; the file stores base filters, one bit each."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"orientations": orientations, "mixing": mixing}
    net = nn.Sequential(
        Replicate(orientations),
        CirculantConv2d(3, 16, 3, 1, 1, **options),
        nn.MaxPool2d(2),
        CirculantConv2d(16, 8, 3, 2, 1, **options),
        CirculantConv2d(8, 8, 1, **options),
        MaxOverOrientations(orientations),
    ).eval()
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = net(x).numpy()
    path = tmp_path / "net.onnx"
    bnncc.export(net, x, path)
    graph = onnx.load(path).graph
    slices = orientations if mixing == "oriented" else 1
    stored = {tuple(tensor.dims) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.UINT8}
    assert stored == {(16, 9, -(-slices * 3 // 8)), (8, 9, slices * 2), (8, 1, slices)}
    (found,) = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
    assert np.array_equal(found, expected)
    (computed,) = bnncc.load(bnncc.compile(path, "native")).run(x.numpy()).values()
    assert np.array_equal(computed, expected)
    assert len(np.unique(expected)) > 5
