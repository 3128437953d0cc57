"""CI-BCNN (Wang et al., CVPR 2019) on 8x8 digits: `python -m examples.ci_bcnn`, about a minute on one core.

Train, mine channel interactions, train on with them; export, compile, compare with onnxruntime, show what was fused.
"""

import tempfile
from pathlib import Path

import torch

import bnncc
from bnncc.models import build
from bnncc.nn.mining import MiningOptions, mine, table
from bnncc.train import Options, fit, read
from bnncc.verify.verification import Verification, verify


def main(epochs: int = 6, steps: int = 20) -> Verification:
    """epochs before mining, and after it; steps of the mining policy in each layer."""
    data = read("digits")
    images, labels = data.normalised(data.train.images), data.train.labels
    torch.manual_seed(0)
    network = build("resnet20", "ci-bcnn", image=(1, 8, 8))
    fit(network, data, Options(epochs=epochs, batch=64, device="cpu"))

    batches = list(zip(torch.split(images, 150), torch.split(labels, 150), strict=True))
    mined = mine(network, batches, MiningOptions(edges=40, steps=steps), torch.Generator().manual_seed(0))
    print(table(mined))
    history = fit(network, data, Options(epochs=epochs, batch=64, learning_rate=1e-3, device="cpu"))
    print(f"accuracy on images held out: {history.epochs[-1].test_accuracy:.2%}")

    tested = data.normalised(data.test.images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ci_bcnn.onnx")
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
