"""A network taken apart, so that each layer is judged alone and one sign that flips does not spread.

Every Binarize is a place where the network can be cut: what it is fed is *given*, from the reference. Between such cuts
lie segments, of which there are three kinds, and all of them together hold every node of the network:

    sums     given -> Binarize -> binary layer                            its integers
    signs    given -> Binarize -> binary layer -> ... -> Binarize         the signs that the next binary layer is fed
    values   given -> Binarize -> binary layer -> ... -> outputs          floats

The compiler keeps signs packed only in front of a binary layer. So behind the last Binarize of a `signs` segment stands
a 1x1 binary layer whose weights are columns of a Hadamard matrix H of n >= channels rows: H'H = n, so H' * sums / n are
the signs again, exactly. Tensors that other parts of the network read, too, are outputs, since that decides how the
compiler fuses. `join` makes one model of many segments, which share nothing but weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from bnncc import bitpack
from bnncc.ops import ONNX_DOMAIN, ONNX_VERSION
from bnncc.ops.onnx import LAYERS, functions
from bnncc.runtime.array import Array

if TYPE_CHECKING:
    import onnx

# Above it a layer's own sums stand in for the probe, which would be larger than the network.
MOST_PROBED = 2048

Kind = Literal["sums", "signs", "values"]
Number = int | float


@dataclass(frozen=True)
class Check:
    """One output of a segment to compare. kind: what it holds. layer: the ONNX node it is about. source: for signs, the
    tensor whose sign is taken, "" where it is not just in front; threshold: what it is compared with. channels and
    groups: of signs."""

    output: str
    kind: Kind
    layer: str
    source: str = ""
    threshold: float = 0.0
    channels: int = 0
    groups: int = 1


@dataclass(frozen=True)
class Segment:
    """A part of a network, its tensors renamed. given: its inputs -> the network's tensors. weights: initializers."""

    name: str
    nodes: tuple[onnx.NodeProto, ...]
    given: Mapping[str, str]
    weights: Mapping[str, onnx.TensorProto]
    checks: tuple[Check, ...]


class Network:
    """A canonical ONNX model as a graph, to be cut."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = [value.name for value in model.graph.input if value.name not in self.weights]
        self.outputs = [value.name for value in model.graph.output]
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, set[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, set()).add(i)
        self.varies = set(self.inputs)  # what depends on the network's inputs; nodes are in topological order
        for node in self.nodes:
            if self.varies.intersection(node.input):
                self.varies.update(node.output)
        self.binarized = {node.input[0] for node in self.nodes if _is(node, "Binarize")}

    def label(self, index: int) -> str:
        """What a layer is called: its node's name, or its output's."""
        node = self.nodes[index]
        return str(node.name or node.output[0])

    def behind(self, targets: Iterable[str], stops: set[str]) -> list[int]:
        """The nodes that compute `targets` from `stops` and inputs, in order."""
        found: set[int] = set()
        waiting = list(targets)
        while waiting:
            name = waiting.pop()
            index = self.maker.get(name)
            if name in stops or index is None or index in found:
                continue
            found.add(index)
            waiting.extend(self.nodes[index].input)
        return sorted(found)

    def signs_of(self, name: str) -> list[int]:
        """The Binarize nodes that a tensor comes from."""
        found, seen, waiting = [], set(), [name]
        while waiting:
            index = self.maker.get(waiting.pop())
            if index is None or index in seen:
                continue
            seen.add(index)
            if _is(self.nodes[index], "Binarize"):
                found.append(index)
            else:
                waiting.extend(self.nodes[index].input)
        return found


@dataclass(frozen=True)
class Sign:
    """How a tensor is binarised. layer: the first binary layer that it feeds, or the Binarize itself."""

    layer: str
    unipolar: bool
    threshold: float

    def of(self, x: Array) -> Array:
        """bool of the same shape."""
        found: Array = x > np.float32(self.threshold) if self.unipolar else x >= 0
        return found


def signed(model: onnx.ModelProto) -> dict[str, Sign]:
    """The tensors that are binarised, but for the network's inputs, in its order."""
    network = Network(model)
    found = {}
    for name in sorted(network.binarized & network.maker.keys(), key=lambda name: network.maker[name]):
        index = min(i for i in network.readers[name] if _is(network.nodes[i], "Binarize"))
        fed = (i for i, node in enumerate(network.nodes) if _is(node, "BinaryConv", "BinaryGemm"))
        layer = next((i for i in fed if index in network.signs_of(network.nodes[i].input[0])), index)
        found[name] = Sign(network.label(layer), *_binarized(network.nodes[index]))
    return found


