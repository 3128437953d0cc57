"""The examples run as users run them, and their artifacts give every answer of onnxruntime."""

import pytest

from bnncc.verify.verification import Verification
from examples import cbcn, ci_bcnn, group_net, trained_binarization


def check(found: Verification, shown: str) -> None:
    assert found.failure is None
    assert found.samples == 898
    assert found.scores.agreement is not None
    assert found.scores.agreement.hits == found.samples
    layers = found.artifact.manifest.layers
    assert sum(layer.binary for layer in layers) >= 18
    for layer in layers:
        assert layer.name in shown
        assert ", ".join(layer.fused) in shown


@pytest.mark.slow
def test_ci_bcnn(capsys: pytest.CaptureFixture[str]) -> None:
    check(ci_bcnn.main(epochs=1, steps=2), capsys.readouterr().out)


@pytest.mark.slow
def test_group_net(capsys: pytest.CaptureFixture[str]) -> None:
    check(group_net.main(epochs=3), capsys.readouterr().out)


@pytest.mark.slow
def test_cbcn(capsys: pytest.CaptureFixture[str]) -> None:
    check(cbcn.main(epochs=1), capsys.readouterr().out)


@pytest.mark.slow
def test_trained_binarization(capsys: pytest.CaptureFixture[str]) -> None:
    check(trained_binarization.main(epochs=1), capsys.readouterr().out)
