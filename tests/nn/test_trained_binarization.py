"""Trained Binarization: its formulas, what its factors change and what they do not, and the line to the artifact."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import bnncc
from bnncc.nn import TrainedBinaryConv1d, TrainedBinaryConv2d, TrainedBinaryLinear, scale_penalty, scaling_factors
from bnncc.nn.estimators import long_tailed
from bnncc.nn.layer import Activation
from bnncc.nn.trained_binarization import Granularity, TrainedScale
from bnncc.runtime.errors import OptionError


def test_estimator() -> None:
    x = torch.tensor([0.0, 0.4, 1.0, 1.0000001, 0.7, 0.1])
    assert long_tailed(x).tolist() == pytest.approx([2, 0.4, 0.4, 0, 0.4, 1.6])
    assert torch.equal(long_tailed(-x), long_tailed(x))


@pytest.mark.parametrize("granularity", ["channel", "layer"])
@pytest.mark.parametrize("activation", ["bits", "signs"])
def test_values_and_gradients(activation: Activation, granularity: Granularity) -> None:
    """y = alpha_a alpha_w (a w), and the four derivatives by the chain rule, written out for a dense layer."""
    torch.manual_seed(0)
    layer = TrainedBinaryLinear(5, 3, bias=False, activation=activation, granularity=granularity)
    factors = layer.weight.abs().mean(1) if granularity == "channel" else layer.weight.abs().mean().reshape(1)
    torch.testing.assert_close(layer.alpha_w.detach(), factors.detach(), rtol=1e-6, atol=0)
    assert layer.alpha_a.tolist() == [1]
    with torch.no_grad():
        layer.alpha_w.copy_(torch.tensor([0.5, -0.25, 2.0])[: layer.alpha_w.numel()])
        layer.alpha_a.fill_(-1.5)
    x = torch.randn(4, 5).requires_grad_()
    a = (x > 0).float() if activation == "bits" else (x >= 0).float() * 2 - 1
    w = (layer.weight >= 0).float() * 2 - 1
    column = layer.alpha_w.detach().expand(3)
    y = layer(x)
    assert torch.equal(y, (a @ w.T) * (-1.5 * column))
    upstream = torch.randn(4, 3)
    y.backward(upstream)
    to_w = (upstream.T @ (-1.5 * a)) * column[:, None] * long_tailed(layer.weight.detach())
    to_x = (upstream @ (column[:, None] * w)) * -1.5 * long_tailed(x.detach())
    to_alpha_w = (upstream * -1.5 * (a @ w.T)).sum(0)
    to_alpha_a = (upstream * column * (a @ w.T)).sum()
    expected = {
        layer.weight: to_w,
        x: to_x,
        layer.alpha_w: to_alpha_w if granularity == "channel" else to_alpha_w.sum().reshape(1),
        layer.alpha_a: to_alpha_a.reshape(1),
    }
    for tensor, gradient in expected.items():
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad, gradient.detach(), rtol=1e-5, atol=1e-6)


def test_penalty() -> None:
    """(beta / 2) |alpha_w|^2 of each layer, to alpha_w alone."""
    net = nn.Sequential(TrainedBinaryConv1d(2, 3, 3), TrainedBinaryConv2d(2, 3, 3, granularity="layer"), nn.ReLU())
    with torch.no_grad():
        for i, alpha in enumerate(scaling_factors(net)):
            alpha.fill_(i + 1)
    penalty = scale_penalty(net, beta=0.5)
    assert float(penalty.detach()) == 0.25 * (3 * 1 + 1 * 4)
    penalty.backward()  # type: ignore[no-untyped-call]
    touched = {name: p.grad.tolist() for name, p in net.named_parameters() if p.grad is not None}
    assert touched == {"0.alpha_w": [0.5] * 3, "1.alpha_w": [1.0]}
    assert float(scale_penalty(nn.ReLU())) == 0


def test_refused_granularity() -> None:
    with pytest.raises(OptionError, match=r"^TrainedBinaryLinear: granularity is 'pixel'; allowed are 'channel' and"):
        TrainedBinaryLinear(2, 2, granularity="pixel")  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [0.125, 2.0, 16.0])
def test_activation_scale_vanishes_in_batch_norm(factor: float) -> None:
    """In training mode too; powers of two, so that float32 rounds as before, and an epsilon lost in the variance."""
    torch.manual_seed(0)
    net = nn.Sequential(
        TrainedBinaryConv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8, eps=1e-30),
        TrainedBinaryConv2d(8, 4, 3, bias=False),
    )
    nn.init.normal_(net.get_parameter("1.weight"))
    nn.init.normal_(net.get_parameter("1.bias"))
    x = torch.randn(8, 3, 7, 7)
    before = net(x)
    with torch.no_grad():
        net.get_parameter("0.alpha_a").mul_(factor)
    assert torch.equal(net(x), before)


@pytest.mark.parametrize("activation", ["bits", "signs"])
@pytest.mark.parametrize("granularity", ["channel", "layer"])
def test_module_file_and_artifact_agree(activation: Activation, granularity: Granularity, tmp_path: Path) -> None:
    """==, with factors and gammas of both signs, pools before BatchNorm and behind it, and thresholds at ties.

    Numbers are powers of two and integers, so that every float operation is exact in any order.
    """
    torch.manual_seed(3)
    options: dict[str, Any] = {"activation": activation, "granularity": granularity}
    net = nn.Sequential(
        TrainedBinaryConv2d(3, 40, 3, padding=1, bias=False, **options),
        nn.MaxPool2d(2),
        norm(40, ties=1.0),
        TrainedBinaryConv2d(40, 64, 3, padding=1, bias=False, **options),
        norm(64, ties=4.0),
        nn.MaxPool2d(2),
        TrainedBinaryConv2d(64, 32, 1, bias=False, **options),
        norm(32, ties=8.0),
        nn.Flatten(),
        TrainedBinaryLinear(32 * 4, 16, bias=False, **options),
        TrainedBinaryLinear(16, 10, **options),
    ).eval()
    with torch.no_grad():
        for alpha in scaling_factors(net):
            alpha.copy_(powers_of_two(alpha.numel()))
        for part in net:
            if isinstance(part, TrainedScale):
                part.alpha_a.copy_(powers_of_two(1))
        net.get_parameter("10.bias").copy_(torch.arange(10.0))
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = net(x).numpy()
    path = tmp_path / "net.onnx"
    bnncc.export(net, x, path)
    (found,) = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
    assert np.array_equal(found, expected)
    (computed,) = bnncc.load(bnncc.compile(path, "native")).run(x.numpy()).values()
    assert np.array_equal(computed, expected)
    assert len(np.unique(expected)) > 5


def norm(channels: int, ties: float) -> nn.BatchNorm2d:
    """gamma +-1 or +-2, mean a multiple of `ties` that sums of the layer before reach, beta 0: an exact BatchNorm."""
    made = nn.BatchNorm2d(channels, eps=0)
    with torch.no_grad():
        signs = torch.tensor(list(itertools.islice(itertools.cycle([1.0, -1.0, -2.0, 2.0]), channels)))
        made.weight.copy_(signs)
        assert isinstance(made.running_mean, Tensor)
        made.running_mean.copy_(torch.randint(-3, 4, (channels,)) * ties)
    return made


def powers_of_two(count: int) -> Tensor:
    return torch.pow(2.0, torch.randint(-2, 2, (count,)).float()) * (torch.randint(0, 2, (count,)) * 2.0 - 1)
