"""Torch module -> ONNX file with operators of the domain `bnncc`.

The module is copied and the copy's binary layers become nodes of that domain over packed weights, one bit each
(bnncc/frontend/packed.py); everything else is exported as torch does. Each operator used is also written into the
file as a function in standard ONNX, so stock onnxruntime runs it. BatchNorm after a binary layer stays a node; a
layer's scale and bias become Mul and Add. Nodes and values are named after the module they come from.
"""

import ast
import contextlib
import copy
import inspect
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bnncc import __version__
from bnncc.frontend.packed import PackedLayer, packed_copy
from bnncc.ops import ONNX_DOMAIN, ONNX_VERSION, binarize, binary_conv, binary_gemm
from bnncc.runtime import atomic
from bnncc.runtime.errors import InputError, ModelError

if TYPE_CHECKING:
    import onnx

OPSET = 18


def export(module: nn.Module, example: Tensor | tuple[Tensor, ...], path: str | os.PathLike[str]) -> None:
    """Write `module`, in eval mode, to the ONNX file `path`, whose shapes (batch too) are those of `example`.

    A single input is called "input", several take the names of forward's parameters. A single output is called
    "output", several "output_0", "output_1", ..., those of a dict their keys. `module` itself is left as it is.
    ModelError names the layer: a weight that is not +-s per output channel, a value that is not finite or not
    float32, a binary layer whose input is not binarised, an operator torch cannot export. InputError: an example
    that is not made of tensors. OptionError: `path` cannot be written. The file appears whole or not at all.
    """
    examples = example if isinstance(example, tuple) else (example,)
    if not examples or not all(isinstance(e, Tensor) for e in examples):
        found = ", ".join(type(e).__name__ for e in examples) or "nothing"
        raise InputError(f"example: found {found}; allowed is a tensor or a tuple of tensors, one for each input.")
    examples = tuple(e.detach().cpu() for e in examples)
    _check_values(module)
    packed = packed_copy(module)
    model = _traced(module, packed, examples)
    _name_nodes(model, dict(packed.named_modules()))
    _check_binarised(model)
    _attach_functions(model)
    _write(model, path)


def _check_values(module: nn.Module) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not tensor.is_floating_point():
            continue
        if tensor.dtype != torch.float32:
            raise ModelError(f"{name}: type is {tensor.dtype}; allowed is torch.float32. Call module.float() first.")
        bad = ~torch.isfinite(tensor)
        if bad.any():
            index = bad.nonzero()[0].tolist()
            raise ModelError(
                f"{name}: found {tensor[tuple(index)].item()} at index {index}; allowed are finite numbers. "
                f"Export a checkpoint from before training diverged."
            )


def _traced(module: nn.Module, packed: nn.Module, examples: tuple[Tensor, ...]) -> "onnx.ModelProto":
    inputs = ["input"]
    if len(examples) > 1:
        inputs = list(inspect.signature(module.forward).parameters)[: len(examples)]
    with _quiet():
        try:
            with torch.no_grad():
                outputs = _output_names(copy.deepcopy(module).cpu().eval()(*examples))
            program = torch.onnx.export(
                packed,
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0]
            raise ModelError(
                f"{type(module).__name__}: torch cannot export it: {reason} "
                f"Write forward with operators that torch.onnx.export(dynamo=True) knows."
            ) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about its own insides and about packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _output_names(result: object) -> list[str]:
    if isinstance(result, Tensor):
        return ["output"]
    if isinstance(result, dict) and all(isinstance(v, Tensor) for v in result.values()):
        return [str(key) for key in result]
    if isinstance(result, tuple | list) and all(isinstance(v, Tensor) for v in result):
        return [f"output_{i}" for i in range(len(result))]
    raise ModelError(
        f"forward: returns {type(result).__name__}; allowed is a tensor, or a tuple, list or dict of tensors."
    )


def _name_nodes(model: "onnx.ModelProto", modules: dict[str, nn.Module]) -> None:
    """Names from module paths: "layer1.0.conv1" for a module that is one node, else "layer1.0.add"."""
    graph = model.graph
    paths = [_module_path(node) for node in graph.node]
    nodes_of = Counter(paths)
    taken = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    renamed: dict[str, str] = {name: name for name in taken}
    for node, path in zip(graph.node, paths, strict=True):
        whole = isinstance(modules.get(path), PackedLayer) and node.domain == ONNX_DOMAIN
        whole = whole or (nodes_of[path] == 1 and not list(modules.get(path, nn.Module()).children()))
        name = path if path and whole else ".".join(filter(None, (path, node.op_type.lower())))
        node.name = _unused(name, taken)
        for i, output in enumerate(node.output):
            if output and output not in renamed:
                renamed[output] = node.name if i == 0 else _unused(f"{node.name}.{i}", taken)
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
        node.doc_string = ""
        del node.metadata_props[:]
    constants = {value.name for value in graph.initializer}
    kept = [value for value in graph.value_info if value.name not in constants]
    del graph.value_info[:]
    for value in kept:
        value.name = renamed.get(value.name, value.name)
    graph.value_info.extend(kept)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model):
        del value.metadata_props[:]


def _module_path(node: "onnx.NodeProto") -> str:
    """The path of the module a node comes from; the exporter notes the nesting and, last, the operator."""
    for prop in node.metadata_props:
        if prop.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(prop.value)
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""


def _unused(name: str, taken: set[str]) -> str:
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def _check_binarised(model: "onnx.ModelProto") -> None:
    """Every binary layer must read a Binarize, if need be through nodes that only move values."""
    producer = {output: node for node in model.graph.node for output in node.output}
    for layer in model.graph.node:
        if layer.domain != ONNX_DOMAIN or layer.op_type == binarize.NAME:
            continue
        source = producer.get(layer.input[0])
        while source is not None and source.op_type in ("Flatten", "Identity", "Reshape", "Transpose"):
            source = producer.get(source.input[0])
        if source is None or source.op_type != binarize.NAME:
            found = "the network's input" if source is None else source.op_type
            raise ModelError(
                f"{layer.name}: input_quantizer ends in {found}; allowed is bnncc.nn.Sign or bnncc.nn.Bits as its last "
                f"step. Move a scale of the input behind the layer."
            )


def _attach_functions(model: "onnx.ModelProto") -> None:
    from onnx import helper

    used = {node.op_type for node in model.graph.node if node.domain == ONNX_DOMAIN}
    operators = (op for op in (binarize, binary_conv, binary_gemm) if op.NAME in used)
    model.functions.extend(op.function() for op in operators)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    if used:
        model.opset_import.append(helper.make_opsetid(ONNX_DOMAIN, ONNX_VERSION))
    model.producer_name, model.producer_version = "bnncc", __version__


def _write(model: "onnx.ModelProto", path: str | os.PathLike[str]) -> None:
    import onnx.checker

    onnx.checker.check_model(model, full_check=True)
    atomic.write(path, model.SerializeToString(deterministic=True))
