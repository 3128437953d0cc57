"""What a recogniser asks about an ONNX graph, and how it puts nodes into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx


class Graph:
    """The nodes of a graph by what they give, its constants, and names that are free."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._taken = {*self.makers, *self._weights, *self._types, *(node.name for node in graph.node)}

    def maker(self, name: str, op: str) -> onnx.NodeProto | None:
        """The standard node of that operator which gives a tensor."""
        node = self.makers.get(name)
        return node if node is not None and node.domain in ("", "ai.onnx") and node.op_type == op else None

    def constant(self, name: str) -> npt.NDArray[np.generic] | None:
        """The value of an initializer, of a Constant, or of an Identity of one."""
        from onnx import helper, numpy_helper

        if name in self._weights:
            found: npt.NDArray[np.generic] = numpy_helper.to_array(self._weights[name])
            return found
        identity, node = self.maker(name, "Identity"), self.maker(name, "Constant")
        if identity is not None and identity.input[0] != name:
            return self.constant(identity.input[0])
        if node is None or len(node.attribute) != 1:
            return None
        value = helper.get_attribute_value(node.attribute[0])
        if node.attribute[0].name == "value":
            return np.asarray(numpy_helper.to_array(value))
        kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        kind = kinds.get(node.attribute[0].name)
        return None if kind is None else np.asarray(value, dtype=kind)

    def fresh(self, hint: str) -> str:
        """A name like `hint` that nothing has."""
        name, count = hint, 1
        while name in self._taken:
            name, count = f"{hint}_{count}", count + 1
        self._taken.add(name)
        return name

    def add_constant(self, hint: str, value: npt.NDArray[np.generic]) -> str:
        """A new initializer."""
        from onnx import numpy_helper

        name = self.fresh(hint)
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.graph.initializer.append(tensor)
        self._weights[name] = tensor
        return name

    def replace(self, changes: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
        """Put nodes in the place of those that give the named tensors; drop what is then read by nobody."""
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            found = next((changes[name] for name in node.output if name in changes), None)
            nodes += [node] if found is None else found
        outputs = {value.name for value in self.graph.output}
        while True:
            read = outputs | {name for node in nodes for name in node.input}
            kept = [node for node in nodes if any(name in read for name in node.output) or _has_body(node)]
            if len(kept) == len(nodes):
                break
            nodes = kept
        del self.graph.node[:]
        self.graph.node.extend(nodes)


def _has_body(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") for attribute in node.attribute)
