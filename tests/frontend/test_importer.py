"""Reading ONNX files: every complaint names the place and what to do; standard operators agree with onnxruntime."""

import contextlib
import gc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from bnncc import bitpack
from bnncc.frontend.importer import from_onnx
from bnncc.ops import spans
from bnncc.passes.fold_batch_norm import FoldBatchNorm
from bnncc.runtime.errors import ModelError, OptionError
from tests.irtest import Array, evaluate, transform
from tests.onnxmodels import binary, model, node

RNG = np.random.default_rng(0)
WEIGHT = bitpack.pack(RNG.integers(0, 2, (4, 9, 12)).astype(bool))
CONV = {"channels": 12, "kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
SHAPE = (1, 12, 5, 5)


def conv_model(w: Array = WEIGHT, **changes: Any) -> onnx.ModelProto:
    """Binarize and BinaryConv; `changes` to the attributes, None to leave one out."""
    numbers = {k: v for k, v in {**CONV, **changes}.items() if v is not None}
    nodes = [binary("Binarize", ["x"], "s"), binary("BinaryConv", ["s", "w"], "y", **numbers)]
    return model(nodes, {"w": w}, SHAPE, functions=False)


def relu_model(shape: tuple[int | str, ...] = (1, 4)) -> onnx.ModelProto:
    return model([node("Relu", ["x"], "y")], {}, shape)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


# --- the file ---


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a model", relu_model().SerializeToString()[:-9]])
def test_bytes_that_are_no_model(content: bytes) -> None:
    with pytest.raises(ModelError, match="model: "):
        from_onnx(content)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_never_crash(seed: int) -> None:
    """Either it still reads, or the error is ours."""
    content = bytearray(conv_model().SerializeToString())
    rng = np.random.default_rng(seed)
    for position in rng.integers(0, len(content), 3):
        content[position] = rng.integers(0, 256)
    with contextlib.suppress(ModelError):
        from_onnx(bytes(content))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing\.onnx: cannot be read: No such file"):
        from_onnx(tmp_path / "nothing.onnx")


def test_path_bytes_and_model_are_the_same(tmp_path: Path) -> None:
    content = relu_model()
    onnx.save(content, tmp_path / "m.onnx")
    texts = {from_onnx(s).module.script() for s in (tmp_path / "m.onnx", content.SerializeToString(), content)}
    assert len(texts) == 1


@pytest.mark.parametrize(("opset", "allowed"), [(8, "allowed: 9 to"), (99, "allowed: 9 to")])
def test_opset(opset: int, allowed: str) -> None:
    with pytest.raises(ModelError, match=allowed):
        from_onnx(model([node("Relu", ["x"], "y")], {}, (1, 4), opset=opset, functions=False))


def test_opset_of_our_domain() -> None:
    content = relu_model()
    del content.functions[:]
    content.opset_import[1].version = 2
    with pytest.raises(ModelError, match="opset 2 of domain bnncc, allowed: 1"):
        from_onnx(content)


# --- weights in other files ---


def saved_outside(folder: Path) -> onnx.ModelProto:
    """A model whose weight `w` lies in weights.bin, loaded without it."""
    content = model([node("Add", ["x", "w"], "y")], {"w": np.arange(4, dtype=np.float32)}, (1, 4))
    onnx.save(
        content,
        folder / "m.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
        convert_attribute=False,
    )
    return onnx.load(folder / "m.onnx", load_external_data=False)


def test_weights_beside_the_file(tmp_path: Path) -> None:
    saved_outside(tmp_path)
    x = floats(1, 4)
    (got,) = evaluate(from_onnx(tmp_path / "m.onnx").module, x)
    assert (got == x + np.arange(4, dtype=np.float32)).all()


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "missing.bin", "link.bin", ""])
def test_weights_elsewhere(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    content = saved_outside(folder)
    (tmp_path / "weights.bin").write_bytes(bytes(16))
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    content.graph.initializer[0].external_data[0].value = location
    (folder / "m.onnx").write_bytes(content.SerializeToString())
    with pytest.raises(ModelError, match=r"weight 'w' is stored in"):
        from_onnx(folder / "m.onnx")


def test_weights_past_the_end_of_their_file(tmp_path: Path) -> None:
    saved_outside(tmp_path)
    (tmp_path / "weights.bin").write_bytes(bytes(8))
    with pytest.raises(ModelError, match="are not in that file"):
        from_onnx(tmp_path / "m.onnx")


def test_weights_elsewhere_than_the_bytes(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="give the path of the model instead"):
        from_onnx(saved_outside(tmp_path).SerializeToString())


# --- shapes ---


def test_free_dimension() -> None:
    with pytest.raises(ModelError, match=r"input 'x' has shape \(batch, 3, 8, 8\).*--shape x=1,3,8,8"):
        from_onnx(relu_model(("batch", 3, 8, 8)))


def test_shape_given() -> None:
    imported = from_onnx(relu_model(("batch", 3, 8, 8)), {"x": (2, 3, 8, 8)})
    assert "R.Tensor((2, 3, 8, 8)" in imported.module.script()
    assert (imported.inputs, imported.outputs) == (("x",), ("y",))


def test_shape_of_no_input() -> None:
    with pytest.raises(OptionError, match="has no such input; its inputs: x"):
        from_onnx(relu_model(), {"image": (1, 4)})


@pytest.mark.parametrize("shape", [(2, 5), (1, 4, 1)])
def test_shape_that_contradicts(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"has shape \(1, 4\); --shape gives"):
        from_onnx(relu_model(), {"x": shape})


@pytest.mark.parametrize("shape", [(0, 4), (-1, 4), (1 << 20, 1 << 20)])
def test_shape_out_of_bounds(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"at least 1|values, allowed"):
        from_onnx(relu_model(("n", "c")), {"x": shape})


def test_type_of_an_input() -> None:
    content = relu_model()
    content.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelError, match="input 'x' has type STRING, allowed: FLOAT"):
        from_onnx(content)


