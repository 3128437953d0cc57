"""Several bases, gates, and {0, 1} activations behind pools, compiled for ARM: what onnxruntime computes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import bnncc
from tests.arm.emulate import needs_qemu, run
from tests.passes.test_late_sums import Blocks
from tests.passes.test_merge_convs import Bases
from tests.passes.test_trained_binarization import POOLS, Network

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "bases of one input": (lambda: Bases(3, 24), (1, 64, 4, 5)),
    "bases with gates": (lambda: Blocks(8, 3, 0.5), (1, 8, 4, 5)),
    "bits": (lambda: Network(8, POOLS["2x2"], padding=1, dense=False, pad_value=0.0), (1, 8, 6, 8)),
}


@pytest.mark.parametrize("target", ["arm", pytest.param("armv7", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_equal_to_onnxruntime(name: str, target: str, tmp_path: Path) -> None:
    needs_qemu(target)
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    network = make()
    x, path = torch.randint(-16, 17, shape) / 4, tmp_path / "network.onnx"
    bnncc.export(network.eval(), x, path)
    session = onnxruntime.InferenceSession(path)
    (want,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    (got,) = run(path, tmp_path, x.numpy(), target=target)
    np.testing.assert_array_equal(got, want)
