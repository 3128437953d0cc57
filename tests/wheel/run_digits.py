"""Runs a compiled digits network where nothing but numpy and bnncc is installed: `python run_digits.py ART.bnn Y.npy`.

It checks the scores against onnxruntime's and writes them, to be compared bit for bit.
"""

import sys
from pathlib import Path

import numpy as np

import bnncc

artifact, out = sys.argv[1:]
digits = np.load(Path(__file__).with_name("digits.npz"))
(y,) = bnncc.load(artifact).run(digits["x"]).values()
(again,) = bnncc.load(artifact, threads=2).run(digits["x"]).values()
assert again.tobytes() == y.tobytes()
assert (y.argmax(1) == digits["y"].argmax(1)).all()
np.testing.assert_allclose(y, digits["y"], rtol=1e-4, atol=1e-4 * np.abs(digits["y"]).max())
loaded = {name.partition(".")[0] for name in sys.modules}
assert loaded.isdisjoint({"click", "onnx", "rich", "torch", "tvm", "tvm_ffi"}), loaded
np.save(out, y)
print(f"Python {sys.version.split()[0]}, numpy {np.__version__}: scores as onnxruntime's")
