"""ONNX models in onnxruntime: what everything else is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bnncc.runtime.array import Array
from bnncc.runtime.errors import ModelError, OptionError

if TYPE_CHECKING:
    import onnx


class Reference:
    """A model that onnxruntime has loaded, on one thread.

    as_written: every node is computed as the file has it; otherwise as onnxruntime sees fit, which folds constants into
    each other and so rounds where the file does not. watched: further tensors of the graph that `run` returns.

    Raises:
        OptionError: onnxruntime is not installed.
        ModelError: onnxruntime cannot load the model.
    """

    def __init__(self, model: onnx.ModelProto, *, as_written: bool = False, watched: Sequence[str] = ()) -> None:
        try:
            import onnxruntime as ort
        except ImportError:
            raise OptionError("onnxruntime is not installed; pip install 'bnncc[verify]'") from None
        self._name = model.graph.name or "model"
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if as_written:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        content = _watching(model, watched).SerializeToString()
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes have no base in common
            raise ModelError(f"{self._name}: onnxruntime cannot load it ({_line(error)})") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, those that are watched too. ModelError: onnxruntime fails."""
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))
        except Exception as error:
            raise ModelError(f"{self._name}: onnxruntime cannot run it ({_line(error)})") from error


def _watching(model: onnx.ModelProto, watched: Sequence[str]) -> onnx.ModelProto:
    """The model with further outputs, whose types onnxruntime finds out."""
    import onnx

    known = {output.name for output in model.graph.output}
    more = [name for name in dict.fromkeys(watched) if name not in known]
    if not more:
        return model
    watching = onnx.ModelProto()
    watching.CopyFrom(model)
    for name in more:
        watching.graph.output.add(name=name)
    return watching


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
