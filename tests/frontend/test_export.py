"""Exported files: they run in stock onnxruntime, hold bits, and refuse what cannot be said in bits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import Tensor, nn

import bnncc
from bnncc.models import MODELS
from bnncc.nn import BinaryConv1d, BinaryConv2d, BinaryLinear, Bits, Sign
from bnncc.runtime.errors import InputError, ModelError, OptionError
from tests.frontend.exporting import run, session

Array = npt.NDArray[Any]


def binarised_values(module: nn.Module, x: Tensor) -> tuple[list[Array], Array]:
    """What every input's sign reads, in the order of execution, and the output, in torch."""
    seen: list[Array] = []
    weight_signs = {m.weight_quantizer for m in module.modules() if isinstance(m, BinaryConv2d | BinaryLinear)}
    signs = [m for m in module.modules() if isinstance(m, Sign | Bits) and m not in weight_signs]
    hooks = [m.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy())) for m in signs]
    with torch.no_grad():
        output: Array = module(x).numpy()
    for hook in hooks:
        hook.remove()
    return seen, output


LARGE = {"bireal_resnet18", "quicknet", "reactnet18", "reactnet_a"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in MODELS]
)
def test_model_equals_torch(
    name: str, exported: Callable[[str], Path], exported_model: Callable[[str], nn.Module]
) -> None:
    """Layer by layer: each sign reads the same value, so its bit can differ only where that value is about 0.

    After a layer with such a bit the two networks compute different things, and the comparison ends.
    """
    x = torch.randn(MODELS[name][1], generator=torch.Generator().manual_seed(1))
    expected, expected_output = binarised_values(exported_model(name), x)
    model = onnx.load(exported(name))
    read = [node.input[0] for node in model.graph.node if node.op_type == "Binarize"]
    shapes = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(shapes[value] for value in read)
    output, *values = session(model).run(None, {"input": x.numpy()})
    assert len(values) == len(expected)
    for value, reference in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-4)
        if ((value >= 0) != (reference >= 0)).any():
            return
    np.testing.assert_allclose(output, expected_output, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_model_file(name: str, exported: Callable[[str], Path], exported_model: Callable[[str], nn.Module]) -> None:
    """Checked, one bit a binary weight, no trace of the machine it was written on, names from module paths."""
    path, module = exported(name), exported_model(name)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    layers = {n: m for n, m in module.named_modules() if isinstance(m, BinaryConv2d | BinaryLinear)}
    nodes = {node.name: node for node in model.graph.node}
    assert len(nodes) == len(model.graph.node)
    assert {n for n, node in nodes.items() if node.op_type in ("BinaryConv", "BinaryGemm")} == set(layers)
    assert {f.name for f in model.functions} == {n.op_type for n in model.graph.node if n.domain == "bnncc"}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for where, layer in layers.items():
        packed = stored[nodes[where].input[1]]
        assert packed.data_type == onnx.TensorProto.UINT8
        assert np.prod(packed.dims) == layer.weight.numel() // layer.weight.shape[1] * -(-layer.weight.shape[1] // 8)
    binary = sum(layer.weight.numel() for layer in layers.values())
    rest = sum(t.numel() for t in module.state_dict().values()) - binary
    assert path.stat().st_size < binary / 8 + 4 * rest + 1000 * len(nodes)
    assert b"site-packages" not in path.read_bytes()
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert model.producer_name == "bnncc"
    assert [v.name for v in (*model.graph.input, *model.graph.output)] == ["input", "output"]
    assert all(dim.HasField("dim_value") for dim in model.graph.input[0].type.tensor_type.shape.dim)


def test_export_is_reproducible(exported_model: Callable[[str], nn.Module], tmp_path: Path) -> None:
    for name in ("a", "b"):
        bnncc.export(exported_model("digits_net"), torch.zeros(1, 1, 8, 8), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Everything(nn.Module):
    """Each option of the layers once."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = BinaryConv2d(6, 4, (3, 4), padding="same", groups=2, scale="channel", pad_value=1.0)
        self.bits = BinaryConv2d(
            4, 5, 2, stride=(2, 1), padding=(1, 0), dilation=2, activation="bits", scale="layer", bias=False
        )
        self.custom = BinaryConv2d(5, 3, 1, bias=False, weight_quantizer=ChannelScale(3))
        self.flat = nn.Flatten(1)
        self.line = BinaryConv1d(1, 2, 5, stride=2, padding=2, pad_value=-1.0, input_quantizer=Bits(0.5))
        self.line_again = self.line
        self.dense = BinaryLinear(72, 5, scale="layer")

    def forward(self, x: Tensor) -> Tensor:
        x = self.custom(self.bits(self.wide(x)))
        y: Tensor = self.dense(self.flat(self.line(self.flat(x).unsqueeze(1))))
        return y


class ChannelScale(nn.Module):
    """Learned alpha per output channel times sign; alpha may be negative or 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.linspace(-1, 1, channels))
        self.sign = Sign()

    def forward(self, weight: Tensor) -> Tensor:
        y: Tensor = self.alpha.reshape(-1, 1, 1, 1) * self.sign(weight)
        return y


def test_every_option(tmp_path: Path) -> None:
    torch.manual_seed(3)
    module, x = Everything(), torch.randn(2, 6, 7, 8)
    bnncc.export(module, x, tmp_path / "net.onnx")
    assert module.training
    assert module.wide.training
    (output,) = run(tmp_path / "net.onnx", x.numpy())
    np.testing.assert_allclose(output, module.eval()(x).detach().numpy(), rtol=1e-5, atol=1e-5)
    names = [node.name for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert {"wide", "wide.input_quantizer", "wide.mul", "wide.add", "bits", "line", "dense.add"} <= set(names)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (BinaryConv2d(3, 4, 3, scale="channel"), (3, 5, 6)),
        (BinaryConv1d(3, 4, 3, scale="channel"), (3, 5)),
        (BinaryLinear(3, 4, scale="channel"), (3,)),
        (BinaryLinear(3, 4, scale="channel"), (2, 5, 3)),
    ],
)
def test_no_batch_axis_or_several(module: nn.Module, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = torch.randn(shape)
    bnncc.export(module, x, tmp_path / "net.onnx")
    (output,) = run(tmp_path / "net.onnx", x.numpy())
    np.testing.assert_array_equal(output, module(x).detach().numpy())
    if isinstance(module, BinaryConv2d | BinaryConv1d):
        np.testing.assert_array_equal(output, module(x.unsqueeze(0)).squeeze(0).detach().numpy())


class TwoInTwoOut(nn.Module):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, left: Tensor, right: Tensor) -> object:
        if self.kind is dict:
            return {"sum": left + right, "product": left * right}
        return self.kind((left + right, left * right))


