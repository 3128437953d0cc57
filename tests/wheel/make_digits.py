"""Writes the digits network of tests/gate, and what wheels are tried with: `python -m tests.wheel.make_digits`.

tests/gate/digits.onnx is a trained network for sixteen images, digits.npz beside it all test images and labels; the
digits.npz here holds sixteen images, x, and onnxruntime's scores, y.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import torch

import bnncc
from examples.digits import train_digits

HERE = Path(__file__).parent
NETWORK = HERE.parent / "gate" / "digits.onnx"


def main() -> None:
    """Train, export, and keep what onnxruntime computes."""
    module, images, labels = train_digits(progress=False)
    x = images[:16]
    bnncc.export(module, torch.from_numpy(x), NETWORK)
    session = onnxruntime.InferenceSession(NETWORK)
    np.savez_compressed(NETWORK.with_suffix(".npz"), input=images, labels=labels)
    np.savez(HERE / "digits.npz", x=x, y=session.run(None, {session.get_inputs()[0].name: x})[0])


if __name__ == "__main__":
    main()
