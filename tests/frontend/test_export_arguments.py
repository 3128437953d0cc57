"""What people hand to export: wrapped modules, recorded programs, nests of inputs, any name; and what is refused."""

import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import bnncc
from bnncc.nn import BinaryConv2d, BinaryLinear, Sign
from bnncc.runtime.errors import BnnccError, InputError, ModelError, OptionError
from tests.frontend.exporting import assert_file_equals_module, run


def network() -> nn.Sequential:
    return nn.Sequential(BinaryConv2d(4, 4, 3, scale="channel"), nn.BatchNorm2d(4), BinaryConv2d(4, 4, 3)).eval()


def recorded(**options: Any) -> torch.export.ExportedProgram:
    return torch.export.export(network(), (torch.randn(2, 4, 6, 6),), **options)


def in_place_compiled() -> nn.Module:
    module = network()
    module[0].compile(backend="eager")
    module.compile(backend="eager")
    return module


def partly_compiled() -> nn.Module:
    module = network()
    module[2] = torch.compile(module[2], backend="eager")  # type: ignore[assignment]
    return module


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda: DataParallel(network()), {"0", "2"}),
        (lambda: torch.compile(network(), backend="eager"), {"0", "2"}),
        (lambda: torch.compile(DataParallel(network()), backend="eager"), {"0", "2"}),
        (partly_compiled, {"0", "binaryconv"}),
        (in_place_compiled, {"0", "2"}),
        (lambda: AveragedModel(network()), {"module.0", "module.2"}),
        (lambda: nn.ModuleDict({"a": DataParallel(network())})["a"], {"0", "2"}),
        (recorded, {"0", "2"}),
        (lambda: recorded(strict=True), {"0", "2"}),
        (lambda: recorded(dynamic_shapes=({0: torch.export.Dim("batch")},)), {"0", "2"}),
        (lambda: recorded().module(), {"0", "2"}),
        (lambda: torch.fx.symbolic_trace(network()), {"0", "2"}),
    ],
)
def test_wrapped_modules(wrap: Callable[[], Any], names: set[str], tmp_path: Path) -> None:
    """Values, bits and names are those of the module inside."""
    torch.manual_seed(0)
    graph = assert_file_equals_module(wrap(), torch.randn(2, 4, 6, 6), path=tmp_path / "net.onnx", binary=2)
    assert {node.name for node in graph.node if node.op_type == "BinaryConv"} == names


@pytest.fixture
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrapper's forward would wait for the other ranks, so it must not be called."""
    wrapped = DistributedDataParallel(network())
    x = torch.randn(1, 4, 6, 6)
    bnncc.export(wrapped.module, x, tmp_path / "inside.onnx")
    monkeypatch.setattr(DistributedDataParallel, "forward", lambda *_: pytest.fail("collective called"))
    bnncc.export(wrapped, x, tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == (tmp_path / "inside.onnx").read_bytes()
    with pytest.raises(ModelError, match=r"^0: is wrapped by DistributedDataParallel, .* Put its \.module in its pl"):
        bnncc.export(nn.Sequential(wrapped), x, tmp_path / "no.onnx")
    wrapped.register_forward_hook(lambda m, i, o: o * 2)
    with pytest.raises(ModelError, match=r"^DistributedDataParallel: carries forward hooks; allowed are hooks on the"):
        bnncc.export(wrapped, x, tmp_path / "no.onnx")


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3), BinaryConv2d(4, 4, 3))


def noncontiguous() -> nn.Module:
    module = network()
    module[1].weight = nn.Parameter(torch.ones(4).to_sparse())
    return module


def scripted() -> Any:
    with pytest.warns(DeprecationWarning, match="jit"):
        return torch.jit.script(nn.ReLU())


X = torch.zeros(1, 4, 6, 6)


