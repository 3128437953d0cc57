"""Exports a module and asks onnxruntime whether the file computes what the module does."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

import bnncc
from bnncc.frontend.capture import tensors

Array = npt.NDArray[Any]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """onnxruntime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(path: Path, *inputs: Array) -> list[Array]:
    """The file's outputs; the inputs in the file's order."""
    running = session(onnx.load(path))
    names = [value.name for value in running.get_inputs()]
    outputs: list[Array] = running.run(None, dict(zip(names, inputs, strict=True)))
    return outputs


def assert_file_equals_module(module: Any, *arguments: Any, path: Path, binary: int) -> onnx.GraphProto:
    """On numbers that export has not seen, within 1e-5 of the largest; the file has `binary` layers of bits."""
    bnncc.export(module, arguments, path)
    graph = onnx.load(path).graph
    assert sum(node.op_type in ("BinaryConv", "BinaryGemm") for node in graph.node) == binary
    other = torch.utils._pytree.tree_map_only(torch.Tensor, lambda x: x.flip(-1) if x.dim() else x, arguments)
    if isinstance(module, nn.Module) and not isinstance(module, torch.fx.GraphModule):
        module.eval()
    called = module.module() if isinstance(module, torch.export.ExportedProgram) else module
    with torch.no_grad():
        expected = [y.numpy() for y in tensors(called(*other))]
    found = run(path, *(x.numpy() for x in tensors(other)))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        largest = float(np.abs(theirs).max()) if theirs.size else 0.0
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * largest)
    return graph
