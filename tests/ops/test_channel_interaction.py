"""ChannelInteraction: a sum written down pixel by pixel, numpy, the body in onnxruntime, torch, TVM and compiled code
agree by ==; tables that are wrong are refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import bnncc
from bnncc import bitpack
from bnncc.frontend.importer import from_onnx
from bnncc.nn import BinaryConv2d, operators
from bnncc.ops import channel_interaction
from bnncc.runtime.errors import ModelError
from tests.arm import emulate
from tests.frontend.exporting import run
from tests.irtest import build, evaluate
from tests.onnxmodels import binary, model, node

Array = npt.NDArray[Any]
Tables = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]


def table(rng: np.random.Generator, channels: int, steps: int, reach: int = 12) -> npt.NDArray[np.int32]:
    """Random steps between different channels; thresholds within `reach`, so that ties occur."""
    teacher = rng.integers(0, channels, steps)
    student = (teacher + rng.integers(1, channels, steps)) % channels
    threshold, delta = rng.integers(-reach, reach + 1, steps), rng.integers(-9, 10, steps)
    return np.stack([teacher, student, threshold, delta], axis=1).astype(np.int32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, Tables]:
    """Whole numbers [N, C, ...] of any rank, and two tables."""
    channels = draw(st.integers(2, 9))
    shape = (draw(st.integers(1, 2)), channels, *draw(st.lists(st.integers(1, 4), max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    up, down = (table(rng, channels, draw(st.integers(0, 12))) for _ in range(2))
    return rng.integers(-12, 13, shape).astype(np.float32), (up, down)


def by_hand(acc: Array, up: Array, down: Array) -> Array:
    """As CI-BCNN writes it down: value by value."""
    y = acc.copy()
    for index in np.ndindex(*acc.shape):
        for rows, sign in ((up, 1), (down, -1)):
            for t, s, threshold, delta in rows.tolist():
                if s == index[1] and sign * acc[(index[0], t, *index[2:])] >= sign * threshold:
                    y[index] += delta
    return y


def one_node(shape: tuple[int, ...], up: Array, down: Array) -> onnx.ModelProto:
    return model([binary("ChannelInteraction", ["x", "up", "down"], "y")], {"up": up, "down": down}, shape)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_numpy_and_onnxruntime(case: tuple[Array, Tables]) -> None:
    acc, (up, down) = case
    want = by_hand(acc, up, down)
    found = channel_interaction.meaning(acc, up, down)
    assert found.dtype == np.float32
    assert (found == want).all()
    source = one_node(acc.shape, up, down)
    onnx.checker.check_model(source, full_check=True)
    (body,) = onnxruntime.InferenceSession(source.SerializeToString()).run(None, {"x": acc})
    assert (body == want).all()


@settings(max_examples=25, deadline=None)
@given(cases(), st.sampled_from(["float32", "int32"]))
def test_relax(case: tuple[Array, Tables], dtype: str) -> None:
    acc, (up, down) = case
    innermost = np.ascontiguousarray(np.moveaxis(acc, 1, -1)).astype(dtype)
    (found,) = evaluate(build(lambda x: channel_interaction.call(x, up, down), [innermost]), innermost)
    assert found.dtype == dtype
    assert (np.moveaxis(found, -1, 1) == channel_interaction.meaning(acc, up, down)).all()


@settings(max_examples=40, deadline=None)
@given(cases())
def test_torch(case: tuple[Array, Tables]) -> None:
    """Forward, and the gradient of acc passes as it is."""
    acc, (up, down) = case
    x = torch.from_numpy(acc).requires_grad_()
    y = operators.channel_interaction(x, torch.from_numpy(up), torch.from_numpy(down), acc.ndim - 2)
    assert (y.detach().numpy() == channel_interaction.meaning(acc, up, down)).all()
    given = torch.randn(y.shape)
    (grad,) = torch.autograd.grad(y, x, given)
    assert torch.equal(grad, given)


def test_torch_under_autocast_vmap_and_without_a_batch() -> None:
    rng = np.random.default_rng(3)
    acc = torch.from_numpy(rng.integers(-4000, 4000, (3, 2, 6, 4, 5)).astype(np.float32))
    ups, downs = (torch.from_numpy(np.stack([table(rng, 6, 8, 4000) for _ in range(3)])) for _ in range(2))

    def one(x: Tensor, up: Tensor = ups[0], down: Tensor = downs[0]) -> Tensor:
        return operators.channel_interaction(x, up, down, 2)

    want = torch.stack([one(x) for x in acc])
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            assert torch.equal(torch.stack([one(x) for x in acc]), want)
    assert torch.equal(torch.func.vmap(one)(acc), want)
    assert torch.equal(torch.func.vmap(one, in_dims=2, out_dims=2)(acc.movedim(0, 2)), want.movedim(0, 2))
    assert torch.equal(torch.stack([one(image) for image in acc[0]]), want[0])
    each = torch.stack([one(*given) for given in zip(acc, ups, downs, strict=True)])
    assert torch.equal(torch.func.vmap(one)(acc, ups, downs), each)
    same = torch.stack([one(acc[0], up) for up in ups])
    assert torch.equal(torch.func.vmap(one, in_dims=(None, 0))(acc[0], ups), same)


class Interacting(nn.Module):
    """A binary convolution with two snapshots behind it, for images with or without a batch."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.conv = BinaryConv2d(5, 11, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(11)
        for name, steps in (("up", 9), ("down", 6), ("up2", 4), ("none", 0)):
            self.register_buffer(name, torch.from_numpy(table(rng, 11, steps)))

    def forward(self, x: Tensor) -> Tensor:
        acc = self.conv(x)
        first = operators.channel_interaction(acc, self.get_buffer("up"), self.get_buffer("down"), 2)
        second = operators.channel_interaction(first, self.get_buffer("up2"), self.get_buffer("none"), 2)
        result: Tensor = second if x.dim() == 3 else self.norm(second)
        return result


