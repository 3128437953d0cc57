"""From samples to 8-bit convolutions: ranges, exact integers, what is reported, and what is refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

import bnncc
from bnncc import bitpack, calibrate, cli
from bnncc.ops import binarize, binary_conv2d, conv2d_int8, quantize
from bnncc.options import InputRange
from bnncc.passes.quantize_convs import quantization
from bnncc.runtime import npz
from bnncc.runtime.artifact import Artifact, Tensor
from bnncc.runtime.errors import InputError
from tests.onnxmodels import binary, model, node

Array = npt.NDArray[Any]

SHAPE = (1, 3, 32, 32)
CONV: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
BINARY: dict[str, Any] = {
    "kernel_shape": [3, 3],
    "strides": [1, 1],
    "pads": [1] * 4,
    "dilations": [1, 1],
    "channels": 16,
}


def samples(count: int = 6, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE[1:])).astype(np.float32)


def stem_and_binary() -> tuple[bytes, Array, Array]:
    """A float convolution `a` whose signs a binary one `y` reads, both outputs; and the weights of both."""
    random = np.random.default_rng(1)
    weights = random.standard_normal((16, 3, 3, 3)).astype(np.float32)
    packed = bitpack.pack(random.integers(0, 2, (8, 9, 16)).astype(bool))
    nodes = [
        node("Conv", ["x", "w"], "a", **CONV),
        binary("Binarize", ["a"], "s"),
        binary("BinaryConv", ["s", "v"], "y", **BINARY),
    ]
    built = model(nodes, {"w": weights, "v": packed}, SHAPE, outputs=("a", "y"))
    return built.SerializeToString(), weights, packed


def classifier() -> bytes:
    """Float convolution, mean, dense: an output [1, 10]."""
    random = np.random.default_rng(2)
    weights = {
        "w": random.standard_normal((16, 3, 3, 3)).astype(np.float32),
        "d": random.standard_normal((16, 10)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "w"], "a", **CONV),
        node("Relu", ["a"], "r"),
        node("GlobalAveragePool", ["r"], "m"),
        node("Flatten", ["m"], "f"),
        node("MatMul", ["f", "d"], "y"),
    ]
    content: bytes = model(nodes, weights, SHAPE, rank=2).SerializeToString()
    return content


def test_integers_are_exact_and_binary_layers_stay_equal() -> None:
    content, weights, packed = stem_and_binary()
    x = samples()
    artifact = bnncc.compile(content, "native", calibrate={"x": x})
    assert [layer.kind for layer in artifact.manifest.layers if layer.macs] == ["conv2d_int8", "xnor_conv2d"]
    low, high = float(x.min()), float(x.max())
    counts = np.histogram(x, 2048, (low, high))[0].astype(np.float64)
    inverse, zero = quantization(calibrate.best_range(counts, low, high), "uint8")
    hwio = weights.transpose(2, 3, 1, 0)
    scales = np.abs(hwio).max(axis=(0, 1, 2)).astype(np.float64) / 127
    integers = np.rint(hwio / scales).astype(np.int8)
    bias = (-zero * integers.astype(np.int64).sum(axis=(0, 1, 2))).astype(np.int32)
    loaded = bnncc.load(artifact)
    for image in x[:2]:
        nhwc = image.transpose(1, 2, 0)[None]
        q = quantize.meaning(
            nhwc, inverse_scale=float(inverse), zero_point=zero, pads=(1, 1, 1, 1), row_elements=34 * 3
        )
        sums = conv2d_int8.meaning(q, integers, bias, width=34)
        want = sums.astype(np.float32) * (scales / float(inverse)).astype(np.float32)
        found = loaded.run(image[None])
        assert np.array_equal(found["a"], want.transpose(0, 3, 1, 2))
        signs = binarize.meaning(found["a"].transpose(0, 2, 3, 1))
        y = binary_conv2d.meaning(signs, packed, kernel=(3, 3), pads=(1, 1, 1, 1))
        assert np.array_equal(found["y"], y.transpose(0, 3, 1, 2))


def test_what_changed_is_in_the_manifest(tmp_path: Path) -> None:
    x = samples()
    labels = np.arange(6) % 10
    artifact = bnncc.compile(classifier(), "native", calibrate={"x": x, "labels": labels})
    artifact.save(tmp_path / "a.bnn")
    found = Artifact.load(tmp_path / "a.bnn").manifest.calibration
    assert found is not None
    assert found == artifact.manifest.calibration
    assert (found.samples, found.layers, found.target) == (6, 1, artifact.manifest.target)
    plain, int8 = bnncc.load(bnncc.compile(classifier(), "native")), bnncc.load(artifact)
    before, after = (np.concatenate([each.run(image[None])["y"] for image in x]) for each in (plain, int8))
    assert found.largest_difference == np.abs(before - after).max() / np.abs(before).max()
    # One convolution: an input is off by 1/510 of its range, a weight by 1/254, and a mean of 1024 pixels by less.
    assert 0 < found.largest_difference < 0.02
    assert found.agreement == (before.argmax(1) == after.argmax(1)).mean()
    assert found.accuracy_float == (before.argmax(1) == labels).mean()
    assert found.accuracy_int8 == (after.argmax(1) == labels).mean()


@pytest.mark.parametrize("target", ["arm", "rpi5"])
def test_another_machine_is_measured_here(target: str) -> None:
    """Its integers are the same, so this machine says what changes."""
    artifact = bnncc.compile(classifier(), target, calibrate={"x": samples(2)})
    assert artifact.manifest.target == target
    assert any(layer.kind == "conv2d_int8" for layer in artifact.manifest.layers)
    assert artifact.manifest.calibration is not None
    assert artifact.manifest.calibration.target.startswith("x86")
    assert artifact.manifest.calibration.accuracy_float is None


@pytest.mark.slow
def test_bireal_resnet18(exported: Callable[[str], Path]) -> None:
    """Stem and the three shortcuts become 8-bit; their own error stays small, whatever random signs make of it."""
    path = exported("bireal_resnet18")
    x = np.random.default_rng(0).standard_normal((4, 3, 224, 224)).astype(np.float32)
    name = bnncc.compile(path, "native").manifest.inputs[0].name
    artifact = bnncc.compile(path, "native", calibrate={name: x})
    kinds = [layer.kind for layer in artifact.manifest.layers]
    assert kinds.count("conv2d_int8") == kinds.count("quantize") == 4
    assert "conv2d" not in kinds
    found = artifact.manifest.calibration
    assert found is not None
    print(f"agreement {found.agreement}, largest difference {found.largest_difference}")
    # Random weights make answers that differ by little: a flipped sign moves them all. More than that would be a bug.
    assert found.largest_difference < 1


def test_ranges_cover_most_and_zero() -> None:
    spread = np.zeros(2048)
    spread[-1], spread[: 2048 // 50] = 1, 1e6  # one outlier far from everything else
    found = calibrate.best_range(spread, 0.0, 100.0)
    assert found.low == 0
    assert 2 <= found.high < 20
    assert calibrate.best_range(np.zeros(2048), 0.0, 0.0) == InputRange(0.0, 0.0)
    even = calibrate.best_range(np.ones(2048), -1.0, 1.0)
    assert (even.low, even.high) == (-even.high, even.high)
    assert even.high > 0.95


X = Tensor("x", SHAPE, "float32")
Y = Tensor("y", (1, 10), "float32")
NAN = samples(3)
NAN[1, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "found arrays none, allowed are exactly 'x'"),
        ({"z": samples()}, "found arrays 'z'"),
        ({"x": samples(), "z": samples()}, "found arrays 'x', 'z'"),
        ({"x": samples()[:, :1]}, r"found float32 \[6, 1, 32, 32\], allowed is float32 \[samples, 3, 32, 32\]"),
        ({"x": samples().astype(np.float64)}, "found float64"),
        ({"x": samples(0)}, "found 0 samples"),
        ({"x": np.float32(1)}, "found float32"),
        ({"x": NAN}, "sample 1 holds NaN or an infinity"),
        ({"x": samples(), "labels": np.zeros(5, int)}, r"labels: found int64 \[5\], allowed are whole numbers \[6\]"),
        ({"x": samples(), "labels": np.zeros(6)}, r"labels: found float64"),
        ({"x": samples(), "labels": [0] * 6}, r"labels: found list"),
        ({"x": samples(), "labels": np.full(6, 10)}, "found 10 to 10, allowed are 0 to 9"),
    ],
)
def test_wrong_samples(data: dict[str, Array], message: str) -> None:
    with pytest.raises(InputError, match=message):
        calibrate.Samples.of(data, [X], [Y])


def test_samples_of_several_inputs_and_batches() -> None:
    tensors = [Tensor("a", (2, 3), "float32"), Tensor("b", (2, 1), "float32")]
    data = {"a": np.arange(12, dtype=np.float32).reshape(4, 3), "b": np.arange(4, dtype=np.float32).reshape(4, 1)}
    runs = list(calibrate.Samples.of(data, tensors, [Y]).runs("read"))
    assert [run["b"].reshape(-1).tolist() for run in runs] == [[0, 1], [2, 3]]
    for count, message in ((2, "every input needs as many"), (3, "multiple of 2")):
        with pytest.raises(InputError, match=message):
            calibrate.Samples.of(data | {"b": data["b"][:count]}, tensors, [Y])
    with pytest.raises(InputError, match=r"no output \[samples, classes\]"):
        calibrate.Samples.of(data | {"labels": np.zeros(4, int)}, tensors, [X])


def test_command_line(tmp_path: Path) -> None:
    source, data, out = tmp_path / "net.onnx", tmp_path / "data.npz", tmp_path / "net.bnn"
    source.write_bytes(classifier())
    npz.write(data, {"x": samples(4), "labels": np.arange(4)})
    arguments = ["compile", str(source), "--target", "native", "--calibrate", str(data), "-o", str(out)]
    done = CliRunner().invoke(cli.main, [*arguments, "--json", str(tmp_path / "report.json")])
    assert done.exit_code == 0, done.output
    assert "8-bit convolutions: 1. On 4 samples" in done.output
    assert "before" in done.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["calibration"]["layers"] == 1
    shown = CliRunner().invoke(cli.main, ["inspect", str(out)])
    assert "conv2d_int8" in shown.output
    assert "weights are int8" in shown.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"nonsense", "not a whole .npz file"),
        ({}, "found arrays none"),
        ({"y": samples(1)}, "allowed are exactly 'x'"),
        ({"x": np.array([{}], dtype=object)}, "not a whole .npz file|allowed are numbers"),
    ],
)
def test_command_line_errors(tmp_path: Path, content: Any, message: str) -> None:
    source, data = tmp_path / "net.onnx", tmp_path / "data.npz"
    source.write_bytes(classifier())
    if isinstance(content, bytes):
        data.write_bytes(content)
    elif content is not None:
        np.savez(data, allow_pickle=True, **content)
    arguments = ["compile", str(source), "--target", "native", "-o", str(tmp_path / "net.bnn")]
    plain = CliRunner().invoke(cli.main, [*arguments[:-1], str(tmp_path / "plain.bnn")])  # what a cache then knows
    assert plain.exit_code == 0, plain.output
    done = CliRunner().invoke(cli.main, [*arguments, "--calibrate", str(data)])
    assert done.exit_code == 1
    assert re.search(message, done.output)
    assert not (tmp_path / "net.bnn").exists()
