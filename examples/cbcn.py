"""CBCN (Liu et al., CVPR 2019) on 8x8 digits: `python -m examples.cbcn`, about a minute on one core.

Filters in four orientations, one of them stored, and as many bits as XNOR-Net has; export, compile, compare with
onnxruntime, show what was fused.
"""

import tempfile
from pathlib import Path

import torch

import bnncc
from bnncc.models import build
from bnncc.train import Options, fit, read
from bnncc.verify.verification import Verification, verify


def main(epochs: int = 8) -> Verification:
    """epochs of training, with center loss."""
    data = read("digits")
    torch.manual_seed(0)
    network = build("resnet20", "cbcn", orientations=4, equal_to="bits", image=(1, 8, 8))
    history = fit(network, data, Options(epochs=epochs, center_weight=1e-3, batch=64, device="cpu"))
    print(f"accuracy on images held out: {history.epochs[-1].test_accuracy:.2%}")

    tested = data.normalised(data.test.images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cbcn.onnx")
        bnncc.export(network, tested[:1], path)
        # The same bits and whole numbers in every layer, and the same answers: onnxruntime's and the artifact's.
        found = verify(path, {"input": tested.numpy(), "labels": data.test.labels.numpy()}, passes=False)
    assert found.failure is None, found.failure
    agreement = found.scores.agreement
    assert agreement is not None
    print(f"answers as onnxruntime's: {agreement.hits} of {agreement.total}; artifact: {found.bytes / 1e3:.1f} kB")
    for layer in found.artifact.manifest.layers:
        print(f"{layer.name:<24} {layer.kind:<16} {', '.join(layer.fused)}")
    return found


if __name__ == "__main__":
    main()
