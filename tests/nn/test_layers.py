"""Binary layers: forward equals the operators' numpy meaning, backward the estimators' formulas."""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bnncc import bitpack
from bnncc.nn import BinaryConv1d, BinaryConv2d, BinaryLinear, Bits, Sign, estimators
from bnncc.ops import binarize, binary_conv, binary_gemm
from bnncc.runtime.errors import OptionError

Array = npt.NDArray[np.float32]


def packed(weight: Tensor) -> npt.NDArray[np.uint8]:
    """Latent weight [O, Cg, *kernel] -> uint8 [O, taps, bytes]; sign(0) = +1."""
    w = weight.detach().numpy()
    return bitpack.pack(np.moveaxis(w.reshape(*w.shape[:2], -1), 1, 2) >= 0)


def binarised(x: Tensor, activation: str) -> Array:
    return binarize.meaning(x.numpy(), unipolar=activation == "bits")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_convolution_equals_its_meaning(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 2))

    def extents(low: int, high: int) -> tuple[int, ...]:
        return tuple(data.draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))

    kernel, dilation = extents(1, 4), extents(1, 2)
    padding: str | tuple[int, ...] = (
        data.draw(st.sampled_from(["same", "valid"])) if data.draw(st.booleans()) else extents(0, 2)
    )
    stride = (1,) * rank if padding == "same" else extents(1, 3)
    groups, channels = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 10))
    activation: Literal["signs", "bits"] = data.draw(st.sampled_from(["signs", "bits"]))
    pad_value = data.draw(st.sampled_from([-1.0, 0.0, 1.0]))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    build: Any = BinaryConv1d if rank == 1 else BinaryConv2d
    layer = build(
        groups * channels,
        groups * 3,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias=False,
        pad_value=pad_value,
        activation=activation,
    )
    with torch.no_grad():
        layer.weight.flatten()[0] = 0.0
    size = [d * (k - 1) + 1 + data.draw(st.integers(0, 4)) for k, d in zip(kernel, dilation, strict=True)]
    x = torch.randn(2, groups * channels, *size).round(decimals=0)  # many zeros
    expected = binary_conv.meaning(
        binarised(x, activation),
        packed(layer.weight),
        channels=channels,
        kernel_shape=kernel,
        strides=stride,
        pads=layer.pads(),
        dilations=dilation,
        group=groups,
        pad_value=pad_value,
    )
    np.testing.assert_array_equal(layer(x).detach().numpy(), expected)
    if padding == "same":
        assert list(expected.shape[2:]) == size


@pytest.mark.parametrize("activation", ["signs", "bits"])
def test_linear_equals_its_meaning(activation: Literal["signs", "bits"]) -> None:
    torch.manual_seed(0)
    layer = BinaryLinear(37, 5, bias=False, activation=activation)
    x = torch.randn(4, 37).round(decimals=0)
    bits = bitpack.pack(layer.weight.detach().numpy() >= 0)
    expected = binary_gemm.meaning(binarised(x, activation), bits, channels=37)
    np.testing.assert_array_equal(layer(x).detach().numpy(), expected)


@pytest.mark.parametrize("scale", [None, "channel", "layer"])
@pytest.mark.parametrize("bias", [True, False])
def test_scale_and_bias(scale: Literal["channel", "layer"] | None, bias: bool) -> None:
    """scale * integers + bias, exactly as two float32 operations, for each kind of layer."""
    torch.manual_seed(1)
    x = torch.randn(2, 6, 5, 5)
    builds: list[tuple[Callable[..., Any], Tensor]] = [
        (partial(BinaryConv2d, 6, 4, 3), x),
        (partial(BinaryConv1d, 6, 4, 3), x[..., 0]),
        (partial(BinaryLinear, 6, 4), x[..., 0, 0]),
    ]
    for build, inputs in builds:
        layer, plain = build(bias=bias, scale=scale), build(bias=False)
        plain.weight = layer.weight
        integers, latent = plain(inputs).detach().numpy(), layer.weight.detach()
        np.testing.assert_array_equal(integers, np.round(integers))
        column = (-1, *[1] * (integers.ndim - 2))
        magnitude = {
            None: np.float32(1),
            "channel": latent.abs().flatten(1).mean(1).numpy().reshape(column),
            "layer": latent.abs().mean().numpy(),
        }[scale]
        offset = layer.bias.detach().numpy().reshape(column) if bias else np.float32(0)
        np.testing.assert_array_equal(layer(inputs).detach().numpy(), integers * magnitude + offset)