@pytest.mark.parametrize(
    ("module", "example", "error", "message"),
    [
        (lambda: network().double(), X, ModelError, r"^0\.weight: type is torch\.float64; .* Call module\.float\(\)"),
        (lambda: network().half(), X, ModelError, r"^0\.weight: type is torch\.float16; allowed is torch\.float32"),
        (lambda: network().to("meta"), X, ModelError, r"^0\.weight: is on the meta device .* load a checkpoint\.$"),
        (lazy, X, ModelError, r"^0\.weight: has no shape yet, its layer is lazy\. Call module\(example\) once"),
        (noncontiguous, X, ModelError, r"^1\.weight: is a Parameter of layout torch\.sparse_coo; allowed are plain"),
        (scripted, X, ModelError, r"^module: found TorchScript; .* Pass the module it was made from\.$"),
        (lambda: torch.relu, X, ModelError, r"^module: found builtin_function_or_method; allowed is a torch\.nn\.Mod"),
        (network, X.double(), InputError, r"^example: type is torch\.float64; .* Call example\.float\(\) first\.$"),
        (network, X.half(), InputError, r"^example: type is torch\.float16; allowed is torch\.float32"),
        (network, X.to(torch.complex64), InputError, r"^example: type is torch\.complex64; allowed is torch\.float32"),
        (network, X.to("meta"), InputError, r"^example: is on the meta device; .* Pass torch\.zeros"),
        (network, (X, 3), InputError, r"^example: found int; allowed is a tensor or a tuple of tensors"),
        (network, {}, InputError, r"^example: found nothing; allowed is a tensor or a tuple of tensors"),
        (network, (X, X), ModelError, r"^Sequential: forward fails on the example: TypeError: .* Pass an example"),
    ],
)
def test_refused(
    module: Callable[[], Any], example: Any, error: type[BnnccError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as raised:
        bnncc.export(module(), example, tmp_path / "net.onnx")
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


class Mixed(nn.Module):
    """autocast in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(4, 4, 1), *network())

    def forward(self, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inside(x).float()


def test_surroundings(tmp_path: Path) -> None:
    """Autocast, inference mode and threads around export change no byte; autocast in forward is named."""
    module, x = network(), torch.randn(1, 4, 6, 6)
    bnncc.export(module, x, tmp_path / "plain.onnx")
    plain = (tmp_path / "plain.onnx").read_bytes()
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        bnncc.export(module, x + 0, tmp_path / "other.onnx")
    assert (tmp_path / "other.onnx").read_bytes() == plain
    threads = [
        threading.Thread(target=bnncc.export, args=(module if i < 2 else network(), x, tmp_path / f"{i}.onnx"))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(tmp_path / f"{i}.onnx").read_bytes() == plain for i in range(2)] == [True, True]
    assert all((tmp_path / f"{i}.onnx").exists() for i in range(4))
    with pytest.raises(ModelError, match=r"^inside\.0: forward computes in torch\.bfloat16; allowed is torch\.float32"):
        bnncc.export(Mixed(), x, tmp_path / "mixed.onnx")


Pair = namedtuple("Pair", "left right")


class Nest(nn.Module):
    """One binary layer over whatever `pick` makes of the arguments; `give` makes the result."""

    def __init__(self, pick: Callable[..., Tensor], give: Callable[..., Any] = lambda y, *_: y) -> None:
        super().__init__()
        self.layer, self.pick, self.give = BinaryLinear(3, 2), pick, give

    def forward(self, first: Any, second: Any = None, *rest: Any) -> Any:
        return self.give(self.layer(self.pick(first, second, *rest)), first)


A, B = torch.randn(2, 3), torch.randn(2, 3)


@pytest.mark.parametrize(
    ("module", "arguments", "inputs", "outputs"),
    [
        (Nest(lambda a, b: a["x"] + b), ({"x": A}, B), ["x", "second"], ["output"]),
        (Nest(lambda a, b: a["x"] * a["y"]), ({"y": A, "x": B},), ["y", "x"], ["output"]),
        (Nest(lambda a, b: a[0] - a[1]), ((A, B),), ["first_0", "first_1"], ["output"]),
        (Nest(lambda a, b: a[0] - a[1]), ([A, B],), ["first_0", "first_1"], ["output"]),
        (Nest(lambda a, b: a.left - a.right), (Pair(A, B),), ["first_0", "first_1"], ["output"]),
        (Nest(lambda a, b: a["x"] - b["x"]), ({"x": A}, {"x": B}), ["first.x", "second.x"], ["output"]),
        (Nest(lambda a, b: a["p"][0] + a["p"][1]), ({"p": (A, B)},), ["p_0", "p_1"], ["output"]),
        (Nest(lambda a, b, *c: a + b + c[0]), (A, B, A), ["first", "second", "rest_0"], ["output"]),
        (Nest(lambda a, b: a), (A, B), ["first", "second"], ["output"]),
        (Nest(lambda a, b: torch.where(b, a, -a)), (A, B > 0), ["first", "second"], ["output"]),
        (Nest(lambda a, b: a[b]), (A, torch.tensor([1, 0, 1])), ["first", "second"], ["output"]),
        (Nest(lambda a, b: a, lambda y, a: (y, y.sum(), a)), (A,), ["input"], ["output_0", "output_1", "output_2"]),
        (Nest(lambda a, b: a, lambda y, a: (y, y)), (A,), ["input"], ["output_0", "output_1"]),
        (Nest(lambda a, b: a, lambda y, a: {"y": y, "input": a}), (A,), ["input"], None),
        (Nest(lambda a, b: a, lambda y, a: {"é/1.0 \u00a0": y, 7: y + 1}), (A,), ["input"], ["é/1.0 \u00a0", "7"]),
        (Nest(lambda a, b: a, lambda y, a: Pair(y, -y)), (A,), ["input"], ["output_0", "output_1"]),
    ],
)
def test_nests(
    module: Nest, arguments: tuple[Any, ...], inputs: list[str], outputs: list[str] | None, tmp_path: Path
) -> None:
    if outputs is None:
        with pytest.raises(ModelError, match=r"^forward: an input and an output are both named 'input'; .* Rename"):
            bnncc.export(module, arguments, tmp_path / "net.onnx")
        return
    graph = assert_file_equals_module(module, *arguments, path=tmp_path / "net.onnx", binary=1)
    assert [value.name for value in graph.input] == inputs
    assert [value.name for value in graph.output] == outputs


@pytest.mark.parametrize("keys", [("",), (1, "1"), ("\udce8",)])
def test_refused_keys(keys: tuple[Any, ...], tmp_path: Path) -> None:
    module = Nest(lambda a, b: a, lambda y, a: dict.fromkeys(keys, y))
    with pytest.raises(ModelError, match=r"^forward: the name of output \d is .*; allowed is text .* Rename the key\."):
        bnncc.export(module, A, tmp_path / "net.onnx")


@pytest.mark.parametrize(
    "name", ["input", "output", "x", "first", "layer_weight", "c_binarize", "a/b", "ü \u00a0", "self"]
)
def test_parameters_of_any_name(name: str, tmp_path: Path) -> None:
    """Of the shape of the input too, so that one taken for the other would not be noticed by its shape."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = BinaryLinear(3, 3)
            self.register_parameter(name, nn.Parameter(torch.randn(2, 3)))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(x) + getattr(self, name) * x
            return y

    graph = assert_file_equals_module(Named(), A, path=tmp_path / "net.onnx", binary=1)
    assert [value.name for value in (*graph.input, *graph.output)] == ["input", "output"]
    assert name in {tensor.name.removesuffix("_2") for tensor in graph.initializer}


class Returns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Any:
        return self.weight, torch.ones(2), self.weight.abs() + 1


def test_results_that_no_input_reaches(tmp_path: Path) -> None:
    module = Returns()
    bnncc.export(module, A, tmp_path / "net.onnx")
    for ours, theirs in zip(run(tmp_path / "net.onnx", A.numpy()), module(A), strict=True):
        assert ours.tolist() == theirs.tolist()


def test_sign_alone(tmp_path: Path) -> None:
    graph = assert_file_equals_module(nn.Sequential(Sign(), nn.Linear(3, 2)), A, path=tmp_path / "n.onnx", binary=0)
    assert [node.name for node in graph.node] == ["0", "1"]
    with pytest.raises(OptionError, match="cannot be written"):
        bnncc.export(Sign(), A, tmp_path / "missing" / "net.onnx")
