"""One ONNX node as a converter sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tvm import relax, tirx
from tvm.ir import GenericConst, Span

from bnncc.runtime.errors import ModelError

if TYPE_CHECKING:
    from bnncc.frontend.node_types import Kind

# The largest number that an attribute may give for a stride, a pad or the like.
MOST = 2**31 - 1


@dataclass(frozen=True)
class Node:
    """One ONNX node. `emit` binds an expression to a variable, so that its type is known. `kinds`: what ONNX's own type
    inference says of each output. `outputs`: how many of them have a name. `names`: those of the inputs in the file."""

    inputs: tuple[relax.Expr | None, ...]
    attributes: Mapping[str, object]
    span: Span | None
    emit: Callable[[relax.Expr], relax.Expr]
    outputs: int = 1
    opset: int = 18
    kinds: tuple[Kind | None, ...] = field(default=())
    names: tuple[str, ...] = field(default=())

    @property
    def x(self) -> relax.Expr:
        """The first input."""
        return self.inputs[0]

    def shape(self, index: int) -> tuple[int, ...]:
        """The extents of an input."""
        return shape_of(self.inputs[index])

    def dtype(self, index: int) -> str:
        """The element type of an input, as numpy names it."""
        return dtype_of(self.inputs[index])

    def given(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def array(self, index: int, what: str) -> npt.NDArray[np.generic]:
        """The value of an input that must be a weight, and a finite one."""
        found = self.constant(index, what)
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise ModelError(f"{what} holds NaN or infinity; train or export again")
        return found

    def constant(self, index: int, what: str) -> npt.NDArray[np.generic]:
        """The value of an input that must not depend on the network's inputs."""
        value = self.inputs[index]
        if not isinstance(value, GenericConst):
            raise ModelError(f"{what} is computed at run time; it must be a weight of the file")
        found: npt.NDArray[np.generic] = value.value.numpy()
        return found

    def numbers(self, index: int, what: str) -> tuple[int, ...]:
        """The integers of a constant input."""
        return tuple(int(value) for value in self.constant(index, what).reshape(-1))

    def ints(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """An attribute of one number for each spatial axis."""
        found = self.attributes.get(name, default)
        values = tuple(found) if isinstance(found, list | tuple) else (found,)
        if len(values) != len(default) or not all(isinstance(v, int) for v in values):
            raise ModelError(f"{name} is {found}; it must be {len(default)} whole numbers")
        least = 0 if name == "pads" else 1
        if any(not least <= v <= MOST for v in values):
            raise ModelError(f"{name} is {values}, each must be in {least} to {MOST}")
        return values

    def integer(self, name: str, default: int) -> int:
        """An attribute that is one whole number."""
        found = self.attributes.get(name, default)
        if not isinstance(found, int):
            raise ModelError(f"{name} is {found}; it must be a whole number")
        return found

    def real(self, name: str, default: float) -> float:
        """An attribute that is one number."""
        found = self.attributes.get(name, default)
        if not isinstance(found, int | float):
            raise ModelError(f"{name} is {found}; it must be a number")
        return float(found)

    def text(self, name: str, default: str) -> str:
        """An attribute that is a word."""
        found = self.attributes.get(name, default)
        if isinstance(found, bytes):
            found = found.decode("utf-8", "replace")
        if not isinstance(found, str):
            raise ModelError(f"{name} is {found}; it must be a word")
        return found

    def axis(self, default: int, rank: int | None = None) -> int:
        """The attribute `axis`, counted from the front, of the first input or of a tensor of `rank`."""
        rank = len(self.shape(0)) if rank is None else rank
        found = self.integer("axis", default)
        if not -rank <= found < max(rank, 1):
            raise ModelError(f"axis is {found}; allowed for {rank} axes: {-rank} to {rank - 1}")
        return found % max(rank, 1)

    def result_shape(self) -> tuple[int, ...]:
        """The extents that ONNX's inference gives the first output."""
        kind = self.kinds[0] if self.kinds else None
        if kind is None or kind.shape is None or not all(isinstance(extent, int) for extent in kind.shape):
            raise ModelError("the shape of its result depends on the data; export the model with fixed shapes")
        return tuple(int(extent or 0) for extent in kind.shape)


def shape_of(expression: relax.Expr) -> tuple[int, ...]:
    """The extents of a tensor; ModelError when they are not fixed."""
    kind = expression.ty
    if not isinstance(kind, relax.TensorType) or not isinstance(kind.shape, relax.ShapeExpr):
        raise ModelError(f"a tensor of unknown shape ({kind}); fix the input shapes with --shape")
    if not all(isinstance(extent, tirx.IntImm) for extent in kind.shape.values):
        raise ModelError(f"a tensor of shape {kind.shape}, which depends on the data")
    return tuple(int(extent) for extent in kind.shape.values)


def dtype_of(expression: relax.Expr) -> str:
    """The element type of a tensor."""
    return str(expression.ty.dtype)