@pytest.mark.parametrize("build", [BinaryConv1d, BinaryConv2d, BinaryLinear])
def test_defaults_are_those_of_torch(build: type[nn.Module]) -> None:
    """Same arguments, order and defaults; same initial weights from the same seed; the rest by keyword."""
    plain = {"BinaryConv1d": nn.Conv1d, "BinaryConv2d": nn.Conv2d, "BinaryLinear": nn.Linear}[build.__name__]
    ours, theirs = (list(inspect.signature(c).parameters.values()) for c in (build, plain))
    assert [(p.name, p.default) for p in ours[: len(theirs)]] == [(p.name, p.default) for p in theirs]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in ours[len(theirs) :])
    arguments = (4, 6) if plain is nn.Linear else (4, 6, 3)
    torch.manual_seed(2)
    layer = build(*arguments)
    torch.manual_seed(2)
    for name, parameter in plain(*arguments).named_parameters():
        assert torch.equal(layer.get_parameter(name), parameter)
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding_mode": "reflect"}, "padding_mode is 'reflect'; allowed is 'zeros'"),
        ({"pad_value": 0.5}, "pad_value is 0.5; allowed are -1, 0 and"),
        ({"activation": "ternary"}, "activation is 'ternary'; allowed are 'signs' and 'bits'"),
        ({"scale": "pixel"}, "scale is 'pixel'; allowed are None, 'channel' and 'layer'"),
        ({"scale": "layer", "weight_quantizer": Sign()}, "both scale='layer' and a weight_quantizer are given"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"^BinaryConv2d: {message}"):
        BinaryConv2d(3, 4, 3, **options)


def test_custom_quantizers() -> None:
    """The layer uses the modules it is given, for its input and for its weights, and trains their parameters."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.sign = nn.Parameter(torch.tensor(0.25)), Sign()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.sign(x + self.shift)
            return y

    layer = BinaryLinear(3, 2, bias=False, input_quantizer=Shifted(), weight_quantizer=Shifted())
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-0.2, -0.3, 0.1], [-0.25, 0.0, -0.5]]))
    y = layer(torch.tensor([[-0.2, -0.3, 0.0]]))
    assert y.tolist() == [[1 + 1 + 1, 1 - 1 - 1]]
    y.sum().backward()
    shifts = [p for name, p in layer.named_parameters() if name.endswith("shift")]
    assert len(shifts) == 2
    assert all(p.grad is not None for p in shifts)


POINTS = torch.tensor([-3.0, -1.0, -0.9, -0.5, -0.4, -0.1, 0.0, 0.1, 0.4, 0.5, 0.9, 1.0, 3.0])


@pytest.mark.parametrize(
    ("estimator", "formula", "area"),
    [
        (estimators.identity, lambda x: 1.0, None),
        (estimators.clipped, lambda x: float(abs(x) <= 1), 2.0),
        (estimators.polynomial, lambda x: 2 - 2 * abs(x) if abs(x) <= 1 else 0.0, 2.0),
        (
            estimators.long_tailed,
            lambda x: 2 - 4 * abs(x) if abs(x) <= 0.4 else (0.4 if abs(x) <= 1 else 0.0),
            1.44,
        ),
        (
            estimators.gaussian(0.5),
            lambda x: math.sqrt(2 / math.pi) / 0.5 * math.exp(-x * x / (2 * 0.5**2)),
            2.0,
        ),
    ],
)
def test_estimators(estimator: estimators.Estimator, formula: Callable[[float], float], area: float | None) -> None:
    """Gradient of a sign, and of a bit around its threshold, is upstream * formula; even; of the area it claims."""
    expected = torch.tensor([formula(x) for x in POINTS.tolist()])
    upstream = torch.linspace(-2, 2, len(POINTS))
    for module, shift in ((Sign(estimator), 0.0), (Bits(0.5, estimator), 0.5)):
        x = (POINTS + shift).requires_grad_()
        module(x).backward(upstream)
        assert x.grad is not None
        torch.testing.assert_close(x.grad, upstream * expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(estimator(-POINTS), estimator(POINTS), rtol=0, atol=0)
    if area is not None:
        grid = torch.linspace(-4, 4, 80001, dtype=torch.float64)
        assert float(torch.trapezoid(estimator(grid), grid)) == pytest.approx(area, abs=1e-3)


@pytest.mark.parametrize("module", [Sign(), Bits(), Bits(0.5), Bits(-0.5)])
def test_quantizers_equal_their_meaning(module: Sign | Bits) -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 0.5, -0.5, 2.0, -2.0, math.inf, -math.inf, math.nan])
    threshold = float(module.threshold) if isinstance(module, Bits) else 0.0
    expected = binarize.meaning(x.numpy(), unipolar=isinstance(module, Bits), threshold=threshold)
    np.testing.assert_array_equal(module(x).numpy(), expected)


def test_gradients_reach_input_and_weights() -> None:
    """One 1x1 convolution by hand: dL/dw = dL/dy * sign(x) * [|w| <= 1], and the same with x and w exchanged."""
    layer = BinaryConv2d(2, 1, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -2.0]).reshape(1, 2, 1, 1))
    x = torch.tensor([-0.25, 3.0]).reshape(1, 2, 1, 1).requires_grad_()
    layer(x).backward(torch.full((1, 1, 1, 1), 3.0))
    assert layer.weight.grad is not None
    assert x.grad is not None
    assert layer.weight.grad.flatten().tolist() == [-3.0, 0.0]
    assert x.grad.flatten().tolist() == [3.0, 0.0]


def test_threshold_that_trains() -> None:
    """x > t exactly; dL/dt is minus the estimator's sum; a plain tensor becomes a buffer."""
    bits = Bits(nn.Parameter(torch.tensor([0.25, -0.5])), estimators.clipped)
    x = torch.tensor([[0.25, -0.25], [0.5, -3.0]], requires_grad=True)
    y = bits(x)
    assert y.tolist() == [[0, 1], [1, 0]]
    y.sum().backward()
    assert bits.get_parameter("threshold").grad is not None
    assert bits.get_parameter("threshold").grad.tolist() == [-2, -1]  # type: ignore[union-attr]
    assert dict(Bits(torch.ones(2)).named_buffers()).keys() == {"threshold"}
    assert not Bits(0.5).state_dict()
    for wrong in (math.nan, math.inf, "high"):
        with pytest.raises(OptionError, match=r"^Bits: threshold is .*; allowed are finite numbers and tensors\."):
            Bits(wrong)  # type: ignore[arg-type]