def test_an_error_leaves_no_warning(capfd: pytest.CaptureFixture[str]) -> None:
    """TVM writes to stderr by itself."""
    with pytest.raises(ModelError):
        from_onnx(conv_model(pad_value=0.5))
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_tensor_out_of_bounds() -> None:
    """A small file may not ask for a huge tensor."""
    weights = {"s": np.array([1 << 20, 1 << 20], np.int64)}
    with pytest.raises(ModelError, match="values, allowed"):
        from_onnx(model([node("Expand", ["x", "s"], "y")], weights, (1, 1)))


# --- operators ---


@pytest.mark.parametrize(("op", "domain"), [("NoSuchThing", "com.example"), ("Relu", "com.example")])
def test_unknown_domain(op: str, domain: str) -> None:
    content = model([node(op, ["x"], "y", domain=domain)], {}, (1, 4))
    content.opset_import.append(helper.make_opsetid(domain, 1))
    with pytest.raises(ModelError, match=rf"node 'y' \({domain}\.{op}\): no such operator here"):
        from_onnx(content)


def test_control_flow() -> None:
    branch = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["z"])],
        "b",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4])],
    )
    nodes = [helper.make_node("If", ["c"], ["y"], name="y", then_branch=branch, else_branch=branch)]
    with pytest.raises(ModelError, match="control flow"):
        from_onnx(model(nodes, {"c": np.array(True)}, (1, 4)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (conv_model(speed=3), "unknown attribute 'speed', allowed: channels"),
        (conv_model(strides=None), "attribute 'strides' is missing"),
        (conv_model(pad_value=0.5), "pad_value is 0.5, allowed: -1, 0, 1"),
        (conv_model(strides=[0, 1]), r"strides is \(0, 1\)"),
        (conv_model(pads=[1, 1]), "pads is"),
        (conv_model(pads=[-1, 0, 0, 0]), "pads is"),
        (conv_model(group=2), "12 channels x 2 groups"),
        (conv_model(channels=13), "13 channels x 1 groups|bytes"),
        (conv_model(channels=40), "packed weight is uint8"),
        (conv_model(kernel_shape=[5, 5]), "packed weight has 9 taps"),
        (conv_model(WEIGHT.astype(np.int8)), "packed weight is int8"),
        (conv_model(WEIGHT[:, :, :1]), "packed weight is uint8"),
        (conv_model(WEIGHT | 0x80), "bits set past its 12 channels"),
        (conv_model(kernel_shape=[9, 1], pads=[0, 0, 0, 0]), "does not fit"),
    ],
)
def test_binary_conv(content: onnx.ModelProto, message: str) -> None:
    with pytest.raises(ModelError, match=rf"toy: node 'y' \(bnncc.BinaryConv\): .*({message})"):
        from_onnx(content)


