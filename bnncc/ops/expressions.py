"""Reading Relax: the operator that an expression calls, the extents, element type and value of a tensor.

`View` is the base of typed views: one class for each operator that passes and kernel selection read, with a name for
every operand and number. Ours stand beside their operators, TVM's in bnncc/ops/standard.py. Nothing else looks into
`call.args` or `call.attrs`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy.typing as npt

from bnncc.ops.window import Pads, Pair

if TYPE_CHECKING:
    from tvm import relax

Array = npt.NDArray[Any]


def operator(value: relax.Expr) -> str:
    """The operator that a call calls, as in `R.<name>`; "" for anything else."""
    from tvm import relax
    from tvm.ir import Op

    return value.op.name.removeprefix("relax.") if isinstance(value, relax.Call) and isinstance(value.op, Op) else ""


def is_constant(value: relax.Expr) -> bool:
    """Whether `value` is a tensor constant."""
    from tvm.ir import GenericConst

    return isinstance(value, GenericConst)


def array(constant: relax.Expr) -> Array:
    """The value of a tensor constant."""
    value: Array = constant.value.numpy()
    return value


def extents(tensor: relax.Expr) -> tuple[int, ...]:
    """The extents of a tensor of fixed shape."""
    return tuple(int(extent) for extent in tensor.ty.shape.values)


def dtype(tensor: relax.Expr) -> str:
    """The element type of a tensor, as numpy names it."""
    return str(tensor.ty.dtype)


def is_per_channel(constant: relax.Expr, result: tuple[int, ...]) -> bool:
    """Whether a constant is a scalar, or one value for each channel: the last axis of `result`."""
    found = extents(constant)
    size = 1
    for extent in found:
        size *= extent
    return size == 1 or (bool(found) and found[-1] == size == result[-1])


def ints(values: Iterable[Any] | relax.ShapeExpr | None) -> tuple[int, ...]:
    """Integers of an `R.shape` argument or of an attribute; () for an attribute that is not there."""
    return tuple(int(value) for value in getattr(values, "values", values) or ())


def pair(values: Iterable[Any] | relax.ShapeExpr) -> Pair:
    """Rows and columns: two integers of an argument or attribute."""
    first, second = ints(values)
    return first, second


def pads(values: Iterable[Any] | relax.ShapeExpr) -> Pads:
    """(top, left, bottom, right) of an argument or attribute."""
    top, left, bottom, right = ints(values)
    return top, left, bottom, right


@dataclass(frozen=True, eq=False)
class View:
    """A call of one operator, read. Subclasses name its operands and numbers, and say how `of` finds them."""

    OPERATOR: ClassVar[str]  # as in `R.<name>`

    call: relax.Call

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        """The view of a call of this operator."""
        raise NotImplementedError

    @classmethod
    def match(cls, value: relax.Expr) -> Self | None:
        """The view of `value` if it is a call of this operator, else None."""
        return cls.of(value) if operator(value) == cls.OPERATOR else None
