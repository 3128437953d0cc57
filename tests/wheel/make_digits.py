"""Writes the network that installed wheels are tried with: `python -m tests.wheel.make_digits`.

digits.onnx is a trained digits network for sixteen images; digits.npz holds the images, x, and onnxruntime's scores, y.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import torch

import bnncc
from examples.digits import train_digits

HERE = Path(__file__).parent


def main() -> None:
    """Train, export, and keep what onnxruntime computes."""
    module, images, _ = train_digits(progress=False)
    x = images[:16]
    bnncc.export(module, torch.from_numpy(x), HERE / "digits.onnx")
    session = onnxruntime.InferenceSession(HERE / "digits.onnx")
    np.savez(HERE / "digits.npz", x=x, y=session.run(None, {session.get_inputs()[0].name: x})[0])


if __name__ == "__main__":
    main()