def with_outputs(model: onnx.ModelProto, names: Iterable[str], values: Mapping[str, Array]) -> onnx.ModelProto:
    """The model with further outputs, of the shapes of `values`."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    known = {output.name for output in made.graph.output}
    made.graph.output.extend(_info(name, values[name]) for name in names if name not in known)
    return made


def watched(model: onnx.ModelProto) -> list[str]:
    """The tensors of the network that segments are given."""
    network = Network(model)
    return sorted(network.binarized - set(network.inputs))


def segments(model: onnx.ModelProto, values: Mapping[str, Array]) -> list[Segment]:
    """Cut the network, in its order. values: arrays of the watched tensors and inputs, of which shapes are read."""
    network = Network(model)
    found: list[Segment] = []
    probed: set[str] = set()
    for index, node in enumerate(network.nodes):
        if not _is(node, *LAYERS):
            continue
        signs = network.signs_of(node.input[0])
        own = {network.nodes[i].input[0] for i in signs}
        probed |= own
        if not own <= set(network.inputs):
            found.append(_signs(network, index, signs, f"s{len(found)}"))
        found.append(_sums(network, index, f"s{len(found)}"))
    for name in sorted(network.binarized - probed - set(network.inputs), key=lambda n: network.maker[n]):
        found.append(_values(network, [name], network.binarized - {name}, f"s{len(found)}"))
    if ends := [name for name in network.outputs if name in network.varies and name not in network.binarized]:
        found.append(_values(network, ends, network.binarized, f"s{len(found)}"))
    return found


def join(model: onnx.ModelProto, parts: Iterable[Segment], values: Mapping[str, Array]) -> onnx.ModelProto:
    """One model of these segments; `values` give the shapes of what they are given."""
    from onnx import helper

    parts = list(parts)
    weights = {name: tensor for part in parts for name, tensor in part.weights.items()}
    graph = helper.make_graph(
        [node for part in parts for node in part.nodes],
        "segments",
        [_info(name, values[source]) for part in parts for name, source in part.given.items()],
        [helper.make_empty_tensor_value_info(check.output) for part in parts for check in part.checks],
        list(weights.values()),
    )
    imports = {entry.domain: entry.version for entry in model.opset_import} | {ONNX_DOMAIN: ONNX_VERSION}
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in imports.items()],
        ir_version=max(model.ir_version, 8),
        functions=functions(),
    )
    return _with_types(made, parts, values)


def given(parts: Iterable[Segment], values: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs of `join`."""
    return {name: values[source] for part in parts for name, source in part.given.items()}


def hadamard(channels: int) -> Array:
    """int32 [n, channels] of +-1 whose columns are orthogonal, n the power of two from `channels` up."""
    matrix = np.ones((1, 1), np.int32)
    while len(matrix) < channels:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    columns: Array = matrix[:, :channels]
    return columns


def decoded(check: Check, sums: Array) -> Array:
    """The signs [N, channels, ...] behind a probe's sums [N, groups * n, ...], as float64."""
    per_group = check.channels // check.groups
    matrix = hadamard(per_group)
    split = sums.reshape(len(sums), check.groups, len(matrix), -1).astype(np.float64)
    signs = np.einsum("ngox,oc->ngcx", split, matrix.astype(np.float64), optimize=True) / len(matrix)
    result: Array = signs.reshape(len(sums), check.channels, *sums.shape[2:])
    return result


def _is(node: onnx.NodeProto, *operators: str) -> bool:
    return node.domain == ONNX_DOMAIN and node.op_type in operators


def _sums(network: Network, index: int, prefix: str) -> Segment:
    output = network.nodes[index].output[0]
    stops = network.binarized - {output}  # a sign may be taken of the sums themselves
    nodes = network.behind([output], stops)
    return _renamed(network, nodes, stops, prefix, [Check(output, "sums", network.label(index))])


def _values(network: Network, targets: list[str], stops: set[str], prefix: str) -> Segment:
    nodes = network.behind(targets, stops)
    checks = [Check(name, "values", network.label(network.maker[name])) for name in targets]
    checks += _read_elsewhere(network, nodes, set(targets))
    return _renamed(network, nodes, stops, prefix, checks)


