"""Names of an exported file: nodes after module paths, inputs and outputs as asked, constants after what reads them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from bnncc.frontend.translate import module_path
from bnncc.ops import ONNX_DOMAIN
from bnncc.ops.onnx import LAYERS

if TYPE_CHECKING:
    import onnx


def name(
    model: "onnx.ModelProto",
    module: nn.Module,
    inputs: Sequence[str],
    outputs: Sequence[str],
    parameters: Mapping[str, str],
) -> dict[str, str]:
    """Rename everything in place; each value's new name with its old one.

    A node is "layer1.0.conv1" where that module is one node or the node is its binary layer, else "layer1.0.add".
    `parameters` gives the paths of those constants that are the module's own.
    """
    graph = model.graph
    _separate_outputs(graph)
    taken = {*inputs, *outputs}
    renamed = dict(zip([value.name for value in graph.input], inputs, strict=True))
    renamed |= dict(zip([value.name for value in graph.output], outputs, strict=True))
    modules = dict(module.named_modules())
    paths = [_path(node) for node in graph.node]
    nodes_of = Counter(paths)
    for node, path in zip(graph.node, paths, strict=True):
        whole = node.domain == ONNX_DOMAIN and node.op_type in LAYERS
        whole = whole or (nodes_of[path] == 1 and not list(modules.get(path, nn.Module()).children()))
        wanted = path if path and whole else ".".join(filter(None, (path, node.op_type.lower())))
        node.name = _unused(wanted, taken)
        for i, output in enumerate(node.output):
            if output and output not in renamed:
                renamed[output] = node.name if i == 0 else _unused(f"{node.name}.{i}", taken)
    _name_constants(graph, parameters, renamed, taken)
    _rename(graph, renamed)
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model):
        del value.metadata_props[:]
    graph.name = "main_graph"
    return {new: old for old, new in renamed.items()}


def _path(node: "onnx.NodeProto") -> str:
    return module_path({prop.key: prop.value for prop in node.metadata_props})


def _separate_outputs(graph: "onnx.GraphProto") -> None:
    """An output that is also an input, a constant or another output becomes a copy: it needs a name of its own."""
    from onnx import helper

    seen = {value.name for value in (*graph.input, *graph.initializer)}
    for output in graph.output:
        if output.name in seen:
            copy = _unused(f"{output.name}.copy", seen)
            graph.node.append(helper.make_node("Identity", [output.name], [copy]))
            output.name = copy
        seen.add(output.name)


def _name_constants(
    graph: "onnx.GraphProto", parameters: Mapping[str, str], renamed: dict[str, str], taken: set[str]
) -> None:
    reader: dict[str, onnx.NodeProto] = {}
    for node in reversed(graph.node):
        reader |= dict.fromkeys(node.input, node)
    for tensor in graph.initializer:
        kind = "packed" if tensor.name.endswith(".bits") else "constant"
        wanted = parameters.get(tensor.name)
        if wanted is None:
            wanted = f"{reader[tensor.name].name}.{kind}" if tensor.name in reader else kind
        renamed[tensor.name] = _unused(".".join(p for p in wanted.split(".") if p != "_orig_mod"), taken)


def _rename(graph: "onnx.GraphProto", renamed: Mapping[str, str]) -> None:
    for values in (graph.input, graph.output, graph.value_info, graph.initializer):
        for value in values:
            value.name = renamed.get(value.name, value.name)
    constants = {value.name for value in graph.initializer}
    kept = [value for value in graph.value_info if value.name not in constants]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    for node in graph.node:
        node.input[:] = [renamed.get(value, value) for value in node.input]
        node.output[:] = [renamed.get(value, value) for value in node.output]
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                inside = {output for inner in body.node for output in inner.output} | {v.name for v in body.input}
                _rename(body, {old: new for old, new in renamed.items() if old not in inside})


def _unused(name: str, taken: set[str]) -> str:
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
