"""Random ONNX graphs of the operators that bnncc accepts, from a seed.

A graph grows node by node: a random operator is asked for a node over the tensors that are there, and ONNX's own shape
inference says what comes out. Values are small multiples of a power of two, and each tensor knows its largest magnitude
and that power, so that it is known where float32 still computes without rounding: only there do operators follow that
jump (signs, comparisons, rounding, casts), since elsewhere another order of the same sum may decide otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, shape_inference

from bnncc.ops import ONNX_DOMAIN, ONNX_VERSION
from bnncc.ops import onnx as operators

Array = npt.NDArray[Any]

OPSETS = range(9, 27)
# Give NaN or infinity.
WILD = frozenset(["Exp", "Log", "Sqrt", "Reciprocal", "Tan", "Acos", "Asin", "Atanh", "Acosh", "Pow"])
MOST_VALUES = 4000  # of one tensor
FLOATS, INTEGERS = ("float32", "float64"), ("int64", "int32", "int8", "uint8")


@dataclass(frozen=True)
class Tensor:
    """high: no value is larger in magnitude. step: every value is a multiple of it; 0 where rounding may differ.
    is_wild: may hold NaN or infinity."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    high: float
    step: float
    is_constant: bool = False
    is_wild: bool = False

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def is_exact(self) -> bool:
        return self.step > 0 or not self.is_float


@dataclass
class Graph:
    """A graph in the making."""

    rng: np.random.Generator
    opset: int
    with_nan: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    tensors: list[Tensor] = field(default_factory=list)
    inputs: dict[str, Array] = field(default_factory=dict)

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, options: Iterable[Any]) -> Any:
        listed = list(options)
        return listed[self.rng.integers(len(listed))] if listed else None

    def number(self, low: int, high: int) -> int:
        """low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def shape(self, rank: int) -> tuple[int, ...]:
        most = {1: 70, 2: 24, 3: 12, 4: 9, 5: 5, 6: 4}[max(rank, 1)]
        return tuple(self.number(1, most) for _ in range(rank))

    def values(self, dtype: str, shape: tuple[int, ...]) -> Array:
        if dtype == "bool":
            return self.rng.integers(0, 2, shape).astype(bool)
        if dtype in INTEGERS:
            return self.rng.integers(0 if dtype == "uint8" else -4, 5, shape).astype(dtype)
        return np.asarray(self.rng.integers(-16, 17, shape) / 4, dtype=dtype)

    def input(self, dtype: str, shape: tuple[int, ...]) -> Tensor:
        name, values = f"x{len(self.inputs)}", self.values(dtype, shape)
        if self.with_nan and dtype in FLOATS:
            values[self.rng.random(shape) < 0.1] = self.pick([np.nan, np.nan, np.inf, -np.inf])
        self.inputs[name] = values
        self.tensors.append(Tensor(name, dtype, shape, 4, 0.25, is_wild=self.with_nan))
        return self.tensors[-1]

    def constant(self, value: Any, dtype: str | None = None) -> Tensor:
        array = np.asarray(value, dtype=dtype)
        name = f"c{len(self.weights)}"
        self.weights[name] = array
        high = float(np.abs(array.astype(np.float64)).max(initial=0))
        return Tensor(name, array.dtype.name, array.shape, high, 2.0**-6, is_constant=True)

    def find(
        self, *dtypes: str, ranks: Iterable[int] = range(7), exact: bool = False, wild: bool = False
    ) -> Tensor | None:
        """One of the tensors there are, the latest most often."""
        found = [
            t
            for t in self.tensors
            if t.dtype in dtypes and len(t.shape) in ranks and (t.is_exact or not exact) and (wild or not t.is_wild)
        ]
        if not found:
            return None
        return found[-1] if self.chance(0.6) else self.pick(found)

    def other(self, x: Tensor) -> Tensor:
        """A second operand for x: a tensor of its type that broadcasts, or a constant."""
        fitting = [
            t
            for t in self.tensors
            if t.dtype == x.dtype and (x.is_wild or not t.is_wild) and _broadcasts(t.shape, x.shape)
        ]
        if fitting and self.chance(0.5):
            found: Tensor = self.pick(fitting)
            return found
        kind = self.number(0, 4)
        rank = len(x.shape)
        shape: tuple[int, ...] = x.shape
        if kind == 0 or not rank:
            shape = ()
        elif kind == 1:
            shape = (1,) * self.number(1, rank)
        elif kind == 2 and rank > 1:
            shape = (x.shape[1],) + (1,) * (rank - 2)
        elif kind == 3:
            shape = tuple(e if self.chance(0.5) else 1 for e in x.shape)[self.number(0, rank - 1) :]
        return self.constant(self.values(x.dtype, shape))

    def add(
        self,
        op: str,
        inputs: list[Tensor | None],
        high: float,
        step: float,
        outputs: int = 1,
        domain: str = "",
        shape: tuple[int, ...] | None = None,
        **attributes: Any,
    ) -> bool:
        """Append a node if ONNX finds it valid and its results small; whether it did."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        node = helper.make_node(op, [t.name if t else "" for t in inputs], names, domain=domain, **attributes)
        kinds = [("float32", shape)] if shape is not None else _infer(node, self.opset, inputs, self.weights)
        if kinds is None or any(s is None or not 0 < np.prod(s, dtype=np.int64) <= MOST_VALUES for _, s in kinds):
            return False
        self.nodes.append(node)
        for name, (dtype, extents) in zip(names, kinds, strict=True):
            assert extents is not None
            if dtype in INTEGERS and high > np.iinfo(dtype).max:
                self.nodes.pop()
                return False
            wild = op in WILD or any(t is not None and t.is_wild for t in inputs)
            bits = 20 if dtype == "float32" else 48
            exact = step > 0 and (dtype not in FLOATS or high / step < 2.0**bits)
            self.tensors.append(Tensor(name, dtype, extents, high, step if exact else 0.0, is_wild=wild))
        return True

    def model(self) -> onnx.ModelProto:
        """The graph with its last tensors, and some others, as outputs."""
        made = [t for t in self.tensors if t.name not in self.inputs]
        used = {name for node in self.nodes for name in node.input}
        outputs = [t for t in made if t.name not in used or self.chance(0.15)] or made[-1:]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info(n, _element(a.dtype.name), a.shape) for n, a in self.inputs.items()],
            [helper.make_tensor_value_info(t.name, _element(t.dtype), t.shape) for t in outputs],
            [numpy_helper.from_array(np.asarray(a), n) for n, a in self.weights.items()],
        )
        ours = any(node.domain for node in self.nodes)
        domains = [helper.make_opsetid("", self.opset)] + [helper.make_opsetid(ONNX_DOMAIN, ONNX_VERSION)] * ours
        functions = operators.functions() if ours else []
        return helper.make_model(graph, opset_imports=domains, ir_version=10, functions=functions)

    def roughness(self) -> float:
        """By how much float results may differ, absolutely: 0 where no tensor is rounded."""
        rough = [t.high for t in self.tensors if not t.is_exact]
        return 2e-5 * max([1.0, *rough]) if rough else 0.0


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return int(np.prod(np.broadcast_shapes(shape, to))) <= MOST_VALUES
    except ValueError:
        return False