def _signs(network: Network, index: int, signs: list[int], prefix: str) -> Segment:
    """What feeds binary layer `index`, and a probe in its place."""
    layer = network.nodes[index]
    fed = layer.input[0]
    stops = network.binarized - {network.nodes[i].input[0] for i in signs} - {fed, layer.output[0]}
    nodes = network.behind([fed], stops)
    last = network.nodes[signs[0]]
    attributes = _attributes(layer)
    groups = _integer(attributes, "group", 1)
    channels = _integer(attributes, "channels", 0) * groups
    if channels // groups > MOST_PROBED:
        nodes, output = sorted({*nodes, index}), layer.output[0]
        checks = [Check(output, "sums", network.label(index))]
        return _renamed(network, nodes, stops, prefix, checks + _read_elsewhere(network, nodes, {output}))
    probe, weight = _probe(layer, attributes, channels, groups, f"{fed}/probe")
    _, limit = _binarized(last)
    source = last.input[0] if list(last.output) == [fed] else ""
    checks = [Check(probe.output[0], "signs", network.label(index), source, limit, channels, groups)]
    # What lies between the last sign and the layer is read packed, by other binary layers too.
    floats = [i for i in nodes if i not in network.behind([fed], network.binarized)]
    checks += _read_elsewhere(network, floats, set(), nodes)
    return _renamed(network, nodes, stops, prefix, checks, (probe,), {weight.name: weight})


def _probe(
    layer: onnx.NodeProto, attributes: Mapping[str, Number | list[int]], channels: int, groups: int, name: str
) -> tuple[onnx.NodeProto, onnx.TensorProto]:
    from onnx import helper, numpy_helper

    positive = hadamard(channels // groups) > 0
    if layer.op_type == "BinaryGemm":
        packed = bitpack.pack(positive)
        numbers: dict[str, int | list[int]] = {"channels": channels}
    else:
        kernel = attributes["kernel_shape"]
        assert isinstance(kernel, list)
        rank = len(kernel)
        packed = bitpack.pack(np.tile(positive, (groups, 1))[:, None, :])
        numbers = {"channels": channels // groups, "group": groups, "pads": [0] * (2 * rank)}
        for ones in ("kernel_shape", "strides", "dilations"):
            numbers[ones] = [1] * rank
    inputs = [layer.input[0], f"{name}/weight"]
    node = helper.make_node(layer.op_type, inputs, [name], name=name, domain=ONNX_DOMAIN, **numbers)
    return node, numpy_helper.from_array(packed, f"{name}/weight")


def _read_elsewhere(
    network: Network, nodes: list[int], known: set[str], inside: Iterable[int] | None = None
) -> list[Check]:
    """Floats of these nodes that nodes outside the segment read, too, or that the network gives."""
    there = set(nodes if inside is None else inside)
    checks = []
    for index in nodes:
        for name in network.nodes[index].output:
            if name in known or name not in network.varies or _is(network.nodes[index], "Binarize"):
                continue
            if name in network.outputs or network.readers.get(name, set()) - there:
                # As far as the segment reads it itself: else it is nothing that its fusion depends on.
                checks.append(Check(name, "values", network.label(index)))
    return checks


def _renamed(
    network: Network,
    nodes: list[int],
    stops: set[str],
    prefix: str,
    checks: list[Check],
    more: tuple[onnx.NodeProto, ...] = (),
    weights: Mapping[str, onnx.TensorProto] | None = None,
) -> Segment:
    import onnx

    known = network.weights | dict(weights or {})
    made, given, used = [], {}, {}
    for original in [*(network.nodes[i] for i in nodes), *more]:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        node.name = f"{prefix}/{original.name or original.output[0]}"
        for i, name in enumerate(node.input):
            if name in known:
                used[name] = known[name]
            elif name:
                node.input[i] = f"{prefix}/{name}"
                if name in stops or name in network.inputs:
                    given[node.input[i]] = name
        for i, name in enumerate(node.output):
            node.output[i] = f"{prefix}/{name}" if name else ""
        made.append(node)
    renamed = tuple(
        dataclasses.replace(c, output=f"{prefix}/{c.output}", source=f"{prefix}/{c.source}" if c.source else "")
        for c in checks
    )
    return Segment(prefix, tuple(made), given, used, renamed)


def _attributes(node: onnx.NodeProto) -> dict[str, Number | list[int]]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _binarized(node: onnx.NodeProto) -> tuple[bool, float]:
    """Whether a Binarize is unipolar, and the threshold."""
    attributes = _attributes(node)
    unipolar, threshold = bool(_integer(attributes, "unipolar", 0)), attributes.get("threshold", 0.0)
    assert isinstance(threshold, float)
    return unipolar, threshold if unipolar else 0.0


def _integer(attributes: Mapping[str, Number | list[int]], name: str, default: int) -> int:
    found = attributes.get(name, default)
    assert isinstance(found, int)
    return found


def _info(name: str, array: Array) -> onnx.ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _with_types(model: onnx.ModelProto, parts: list[Segment], values: Mapping[str, Array]) -> onnx.ModelProto:
    """Outputs get the types that onnxruntime finds."""
    from bnncc.verify.reference import Reference

    found = Reference(model, as_written=True).run(given(parts, values))
    infos = [_info(output.name, found[output.name]) for output in model.graph.output]
    del model.graph.output[:]
    model.graph.output.extend(infos)
    return model
