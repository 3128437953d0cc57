"""ONNX file -> Relax module with one function `main`: one dataflow block, every tensor of fixed shape, weights inside.

Operators of the domain bnncc are matched by name; the bodies that the file brings for other runtimes are never read.
Convolutions, pools and matrix products carry the ONNX node's name as their span's source name, which passes keep.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import tvm
from tvm import relax
from tvm.ir import GenericConst
from tvm.relax.frontend.onnx import onnx_frontend

from bnncc.frontend import dialects, node_types, onnx_file
from bnncc.frontend.converters import CONVERTERS, binary, standard
from bnncc.frontend.node import Node
from bnncc.ops import ONNX_DOMAIN, spans
from bnncc.ops.relax import register
from bnncc.runtime.errors import ModelError
from bnncc.tvm_lock import tvm_lock

if TYPE_CHECKING:
    import onnx

# What ONNX computes from constants alone is computed on import, but for the operators that would take long.
NOT_FOLDED = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "Constant"})
# Operators that compute something from no constant input.
ALWAYS_FOLDED = frozenset({"ConstantOfShape", "Range"})


class Imported(NamedTuple):
    """A network as Relax. `inputs` and `outputs` are ONNX names, in the order of main's parameters and results;
    `recognised` says what each dialect rewrote and left alone."""

    module: tvm.IRModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    recognised: tuple[dialects.Record, ...] = ()


def from_onnx(source: str | Path | bytes | onnx.ModelProto, shapes: onnx_file.Shapes | None = None) -> Imported:
    """Import a network. shapes: input name -> shape for inputs with free dimensions. Raises ModelError, OptionError."""
    register()
    model, where = onnx_file.read(source, shapes)
    del model.functions[:]
    recognised = dialects.apply(model)
    inputs = onnx_file.input_names(model)
    outputs = tuple(value.name for value in model.graph.output)
    if not inputs:
        raise ModelError(f"{where}: the graph has no input")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 18)
    adapter = _Graph(where)
    with tvm_lock.here(), _silent():
        try:
            module = adapter.from_onnx(model.graph, opset)
        except ModelError:
            adapter.abandon()
            raise
    result = module["main"].ret_ty
    for name, kind in zip(outputs, result.fields if isinstance(result, relax.TupleType) else [result], strict=True):
        if not isinstance(kind, relax.TensorType):
            raise ModelError(f"{where}: output {name!r} is {kind}; it must be a tensor")
    return Imported(module, inputs, outputs, recognised)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """TVM's importer prints the inputs of a node it cannot convert, and warns about names. Standard output and the
    filters of warnings are the whole process's, so only what that one module calls is replaced."""
    names, warn = vars(onnx_frontend), onnx_frontend.warnings
    names["print"], names["warnings"] = _nothing, SimpleNamespace(warn=_nothing)
    try:
        yield
    finally:
        del names["print"]
        names["warnings"] = warn


def _nothing(*_: object, **__: object) -> None:
    """Says nothing."""


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
        for node in graph.node:
            domain = _domain(node)
            is_folded = not domain and node.op_type in ALWAYS_FOLDED
            if (domain, node.op_type) in CONVERTERS or (not domain and node.op_type in standard.CHECKS) or is_folded:
                continue
            raise ModelError(
                f"{self._place(node)}: no such operator here; supported: standard ONNX without control flow, random "
                f"numbers and sequences, and {', '.join(binary.ATTRIBUTES)}"
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
        domain, span = _domain(node), spans.named(node.name or f"{node.op_type}_{index}")
        given = {name: self._nodes[name] for name in node.input if name}
        convert = CONVERTERS.get((domain, node.op_type))
        kinds: tuple[node_types.Kind | None, ...] = ()
        if not domain:
            try:
                kinds = node_types.infer(node, self.opset, given)
            except ModelError:
                if convert is not None:
                    convert(self._node(node, given, span, kinds))  # says more precisely what is wrong, if it knows
                raise
            if self._fold(node, given, kinds):
                return
        ours = self._node(node, given, span, kinds)
        if convert is not None:
            self._nodes[node.output[0]] = convert(ours)
        elif node.op_type in standard.CHECKS:
            standard.CHECKS[node.op_type](ours)
            super()._construct_nodes(SimpleNamespace(node=[node]))
        else:
            raise ModelError("what it gives depends on the network's inputs; it must be constant")
        self._finish(node, span, kinds)

    def _node(
        self,
        node: onnx.NodeProto,
        given: dict[str, relax.Expr],
        span: tvm.ir.Span,
        kinds: tuple[node_types.Kind | None, ...],
    ) -> Node:
        inputs = tuple(given[name] if name else None for name in node.input)
        outputs = len([name for name in node.output if name])
        return Node(inputs, self._attributes(node), span, self.bb.emit, outputs, self.opset, kinds, tuple(node.input))

    def _finish(self, node: onnx.NodeProto, span: tvm.ir.Span, kinds: Sequence[node_types.Kind | None]) -> None:
        """Bind the results to variables, and see that they are what ONNX says."""
        for name, kind in zip(node.output, kinds or [None] * len(node.output), strict=True):
            if not name:
                continue
            value = self._nodes[name]
            if isinstance(value, relax.Call | relax.TupleGetItem):
                if isinstance(value, relax.Call) and value.span is None:
                    value = spans.marked(value, span)
                self._nodes[name] = value = self.bb.emit(value)
            if isinstance(value.ty, relax.TensorType):
                node_types.check(value, kind, f"its output {name!r}")

    def _fold(
        self, node: onnx.NodeProto, given: dict[str, relax.Expr], kinds: Sequence[node_types.Kind | None]
    ) -> bool:
        """Compute a node of constants alone; whether that was done."""
        is_constant = all(isinstance(value, GenericConst) for value in given.values())
        if not is_constant or not given or node.op_type in NOT_FOLDED:
            return False
        arrays = {name: value.value.numpy() for name, value in given.items()}
        found = node_types.fold(node, self.opset, arrays, kinds)
        if found is None:
            return False
        for name, array in zip([name for name in node.output if name], found, strict=True):
            self._nodes[name] = relax.const(array, str(array.dtype))
        return True

    def _attributes(self, node: onnx.NodeProto) -> dict[str, object]:
        from onnx import helper

        attributes: dict[str, object] = {}
        for attribute in node.attribute:
            attributes[attribute.name] = helper.get_attribute_value(attribute)
        if node.domain == ONNX_DOMAIN:
            allowed = binary.ATTRIBUTES[node.op_type]
            for name in attributes.keys() - allowed.keys():
                raise ModelError(f"unknown attribute {name!r}, allowed: {', '.join(allowed)}")
            for name, needed in allowed.items():
                if needed and name not in attributes:
                    raise ModelError(f"attribute {name!r} is missing")
            inputs = len([name for name in node.input if name])
            if (inputs, len(node.input), len(node.output)) != (binary.INPUTS[node.op_type],) * 2 + (1,):
                raise ModelError(
                    f"{inputs} inputs and {len(node.output)} outputs; needed: {binary.INPUTS[node.op_type]} and 1"
                )
        return attributes

    def _place(self, node: onnx.NodeProto, index: int | None = None) -> str:
        name = repr(node.name) if node.name else f"giving {node.output[0]!r}" if node.output else f"number {index}"
        return f"{self._where}: node {name} ({node.domain or 'ai.onnx'}.{node.op_type})"


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else str(node.domain)
