"""`bnncc train`: what it leaves, how it goes on, what it starts from, and what it refuses."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from bnncc.cli import main
from bnncc.models import ARCHITECTURES, METHODS
from bnncc.runtime.errors import InputError
from bnncc.train import checkpoint, data
from bnncc.train.run import plan_of, trained

SMALL = ("--model", "vgg-small", "--width", "0.0625", "--data", "digits", "--epochs", "2", "--threads", "1")
FILES = {"checkpoint.pt", "curves.png", "log.jsonl", "network.onnx", "summary.txt"}


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["train", *arguments])


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float network, trained by the command line."""
    folder = tmp_path_factory.mktemp("runs") / "float"
    done = call("--method", "float", *SMALL, "-o", str(folder))
    assert done.exit_code == 0, done.output
    assert "epoch 2  loss " in done.output
    return folder


def test_what_is_left(twin: Path) -> None:
    assert {path.name for path in twin.iterdir()} == FILES
    header, *epochs = [json.loads(line) for line in (twin / "log.jsonl").read_text().splitlines()]
    assert (header["method"], header["model"], header["threads"], header["train"]) == ("float", "vgg-small", 1, 899)
    assert header["options"]["seed"] == 0
    for number, line in enumerate(epochs, 1):
        assert (line["kind"], line["epoch"], line["seed"], line["device"]) == ("epoch", number, 0, "cpu")
    assert "32-bit MACs" in (twin / "summary.txt").read_text()
    with Image.open(twin / "curves.png") as picture:
        assert picture.size == (1200, 350)
    found = data.read("digits")
    x = found.normalised(found.test.images[:1])
    with torch.no_grad():
        wanted = trained(twin, found.shape, 10)(x).numpy()
    (scores,) = onnxruntime.InferenceSession(twin / "network.onnx").run(None, {"input": x.numpy()})
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-5)


def test_a_binary_network_from_its_float_twin(twin: Path, tmp_path: Path) -> None:
    given = ("--method", "xnor", *SMALL, "--distill", str(twin), "--warm-start", str(twin), "-o", str(tmp_path / "x"))
    done = call(*given)
    assert done.exit_code == 0, done.output
    assert "warm start: " in done.output
    assert plan_of(tmp_path / "x").distill == str(twin)
    log = (tmp_path / "x" / "log.jsonl").read_text()
    for again in (given, ("--resume", "-o", str(tmp_path / "x"))):
        done = call(*again)
        assert done.exit_code == 0, done.output
        assert "epoch" not in done.output
    assert (tmp_path / "x" / "log.jsonl").read_text() == log
    other = call(*given, "--lr", "0.1")
    assert other.exit_code == 1
    assert "checkpoint.pt: was begun with learning_rate 0.005, found 0.1; give the same to go on" in other.output


def test_usage(tmp_path: Path) -> None:
    for arguments, message in (
        (("--method", "xnor"), "Missing option --model, --data, --epochs."),
        (("--resume", "--seed", "3"), "--resume takes the options from OUT; leave away seed."),
        (("--resume",), "checkpoint.pt: cannot be read: No such file"),
        (("--method", "xnor", *SMALL, "--batch", "1"), "batch is 1; allowed are"),
        (("--method", "xnor", *SMALL, "--bases", "0", "--method", "group-net"), "bases"),
        (("--method", "xnor", *SMALL[:-6], "--data", str(tmp_path / "none"), "--epochs", "1"), "there is no such file"),
    ):
        done = call(*arguments, "-o", str(tmp_path / "out"))
        assert done.exit_code in (1, 2)
        assert message in done.output
        assert "Traceback" not in done.output


def test_names_are_those_of_the_builder() -> None:
    from bnncc.cli import train

    assert set(train.METHODS) == set(METHODS)
    assert set(train.MODELS) == set(ARCHITECTURES)


class Opens:
    """Unpickled, it would write a file."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("pwned", "w")


def test_checkpoints_of_others_are_data(twin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path, whole = tmp_path / "checkpoint.pt", (twin / "checkpoint.pt").read_bytes()
    torch.save({"format": 1, "about": Opens()}, path)
    with pytest.raises(InputError, match="is not a whole checkpoint"):
        checkpoint.read(path)
    path.write_bytes(pickle.dumps(Opens()))
    with pytest.raises(InputError, match="is not a whole checkpoint"):
        checkpoint.read(path)
    assert not Path("pwned").exists()
    for content in (b"", whole[:-1000], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is not a whole checkpoint"):
            checkpoint.read(path)
    with zipfile.ZipFile(twin / "checkpoint.pt") as good, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in good.namelist():
            packed.writestr(name, good.read(name))
    with pytest.raises(InputError, match=r"is not a whole checkpoint \(packed entries\)"):
        checkpoint.read(path)
    state = vars(checkpoint.read(twin / "checkpoint.pt"))
    for change, message in (
        ({"format": 2}, "is no checkpoint of format 1"),
        ({"epoch": "1"}, "epoch is not as in a checkpoint"),
        ({"more": 1}, "more is not as in a checkpoint"),
        ({"step": -1}, "holds what no checkpoint has"),
        ({"signs": {"a": 1}}, "holds what no checkpoint has"),
    ):
        torch.save({"format": 1, **state, **change}, path)
        with pytest.raises(InputError, match=message):
            checkpoint.read(path)
