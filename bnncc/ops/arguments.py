"""Between Python numbers and the arguments of a Relax call: an operator registered from Python has no attributes, so
its parameters are arguments, integers and floats as `PrimExpr`, tuples of integers as `R.shape([...])`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from bnncc.ops.expressions import Array

if TYPE_CHECKING:
    import tvm
    from tvm import relax

    # What `call` of an operator takes: Python's values, or Relax's as TVMScript parses them.
    Integer: TypeAlias = int | relax.Expr
    Real: TypeAlias = float | relax.Expr
    Tensor: TypeAlias = float | Array | relax.Expr
    Shape: TypeAlias = tuple[int, ...] | list[int] | relax.Expr


def shape(values: Shape) -> relax.ShapeExpr:
    """A tuple of ints, or what already is a Relax expression, as `R.shape`."""
    from tvm import relax

    return relax.ShapeExpr([int(v) for v in values]) if isinstance(values, tuple | list) else values


def integer(value: Integer) -> relax.Expr:
    """An int, or what already is a Relax expression, as an int64 value."""
    from tvm import relax

    return relax.prim_value(int(value)) if isinstance(value, int) else value


def real(value: Real) -> relax.Expr:
    """A float, or what already is a Relax expression, as a float32 value."""
    from tvm import tirx

    return tirx.FloatImm("float32", float(value)) if isinstance(value, float | int) else value


def constant(value: Tensor, dtype: str) -> relax.Expr:
    """A number or numpy array, or what already is a Relax expression, as a tensor constant."""
    from tvm import relax

    if isinstance(value, float | int | np.ndarray | np.generic):
        return relax.const(np.asarray(value, dtype=dtype), dtype)
    return value


def make(name: str, arguments: Sequence[relax.Expr], span: tvm.ir.Span | None) -> relax.Call:
    """A call of the operator `name`."""
    import tvm
    from tvm import relax

    return relax.Call(tvm.ir.Op.get(name), list(arguments), span=span)


def static_shape(name: str, argument: str, expression: relax.Expr, rank: int | None, dtype: str) -> tuple[int, ...]:
    """The shape of a tensor argument. ValueError unless it has that rank (None: any), dtype and only fixed extents."""
    from tvm import relax, tirx

    kind = expression.ty
    if not isinstance(kind, relax.TensorType):
        raise ValueError(f"{name}: {argument} is {kind}; it must be a tensor")
    if str(kind.dtype) != dtype:
        raise ValueError(f"{name}: {argument} is {kind.dtype}; it must be {dtype}")
    if not isinstance(kind.shape, relax.ShapeExpr) or not all(isinstance(v, tirx.IntImm) for v in kind.shape.values):
        raise ValueError(f"{name}: {argument} has shape {kind.shape}; every extent must be a known number")
    extents = tuple(int(v) for v in kind.shape.values)
    if rank is not None and len(extents) != rank:
        raise ValueError(f"{name}: {argument} has shape {extents}; it must have {rank} dimensions")
    return extents


def tensor_type(extents: Sequence[int], dtype: str) -> relax.TensorType:
    """The type of a tensor with fixed extents."""
    from tvm import relax

    return relax.TensorType([int(v) for v in extents], dtype)


def require(condition: bool, name: str, message: str) -> None:
    """ValueError, naming the operator, unless the condition holds."""
    if not condition:
        raise ValueError(f"{name}: {message}")