def _element(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _infer(
    node: onnx.NodeProto, opset: int, inputs: list[Tensor | None], weights: dict[str, Array]
) -> list[tuple[str, tuple[int, ...] | None]] | None:
    """Type and extents of each output; None where the node is not valid."""
    types = {t.name: helper.make_tensor_type_proto(_element(t.dtype), t.shape) for t in inputs if t}
    data = {t.name: numpy_helper.from_array(weights[t.name], t.name) for t in inputs if t and t.name in weights}
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        found = shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=[helper.make_opsetid("", opset)]
        )
    except Exception:
        return None
    kinds: list[tuple[str, tuple[int, ...] | None]] = []
    for name in node.output:
        kind = found[name].tensor_type if name in found else None
        if kind is None or kind.elem_type not in _NAMES:
            return None
        known = kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim)
        kinds.append((_NAMES[kind.elem_type], tuple(d.dim_value for d in kind.shape.dim) if known else None))
    return kinds


_NAMES = {_element(name): name for name in (*FLOATS, *INTEGERS, "bool")}
Maker = Callable[[Graph], bool]


def random_graph(seed: int, number: int) -> Graph:
    """Graph `number` of a seed."""
    from tests.fuzz import operators

    rng = np.random.default_rng([seed, number])
    while True:
        opset = 18 if rng.random() < 0.25 else int(rng.integers(OPSETS.start, OPSETS.stop))
        graph = Graph(rng, opset, with_nan=bool(rng.random() < 0.1))
        makers = operators.NAN_SAFE if graph.with_nan else operators.ALL
        for _ in range(graph.number(1, 2)):
            rank = graph.pick([1, 2, 3, 3, 4, 4, 4, 4, 5, 6])
            dtype = graph.pick(["float32"] * 8 + ["float64", "int64", "int64", "int32", "bool", "uint8", "int8"])
            graph.input("float32" if graph.with_nan else dtype, graph.shape(rank))
        wanted = graph.number(1, 7)
        for _ in range(60):
            graph.pick(makers)(graph)
            if len(graph.nodes) >= wanted:
                break
        if graph.nodes:
            return graph