@pytest.mark.parametrize(
    ("kind", "names"), [(tuple, ["output_0", "output_1"]), (list, ["output_0", "output_1"]), (dict, ["sum", "product"])]
)
def test_names_of_inputs_and_outputs(kind: type, names: list[str], tmp_path: Path) -> None:
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    bnncc.export(TwoInTwoOut(kind), (a, b), tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [v.name for v in graph.input] == ["left", "right"]
    assert [v.name for v in graph.output] == names
    total, product = run(tmp_path / "net.onnx", a.numpy(), b.numpy())
    np.testing.assert_array_equal(total, (a + b).numpy())
    np.testing.assert_array_equal(product, (a * b).numpy())


class Halves(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return torch.where(weight > 0, 0.5, -0.25)


class Infinite(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return torch.full_like(weight, torch.inf)


def with_nan() -> nn.Module:
    module = nn.Sequential(BinaryConv2d(3, 4, 3), nn.BatchNorm2d(4))
    module[1].get_buffer("running_mean")[2] = torch.nan
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            nn.Sequential(BinaryConv2d(3, 4, 3, weight_quantizer=Halves())),
            r"^0: weight_quantizer gives -?0\.\d+ in out",
        ),
        (nn.Sequential(BinaryConv2d(3, 4, 3, input_quantizer=nn.ReLU())), "^0: input_quantizer ends in Relu; allowed"),
        (nn.Sequential(BinaryConv2d(3, 4, 3, input_quantizer=nn.Identity())), "^0: input_quantizer ends in the net"),
        (nn.Sequential(BinaryConv2d(3, 4, 3, weight_quantizer=Infinite())), "^0: weight_quantizer gives inf in output"),
        (with_nan(), r"^1\.running_mean: found nan at index \[2\]; allowed are finite"),
        (BinaryConv2d(3, 4, 3).double(), "^weight: type is torch.float64; allowed is torch.float32"),
    ],
)
def test_refused_modules(module: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        bnncc.export(module, torch.randn(1, 3, 5, 5), tmp_path / "net.onnx")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


class Sorted(nn.Module):
    """Control flow that depends on data, which torch cannot trace."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


class Nested(nn.Module):
    def forward(self, x: Tensor) -> object:
        return (x, (x,))


@pytest.mark.parametrize(
    ("module", "message"), [(Sorted(), "^Sorted: torch cannot export it"), (Nested(), "^forward: returns tuple; allow")]
)
def test_refused_forwards(module: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message) as raised:
        bnncc.export(module, torch.randn(2, 2), tmp_path / "net.onnx")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_refused_arguments(tmp_path: Path) -> None:
    examples: list[Any] = [np.zeros((1, 2), np.float32), (), [torch.zeros(1, 2)]]
    for example in examples:
        with pytest.raises(InputError, match=r"^example: found .*; allowed is a tensor"):
            bnncc.export(nn.ReLU(), example, tmp_path / "net.onnx")
    with pytest.raises(OptionError, match="cannot be written"):
        bnncc.export(nn.ReLU(), torch.zeros(1, 2), tmp_path / "missing" / "net.onnx")


def test_export_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bnncc.export(nn.Sequential(BinaryLinear(4, 3)), torch.zeros(1, 4), tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")
