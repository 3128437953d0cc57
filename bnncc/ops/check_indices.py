"""CheckIndices: indices that are known at run time only, counted from the front; one that is outside fails the run.

Relax: `R.bnncc.check_indices(x, extents)`. x is int32 or int64 of any rank; extents are those of the axes that the
indices go along: one for all, or one for each place of the last axis of x. The result has the shape and type of x:

    y = x where 0 <= x < extent, x + extent where -extent <= x < 0

Any other index becomes the nearest one inside, so that nothing else is read, and is reported: after the run the arena
says which index it was, and of which check (see runtime/abi.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from bnncc.ops import arguments
from bnncc.ops.expressions import Array, View

if TYPE_CHECKING:
    import tvm
    from tvm import relax, te

    from bnncc.ops.arguments import Shape

RELAX = "relax.bnncc.check_indices"


@dataclass(frozen=True, eq=False)
class CheckIndices(View):
    """One call."""

    OPERATOR: ClassVar[str] = "bnncc.check_indices"

    x: relax.Expr
    extents: tuple[int, ...]

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        x, extents = call.args
        return cls(call, x, tuple(int(extent) for extent in extents.values))


def meaning(x: Array, *, extents: tuple[int, ...]) -> Array:
    """int32 or int64 of any shape -> the same, every index inside."""
    limit = np.array(extents, np.int64)
    counted = np.where(x < 0, np.maximum(x, -limit) + limit, np.minimum(x, limit - 1))
    return counted.reshape(x.shape).astype(x.dtype)


def call(x: relax.Expr, extents: Shape, span: tvm.ir.Span | None = None) -> relax.Call:
    """The Relax call. span: names the tensor that the error of a run names."""
    return arguments.make(RELAX, [x, arguments.shape(extents)], span)


def infer(call: relax.Call, context: relax.BlockBuilder) -> relax.TensorType:
    """FInferType."""
    from tvm import relax

    check, kind = CheckIndices.of(call), call.args[0].ty
    is_index = isinstance(kind, relax.TensorType) and str(kind.dtype) in ("int32", "int64")
    arguments.require(is_index, RELAX, f"x is {kind}; it must be an int32 or int64 tensor")
    shape = arguments.static_shape(RELAX, "x", check.x, None, str(kind.dtype))
    allowed = (1, *shape[-1:])
    arguments.require(len(check.extents) in allowed, RELAX, f"{len(check.extents)} extents for indices {shape}")
    arguments.require(
        all(0 < e < 1 << 31 for e in check.extents), RELAX, f"extents {check.extents}, allowed: 1 to 2^31 - 1"
    )
    return arguments.tensor_type(shape, str(kind.dtype))


def lower(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize: the values; nothing is reported."""
    from tvm import te, tirx

    check = CheckIndices.of(call)
    kind = str(check.x.ty.dtype)

    def compute(x: te.Tensor) -> te.Tensor:
        def value(*at: tirx.Var) -> relax.Expr:
            extent = tirx.const(check.extents[-1], kind)
            for place, other in enumerate(check.extents[:-1]):
                extent = tirx.Select(at[-1] == place, tirx.const(other, kind), extent)
            index = x(*at)
            return tirx.Select(index < 0, tirx.max(index, -extent) + extent, tirx.min(index, extent - 1))

        return te.compute(x.shape, value, name="indices")

    return builder.call_te(compute, check.x, primfunc_name_hint="check_indices")