def test_weight_computed_at_run_time() -> None:
    nodes = [node("Cast", ["x"], "w", to=TensorProto.UINT8), binary("BinaryGemm", ["x", "w"], "y", channels=4)]
    with pytest.raises(ModelError, match="packed weight is computed at run time"):
        from_onnx(model(nodes, {}, (1, 4), functions=False))


NORM = {
    "g": np.ones(3, np.float32),
    "b": np.zeros(3, np.float32),
    "m": np.zeros(3, np.float32),
    "v": np.ones(3, np.float32),
}


@pytest.mark.parametrize(
    ("changed", "attributes", "message"),
    [
        ({"v": np.array([1, -1, 1], np.float32)}, {}, "variance is negative"),
        ({"v": np.zeros(3, np.float32)}, {"epsilon": 0.0}, "divides by zero"),
        ({"g": np.array([1, np.nan, 1], np.float32)}, {}, "scale holds NaN or infinity"),
        ({"m": np.array([1, np.inf, 1], np.float32)}, {}, "mean holds NaN or infinity"),
        ({"b": np.zeros(4, np.float32)}, {}, r"bias has shape \(4,\), needed: \(3,\)"),
        ({}, {"training_mode": 1}, "model.eval"),
    ],
)
def test_batch_norm(changed: dict[str, Array], attributes: dict[str, Any], message: str) -> None:
    nodes = [node("BatchNormalization", ["x", *NORM], "y", **attributes)]
    with pytest.raises(ModelError, match=message):
        from_onnx(model(nodes, NORM | changed, (1, 3, 4, 4)))


def test_folded_batch_norm_is_onnxruntimes_bit_for_bit() -> None:
    weights = {k: floats(64) for k in "gbm"} | {"v": np.abs(floats(64)) + np.float32(0.1)}
    content = model([node("BatchNormalization", ["x", *weights], "y")], weights, (2, 64, 4, 4))
    x = RNG.integers(-500, 500, (2, 64, 4, 4)).astype(np.float32)
    (want,) = onnxruntime.InferenceSession(content.SerializeToString()).run(None, {"x": x})
    (got,) = evaluate(transform(from_onnx(content).module, FoldBatchNorm()), x)
    assert (got == want).all()


# --- the same numbers as onnxruntime ---


def assert_as_onnxruntime(content: onnx.ModelProto, x: Array, *, exact: bool) -> None:
    session = onnxruntime.InferenceSession(content.SerializeToString())
    imported = from_onnx(content)
    wanted = session.run(list(imported.outputs), {"x": x})
    for got, want in zip(evaluate(imported.module, x), wanted, strict=True):
        assert got.shape == want.shape
        if exact:
            assert (got == want).all()
        else:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


W = {"w": floats(6, 2, 3, 3), "b": floats(6)}
GEMM = {"w": floats(3, 4), "b": floats(3)}
W1 = {"w": floats(6, 4, 3), "b": floats(6)}