@pytest.mark.parametrize("shape", [(2, 5, 6, 7), (5, 6, 7)])
def test_export_and_compile(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(1)
    module, x, path = Interacting().eval(), torch.randn(shape), tmp_path / "net.onnx"
    bnncc.export(module, torch.randn(shape), path)
    source = onnx.load(path)
    onnx.checker.check_model(source, full_check=True)
    assert [n.name for n in source.graph.node if n.op_type == "BinaryConv"] == ["conv"]
    assert sum(n.op_type == "ChannelInteraction" for n in source.graph.node) == 2
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in source.graph.initializer}
    assert stored["up"].dtype == np.int32
    assert (stored["up"] == module.get_buffer("up").numpy()).all()
    with torch.no_grad():
        want = module(x).numpy()
    (body,) = run(path, x.numpy())
    np.testing.assert_allclose(body, want, rtol=1e-5, atol=1e-5)  # BatchNorm
    (found,) = bnncc.load(bnncc.compile(path)).run(x.numpy()).values()
    np.testing.assert_allclose(found, body, rtol=1e-5, atol=1e-5)
    if len(shape) == 3:
        assert (body == want).all()
        assert (found == want).all()


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 4, 3)])
def test_compiled(shape: tuple[int, ...]) -> None:
    """Behind an operator of floats, where no kernel of a binary layer computes it."""
    rng = np.random.default_rng(5)
    up, down = table(rng, 6, 10), table(rng, 6, 7)
    x = rng.integers(-12, 13, shape).astype(np.float32)
    nodes = [node("Neg", ["x"], "n"), binary("ChannelInteraction", ["n", "up", "down"], "y")]
    source = model(nodes, {"up": up, "down": down}, shape).SerializeToString()
    (found,) = bnncc.load(bnncc.compile(source)).run(x).values()
    assert (found == channel_interaction.meaning(-x, up, down)).all()


GOOD = np.array([[0, 1, 2, 3]], np.int32)
EMPTY = np.zeros((0, 4), np.int32)


