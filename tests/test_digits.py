"""A trained network keeps its answers: the digits, every test image, on this machine and as ARM code under qemu."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch

import bnncc
from bnncc.runtime.errors import ArtifactError
from examples.digits import train_digits
from tests.arm.emulate import needs_qemu, run

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Array, Array]:
    """The exported network, all test images as one batch, and onnxruntime's scores for them."""
    module, images, _ = train_digits(epochs=3, progress=False)
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    bnncc.export(module, torch.from_numpy(images), path)
    batch = images
    session = onnxruntime.InferenceSession(path)
    return path, batch, session.run(None, {session.get_inputs()[0].name: batch})[0]


def assert_same_answers(scores: Array, expected: Array) -> None:
    assert np.array_equal(scores.argmax(1), expected.argmax(1))
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("target", ["native", "x86-avx2", "x86"])
def test_every_image_here(target: str, trained: tuple[Path, Array, Array]) -> None:
    path, batch, expected = trained
    artifact = bnncc.compile(path, target)
    try:
        model = bnncc.load(artifact)
    except ArtifactError as error:
        pytest.skip(str(error))
    (scores,) = model.run(batch).values()
    assert_same_answers(scores, expected)


@pytest.mark.parametrize("target", ["arm", "armv7"])
def test_every_image_on_arm(target: str, trained: tuple[Path, Array, Array], tmp_path: Path) -> None:
    needs_qemu(target)
    path, batch, expected = trained
    assert_same_answers(run(path, tmp_path, batch, target=target)[0], expected)
