"""One ONNX node as a converter sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax, tirx
from tvm.ir import GenericConst

from bnncc.runtime.errors import ModelError


@dataclass(frozen=True)
class Node:
    """One ONNX node. `emit` binds an expression to a variable, so that its type is known."""

    inputs: tuple[Any, ...]
    attributes: dict[str, Any]
    span: Any
    emit: Callable[[Any], Any]
    outputs: int = 1

    def shape(self, index: int) -> tuple[int, ...]:
        """The extents of an input."""
        return shape_of(self.inputs[index])

    def given(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def array(self, index: int, what: str) -> npt.NDArray[Any]:
        """The value of an input that must be a weight, and a finite one."""
        value = self.inputs[index]
        if not isinstance(value, GenericConst):
            raise ModelError(f"{what} is computed at run time; it must be a weight of the file")
        found: npt.NDArray[Any] = value.value.numpy()
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise ModelError(f"{what} holds NaN or infinity; train or export again")
        return found

    def ints(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """An attribute of one number for each spatial axis."""
        values = tuple(int(v) for v in self.attributes.get(name, default))
        if len(values) != len(default) or any(v < (0 if name == "pads" else 1) for v in values):
            raise ModelError(f"{name} is {values}; it must be {len(default)} numbers, each in range")
        return values


def shape_of(expression: Any) -> tuple[int, ...]:
    """The extents of a tensor; ModelError when they are not fixed."""
    kind = expression.ty
    if not isinstance(kind, relax.TensorType) or not isinstance(kind.shape, relax.ShapeExpr):
        raise ModelError(f"a tensor of unknown shape ({kind}); fix the input shapes with --shape")
    if not all(isinstance(extent, tirx.IntImm) for extent in kind.shape.values):
        raise ModelError(f"a tensor of shape {kind.shape}, which depends on the data")
    return tuple(int(extent) for extent in kind.shape.values)