@pytest.mark.parametrize(
    ("up", "message"),
    [
        (GOOD.astype(np.int64), r"up is int64 \(1, 4\); it must be int32 \(steps, 4\)"),
        (GOOD[:, :3], r"up is int32 \(1, 3\)"),
        (GOOD[0], r"up is int32 \(4,\)"),
        (np.array([[0, 1, 2, 3], [6, 1, 2, 3]], np.int32), "row 1 of up has teacher 6, allowed: 0 to 5"),
        (np.array([[-1, 1, 2, 3]], np.int32), "row 0 of up has teacher -1"),
        (np.array([[0, 1 << 30, 2, 3]], np.int32), "row 0 of up has student 1073741824"),
        (np.array([[0, 1, -(1 << 31), 3]], np.int32), "row 0 of up has threshold -2147483648, allowed: -16777216 to"),
        (np.array([[4, 4, 2, 3]], np.int32), "row 0 of up has channel 4 as its own teacher; drop it"),
        (np.array([[0, 1, 2, -(1 << 31)]], np.int32), "the steps of student 1 add up to 2147483648, allowed: 8388608"),
        (np.tile(GOOD, (1 << 17, 1)), "up has 131072 steps, allowed: 65536"),
    ],
)
def test_wrong_tables(up: Array, message: str) -> None:
    with pytest.raises(ModelError, match=rf"toy: node 'y' \(bnncc.ChannelInteraction\): {message}") as caught:
        from_onnx(one_node((1, 6, 2, 2), up, EMPTY))
    assert "\n" not in str(caught.value)


def test_wrong_inputs() -> None:
    rank = binary("ChannelInteraction", ["x", "up", "down"], "y")
    weights = {"up": GOOD, "down": EMPTY}
    with pytest.raises(ModelError, match=r"allowed are \[N, C\], \[N, C, L\] and \[N, C, H, W\]"):
        from_onnx(model([rank], weights, (1, 6, 2, 2, 2)))
    nodes = [node("Cast", ["x"], "up", to=onnx.TensorProto.INT32), rank]
    with pytest.raises(ModelError, match="up is computed at run time; it must be a weight of the file"):
        from_onnx(model(nodes, {"down": EMPTY}, (1, 4)))
    with pytest.raises(ValueError, match="row 0 of up has teacher 7"):
        build(lambda x: channel_interaction.call(x, GOOD + 7, EMPTY), [np.zeros((1, 6), np.float32)])


def test_tables_from_the_input_are_refused(tmp_path: Path) -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            steps = (x[:1, :4] * 0 + torch.tensor([0, 1, 2, 3])).int()
            return operators.channel_interaction(x, steps, steps, 0)

    with pytest.raises(ModelError, match="Wrong: its weight is computed from the network's input"):
        bnncc.export(Wrong(), torch.zeros(2, 6), tmp_path / "net.onnx")