FUNCTIONAL: list[tuple[nn.Module, tuple[int, ...]]] = [
    (BinaryLinear(6, 4, scale="channel"), (6,)),
    (BinaryLinear(6, 4), (3, 6)),
    (BinaryConv1d(4, 2, 3, padding=1, groups=2, activation="bits"), (4, 7)),
    (BinaryConv2d(4, 6, 3, padding=1, groups=2, pad_value=1.0), (4, 5, 5)),
    (BinaryConv2d(4, 6, 3, stride=2, padding=1, scale="layer"), (2, 4, 5, 5)),
]


@pytest.mark.parametrize(("layer", "shape"), FUNCTIONAL)
def test_torch_func(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """vmap over inputs, weights and both, per-sample gradients and Jacobians equal a loop."""
    from torch.func import functional_call, grad, jacrev, vmap

    weights = {name: torch.randn(3, *value.shape) for name, value in layer.named_parameters()}
    x = torch.randn(3, *shape)

    def call(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        y: Tensor = functional_call(layer, parameters, (x,))
        return y

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return call(parameters, x).square().sum()

    def of(i: int) -> dict[str, Tensor]:
        return {name: value[i] for name, value in weights.items()}

    def close(found: Tensor, expected: list[Tensor]) -> None:
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-5)

    close(vmap(call, (None, 0))(of(0), x), [call(of(0), x[i]) for i in range(3)])
    close(vmap(call, (0, None))(weights, x[0]), [call(of(i), x[0]) for i in range(3)])
    close(vmap(call, (0, 0))(weights, x), [call(of(i), x[i]) for i in range(3)])
    close(vmap(grad(loss), (None, 0))(of(0), x)["weight"], [grad(loss)(of(0), x[i])["weight"] for i in range(3)])
    assert jacrev(lambda x: call(of(0), x))(x[0]).shape == (*call(of(0), x[0]).shape, *shape)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_integers_stay_exact_under_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for layer, x in (
        (BinaryConv2d(512, 8, 3, padding=1, pad_value=1.0), torch.randn(1, 512, 4, 4).abs() - 0.01),
        (BinaryLinear(4610, 8, bias=False), torch.randn(2, 4610).abs() - 0.01),
    ):
        with torch.no_grad():
            layer.weight.abs_().sub_(1e-4)
            expected = layer(x)
            with torch.autocast("cpu", dtype=dtype):
                found = layer(x)
        assert float(expected.abs().max()) > 2048
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)
        assert layer.to(dtype)(x.to(dtype)).dtype == dtype