@pytest.mark.parametrize(
    ("nodes", "weights", "shape", "exact"),
    [
        ([node("Conv", ["x", "w", "b"], "y", group=2, pads=[1, 0, 2, 1], strides=[2, 1])], W, (1, 4, 7, 8), False),
        ([node("Conv", ["x", "w"], "y", group=2, auto_pad="SAME_UPPER", strides=[2, 2])], W, (1, 4, 7, 8), False),
        ([node("Conv", ["x", "w"], "y", group=2, auto_pad="SAME_LOWER", strides=[2, 2])], W, (1, 4, 6, 8), False),
        ([node("Conv", ["x", "w"], "y", group=2, auto_pad="VALID", dilations=[2, 2])], W, (1, 4, 7, 8), False),
        ([node("Conv", ["x", "w", "b"], "y", pads=[1, 2], strides=[2])], W1, (2, 4, 9), False),
        ([node("Gemm", ["x", "w", "b"], "y", alpha=0.5, beta=2.0, transB=1)], GEMM, (2, 4), False),
        ([node("Gemm", ["x", "w"], "y", transA=1)], {"w": floats(2, 3)}, (2, 4), False),
        ([node("PRelu", ["x", "w"], "y")], {"w": floats(4, 1, 1)}, (1, 4, 3, 3), True),
        ([node("PRelu", ["x", "w"], "y")], {"w": floats(1)}, (1, 4, 3, 3), True),
        ([node("PRelu", ["x", "w"], "y")], {"w": floats(3, 3)}, (1, 4, 3, 3), True),
        ([node("LeakyRelu", ["x"], "y", alpha=0.3)], {}, (1, 4, 3, 3), True),
        ([node("Clip", ["x", "w", "b"], "y")], {"w": np.float32(-0.5), "b": np.float32(0.25)}, (1, 4, 3, 3), True),
        ([node("Clip", ["x", "", "b"], "y")], {"b": np.float32(0.25)}, (1, 4, 3, 3), True),
        ([node("MaxPool", ["x"], "y", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])], {}, (1, 4, 7, 8), True),
        ([node("MaxPool", ["x"], "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {}, (1, 4, 6, 8), True),
        ([node("MaxPool", ["x"], "y", kernel_shape=[2], strides=[2], pads=[1, 1], ceil_mode=1)], {}, (1, 4, 6), True),
        ([node("AveragePool", ["x"], "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {}, (1, 4, 6, 8), False),
        ([node("AveragePool", ["x"], "y", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)], {}, SHAPE, False),
        ([node("GlobalAveragePool", ["x"], "y")], {}, (2, 4, 6, 8), False),
        ([node("ReduceMean", ["x", "w"], "y", keepdims=0)], {"w": np.array([2, 3])}, (2, 4, 6, 8), False),
        ([node("Constant", [], "c", value_floats=[1.0, 2.0]), node("Mul", ["x", "c"], "y")], {}, (3, 2), True),
        ([node("HardSigmoid", ["x"], "y", alpha=0.3)], {}, (1, 4, 3, 3), False),
        ([node("HardSwish", ["x"], "y")], {}, (1, 4, 3, 3), False),
        ([node("Max", ["x", "w", "b"], "y")], {"w": floats(4, 1, 1), "b": floats(3)}, (1, 4, 3, 3), True),
        ([node("Min", ["x"], "y")], {}, (1, 4, 3, 3), True),
        ([node("Softmax", ["x"], "y"), node("Identity", ["y"], "z")], {}, (3, 2), False),
    ],
)  # fmt: skip
def test_standard_operators(nodes: list[Any], weights: dict[str, Any], shape: tuple[int, ...], exact: bool) -> None:
    used = {k: np.asarray(v) for k, v in weights.items() if any(k in n.input for n in nodes)}
    assert_as_onnxruntime(model(nodes, used, shape, rank=None, functions=False), floats(*shape), exact=exact)


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        ([node("Conv", ["x", "w"], "y")], {"w": floats(4, 3, 3, 3)}, "input has shape"),
        ([node("Conv", ["x", "w"], "y")], {"w": floats(4, 4, 3, 3) * np.float32(np.nan)}, "weight holds NaN"),
        ([node("MaxPool", ["x"], "y", kernel_shape=[2, 2], pads=[2, 2, 2, 2])], {}, "lie in the padding"),
        ([node("AveragePool", ["x"], "y", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)], {}, "ceil_mode"),
    ],
)
def test_standard_operators_refused(nodes: list[Any], weights: dict[str, Array], message: str) -> None:
    with pytest.raises(ModelError, match=f"toy: node 'y' .*{message}"):
        from_onnx(model(nodes, weights, (1, 4, 5, 5), functions=False))


# --- whole networks ---


def test_calls_carry_their_node_names() -> None:
    nodes = [node("Conv", ["x", "w", "b"], "stem", group=2), node("Relu", ["stem"], "y")]
    bindings = from_onnx(model(nodes, W, (1, 4, 7, 8))).module["main"].body.blocks[0].bindings
    names = {
        binding.value.op.name: spans.name_of(binding.value) for binding in bindings if hasattr(binding.value, "op")
    }
    assert names["relax.nn.conv2d"] == "stem"
    assert names["relax.nn.relu"] == "y"


def test_bodies_in_the_file_are_not_read() -> None:
    """A file cannot change what an operator means by bringing another body."""
    content = conv_model()
    lie = onnx.parser.parse_function('<domain: "bnncc", opset_import: ["": 18]> Binarize (x) => (y) { y = Neg (x) }')
    content.functions.append(lie)
    x = floats(*SHAPE)
    (got,), (want,) = evaluate(from_onnx(content).module, x), evaluate(from_onnx(conv_model()).module, x)
    assert (got == want).all()
