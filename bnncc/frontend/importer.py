"""ONNX file -> Relax module with one function `main`: one dataflow block, every tensor of fixed shape, weights inside.

Operators of the domain bnncc are matched by name; the bodies that the file brings for other runtimes are never read.
Convolutions, pools and matrix products carry the ONNX node's name as their span's source name, which passes keep.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import tvm
from tvm import relax
from tvm.relax.frontend.onnx import onnx_frontend

from bnncc.frontend import converters, onnx_file
from bnncc.frontend.node import Node, shape_of
from bnncc.ops import ONNX_DOMAIN, spans
from bnncc.ops.relax import register
from bnncc.runtime.errors import ModelError

if TYPE_CHECKING:
    import onnx

# Subgraphs would need more than one dataflow block; sequences and optionals are no tensors.
REFUSED = frozenset({"If", "Loop", "Scan", "SequenceMap", "Optional", "SequenceConstruct", "SequenceEmpty"})


class Imported(NamedTuple):
    """A network as Relax. `inputs` and `outputs` are ONNX names, in the order of main's parameters and results."""

    module: tvm.IRModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def from_onnx(source: str | Path | bytes | onnx.ModelProto, shapes: onnx_file.Shapes | None = None) -> Imported:
    """Import a network. shapes: input name -> shape for inputs with free dimensions. Raises ModelError, OptionError."""
    register()
    model, where = onnx_file.read(source, shapes)
    del model.functions[:]
    inputs = onnx_file.input_names(model)
    outputs = tuple(value.name for value in model.graph.output)
    if not inputs:
        raise ModelError(f"{where}: the graph has no input")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 18)
    adapter = _Graph(where)
    # TVM's importer prints the inputs of a node it cannot convert, and warns about names.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            module = adapter.from_onnx(model.graph, opset)
        except ModelError:
            adapter.abandon()
            raise
    result = module["main"].ret_ty
    for name, kind in zip(outputs, result.fields if isinstance(result, relax.TupleType) else [result], strict=True):
        if not isinstance(kind, relax.TensorType):
            raise ModelError(f"{where}: output {name!r} is {kind}; it must be a tensor")
    return Imported(module, inputs, outputs)


class _Graph(onnx_frontend.ONNXGraphImporter):  # type: ignore[misc]  # TVM is untyped
    """TVM's importer with our converters first, errors that name the node, and results that are variables.

    Overrides private methods: apache-tvm is pinned, and tests/frontend/test_importer.py sees when they move.
    """

    def __init__(self, where: str) -> None:
        super().__init__(shape_dict={}, dtype_dict={})
        self._where = where

    def abandon(self) -> None:
        """Close the block that an error left open; TVM warns about it otherwise."""
        with contextlib.suppress(Exception):
            self.bb._end_block()

    def _sanitize_name(self, name: str) -> str:
        return str(self._name_supply.fresh_name("x_" + re.sub(r"\W", "_", name, flags=re.ASCII)))

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        known = onnx_frontend._get_convert_map()
        for node in graph.node:
            domain = "" if node.domain == "ai.onnx" else node.domain
            if (domain, node.op_type) in converters.CONVERTERS:
                continue
            if domain or node.op_type not in known or node.op_type in REFUSED:
                raise ModelError(
                    f"{self._place(node)}: no such operator here; "
                    f"supported: standard ONNX without control flow, and {', '.join(converters.ATTRIBUTES)}"
                )

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        for index, node in enumerate(graph.node):
            place = self._place(node, index)
            try:
                self._convert(node, index)
            except ModelError as error:
                raise ModelError(f"{place}: {error}") from None
            except Exception as error:
                lines = [line for line in str(error).splitlines() if line.strip()]
                raise ModelError(f"{place}: cannot be imported: {(lines or [type(error).__name__])[-1]}") from error

    def _convert(self, node: onnx.NodeProto, index: int) -> None:
        domain = "" if node.domain == "ai.onnx" else node.domain
        convert = converters.CONVERTERS.get((domain, node.op_type))
        span = spans.named(node.name or f"{node.op_type}_{index}")
        if convert is None:
            super()._construct_nodes(SimpleNamespace(node=[node]))
        else:
            inputs = tuple(self._nodes[name] if name else None for name in node.input)
            attributes = self._attributes(node)
            outputs = len([name for name in node.output if name])
            value = convert(Node(inputs, attributes, span, self.bb.emit, outputs))
            self._nodes[node.output[0]] = value
        for name in node.output:
            if not name:
                continue
            value = self._nodes[name]
            if isinstance(value, relax.Call | relax.TupleGetItem):
                if isinstance(value, relax.Call) and value.span is None:
                    value = spans.marked(value, span)
                self._nodes[name] = value = self.bb.emit(value)
            if isinstance(value.ty, relax.TensorType):
                onnx_file.check_extents(shape_of(value), f"its output {name!r}", zero_allowed=False)

    def _attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        from onnx import helper

        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.domain == ONNX_DOMAIN:
            allowed = converters.ATTRIBUTES[node.op_type]
            for name in attributes.keys() - allowed.keys():
                raise ModelError(f"unknown attribute {name!r}, allowed: {', '.join(allowed)}")
            for name, needed in allowed.items():
                if needed and name not in attributes:
                    raise ModelError(f"attribute {name!r} is missing")
        return attributes

    def _place(self, node: onnx.NodeProto, index: int | None = None) -> str:
        name = repr(node.name) if node.name else f"giving {node.output[0]!r}" if node.output else f"number {index}"
        return f"{self._where}: node {name} ({node.domain or 'ai.onnx'}.{node.op_type})"
