"""The Relax part of Binarize: `R.bnncc.binarize(x, unipolar, threshold)`, float32 of any shape to the same shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bnncc.ops import arguments

if TYPE_CHECKING:
    from tvm import relax

RELAX = "relax.bnncc.binarize"


class Parameters(NamedTuple):
    """The numbers of one call."""

    unipolar: bool
    threshold: float


def call(x: Any, unipolar: Any = 0, threshold: Any = 0.0, span: Any = None) -> relax.Call:
    """The Relax call; numbers may be Python's or Relax's."""
    return arguments.make(RELAX, [x, arguments.integer(unipolar), arguments.real(threshold)], span)


def parameters(call: relax.Call) -> Parameters:
    """What `call` was given beside its tensors."""
    return Parameters(unipolar=bool(int(call.args[1])), threshold=float(call.args[2].value))


def infer(call: relax.Call, context: Any) -> Any:
    """FInferType. A symbolic shape is kept as it is."""
    from tvm import relax

    kind = call.args[0].ty
    is_float = isinstance(kind, relax.TensorType) and str(kind.dtype) == "float32"
    arguments.require(is_float, RELAX, f"x is {kind}; it must be a float32 tensor")
    unipolar = int(call.args[1])
    arguments.require(unipolar in (0, 1), RELAX, f"unipolar is {unipolar}, allowed: 0, 1")
    return kind


def lower(builder: Any, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import te, tirx

    unipolar, threshold = parameters(call)

    def compute(x: Any) -> Any:
        def value(*index: Any) -> Any:
            if unipolar:
                return tirx.Select(x[index] > tirx.const(threshold, "float32"), tirx.const(1.0), tirx.const(0.0))
            return tirx.Select(x[index] >= tirx.const(0.0), tirx.const(1.0), tirx.const(-1.0))

        return te.compute(x.shape, value, name="signs")

    return builder.call_te(compute, call.args[0], primfunc_name_hint="binarize")