def network(
    channels: int,
    filters: int,
    size: tuple[int, int],
    *,
    rounds: int = 1,
    groups: int = 1,
    delta: int = 1,
    seed: int = 0,
) -> onnx.ModelProto:
    """Sign, 3x3 convolution with zero padding, interactions, BatchNorm of both signs that is 0 for some sums, sign, and
    a second convolution whose sums are the output."""
    rng = np.random.default_rng(0)
    tables = [(table(rng, filters, 2 * filters), table(rng, filters, 2 * filters)) for _ in range(rounds)]
    weights: dict[str, Array] = {
        "w": bitpack.pack(rng.integers(0, 2, (filters, 9, channels // groups)).astype(bool)),
        "w2": bitpack.pack(rng.integers(0, 2, (9, 1, filters)).astype(bool)),
        "gamma": rng.choice([-1.0, -0.5, 0.5, 2.0], filters).astype(np.float32),
        "beta": np.zeros(filters, np.float32),
        "mean": rng.integers(-6, 7, filters).astype(np.float32),
        "var": np.ones(filters, np.float32),
    }
    window = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1]}
    one = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1]}
    nodes = [
        binary("Binarize", ["x"], "s"),
        binary("BinaryConv", ["s", "w"], "a0", channels=channels // groups, group=groups, **window),
    ]
    for i, (up, down) in enumerate(tables):
        up[:, 3] *= delta
        weights |= {f"up{i}": up, f"down{i}": down}
        nodes.append(binary("ChannelInteraction", [f"a{i}", f"up{i}", f"down{i}"], f"a{i + 1}"))
    nodes += [
        node("BatchNormalization", [f"a{rounds}", "gamma", "beta", "mean", "var"], "n", epsilon=0.0),
        binary("Binarize", ["n"], "s2"),
        binary("BinaryConv", ["s2", "w2"], "y", channels=filters, **one),
    ]
    return model(nodes, weights, (1, channels, *size))


@pytest.mark.parametrize(
    ("filters", "rounds", "groups", "delta", "refused"),
    [
        (16, 1, 1, 1, ""),
        (40, 3, 1, 1, ""),
        (11, 2, 1, 1, ""),
        (48, 2, 2, 1, ""),
        (24, 1, 2, 1, "groups of 12 channels do not start at bytes"),
        (16, 1, 1, 10000, "its sums pass 16 bits"),
    ],
)
def test_fused(filters: int, rounds: int, groups: int, delta: int, refused: str) -> None:
    """With the convolution in one kernel, or exactly beside it; signs of sums become integer thresholds in any case."""
    source = network(10, filters, (7, 9), rounds=rounds, groups=groups, delta=delta).SerializeToString()
    artifact = bnncc.compile(source)
    layer = next(layer for layer in artifact.manifest.layers if layer.name == "a0")
    passes = {each.name: each for each in artifact.manifest.passes}
    assert passes["bnncc.FoldThresholds"].rewrites == 1
    if refused:
        assert "interaction" not in layer.fused
        assert any(refused in line for line in passes["bnncc.FuseEpilogue"].refused)
    else:
        assert layer.fused[: rounds + 1] == ("interaction",) * rounds + ("threshold",)
    x = np.random.default_rng(1).standard_normal((1, 10, 7, 9)).astype(np.float32)
    (want,) = onnxruntime.InferenceSession(source).run(None, {"x": x})
    (found,) = bnncc.load(artifact).run(x).values()
    assert (found == want).all()


def test_pooled() -> None:
    """Signs move before a pool behind interactions as they do behind a convolution."""
    source = network(10, 16, (6, 8))
    norm = next(n for n in source.graph.node if n.op_type == "BatchNormalization")
    pool = node("MaxPool", ["a1"], "p", kernel_shape=[2, 2], strides=[2, 2])
    source.graph.node.insert(list(source.graph.node).index(norm), pool)
    norm.input[0] = "p"
    artifact = bnncc.compile(source.SerializeToString())
    kinds = [layer.kind for layer in artifact.manifest.layers]
    assert "or_pool2d" in kinds
    assert "max_pool2d" not in kinds
    x = np.random.default_rng(1).standard_normal((1, 10, 6, 8)).astype(np.float32)
    (want,) = onnxruntime.InferenceSession(source.SerializeToString()).run(None, {"x": x})
    (found,) = bnncc.load(artifact).run(x).values()
    assert (found == want).all()


def test_sums_with_another_reader_are_not_fused() -> None:
    source = network(10, 16, (4, 5))
    source.graph.output.append(onnx.helper.make_tensor_value_info("a0", onnx.TensorProto.FLOAT, (1, 16, 4, 5)))
    artifact = bnncc.compile(source.SerializeToString())
    x = np.random.default_rng(1).standard_normal((1, 10, 4, 5)).astype(np.float32)
    want = onnxruntime.InferenceSession(source.SerializeToString()).run(["y", "a0"], {"x": x})
    found = bnncc.load(artifact).run(x)
    assert (found["y"] == want[0]).all()
    assert (found["a0"] == want[1]).all()


@pytest.mark.parametrize("target", ["arm", "armv7"])
def test_on_arm(target: str, tmp_path: Path) -> None:
    emulate.needs_qemu(target)
    path = tmp_path / "net.onnx"
    source = network(20, 40, (5, 7), rounds=2)
    path.write_bytes(source.SerializeToString())
    x = np.random.default_rng(1).standard_normal((1, 20, 5, 7)).astype(np.float32)
    (want,) = onnxruntime.InferenceSession(source.SerializeToString()).run(None, {"x": x})
    (found,) = emulate.run(path, tmp_path, x, target=target)
    assert (found == want).all()
