"""onnxruntime on the model an artifact was compiled from, as a peer to time side by side."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnncc.runtime import timing
from bnncc.runtime.array import Array
from bnncc.runtime.artifact import Manifest
from bnncc.runtime.errors import ModelError, OptionError


@dataclass(frozen=True)
class Baseline:
    """`run()` computes the network once on `inputs` into `outputs`. onnxruntime works on these very
    arrays without holding them, so they live as long as this does."""

    name: str
    run: Callable[[], object]
    inputs: dict[str, Array]
    outputs: dict[str, Array]

    def time_runs(self, seconds: float) -> list[int]:
        """Nanoseconds of each run until `seconds` are over, after one that is not counted; at least one."""
        self.run()
        return timing.in_a_row(self.run, seconds)


def onnxruntime(
    manifest: Manifest, model: str | os.PathLike[str], inputs: Mapping[str, Array], threads: int = 1
) -> Baseline:
    """The source model in onnxruntime, on `threads` threads, inputs and outputs bound beforehand as ours are.

    Raises:
        OptionError: onnxruntime is not installed, or `model` is not the file the artifact was compiled from.
        ModelError: onnxruntime cannot run the model.
    """
    try:
        data = Path(model).read_bytes()
    except OSError as error:
        raise OptionError(
            f"{model}: cannot be read: {error.strerror}; give the ONNX file the artifact was compiled from"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != manifest.source_sha256:
        raise OptionError(
            f"{model}: has SHA-256 {found[:12]}.., the artifact was compiled from {manifest.source_sha256[:12]}..; "
            "give the ONNX file it was compiled from, or compile again"
        )
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise OptionError("baseline onnxruntime: not installed; pip install 'bnncc[verify]'") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    bound = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    outputs: dict[str, Array] = {tensor.name: np.empty(tensor.shape, tensor.dtype) for tensor in manifest.outputs}
    try:
        # By path where there is one: weights may lie in files beside it.
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        for name, array in bound.items():
            binding.bind_cpu_input(name, array)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        session.run_with_iobinding(binding)
    except Exception as error:  # onnxruntime raises classes of its own with no common base
        message = " ".join(str(error).split())[:160]
        raise ModelError(f"{model}: onnxruntime cannot run it ({message}); check the file with another tool") from error

    def run() -> None:
        session.run_with_iobinding(binding)

    return Baseline(f"onnxruntime {ort.__version__}", run, bound, outputs)
