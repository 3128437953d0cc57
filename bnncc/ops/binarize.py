"""Binarize: real numbers to one of two values.

    signs (unipolar = 0):  y = +1 where x >= 0, else -1          sign(0) = +1, sign(-0.0) = +1, NaN -> -1
    bits  (unipolar = 1):  y = 1 where x > threshold, else 0     strictly above; NaN -> 0

ONNX attributes: ``unipolar`` INT (default 0), ``threshold`` FLOAT (default 0; read only where unipolar = 1).
x and y are float32 of the same shape, any rank and layout.

Relax: `R.bnncc.binarize(x, unipolar, threshold)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments
from bnncc.ops.expressions import View

if TYPE_CHECKING:
    import onnx
    import tvm
    from tvm import relax, te

    from bnncc.ops.arguments import Integer, Real

NAME = "Binarize"
RELAX = "relax.bnncc.binarize"


def meaning(x: npt.NDArray[np.float32], *, unipolar: bool = False, threshold: float = 0.0) -> npt.NDArray[np.float32]:
    """The specification: float32 of any shape -> the same shape in {-1, +1}, or {0, 1} where `unipolar`."""
    if unipolar:
        return (x > np.float32(threshold)).astype(np.float32)
    return np.where(x >= 0, np.float32(1), np.float32(-1))


def function() -> onnx.FunctionProto:
    """The ONNX body. The If tests an attribute, so a runtime folds it away when it loads the file."""
    import onnx.parser

    return onnx.parser.parse_function("""
        <domain: "bnncc", opset_import: ["" : 18]>
        Binarize <unipolar: int = 0, threshold: float = 0.0> (x) => (y)
        {
            flag = Constant <value_int: int = @unipolar> ()
            is_unipolar = Cast <to: int = 9> (flag)
            y = If (is_unipolar) <
                then_branch = bits () => (bit)
                {
                    limit = Constant <value_float: float = @threshold> ()
                    above = Greater (x, limit)
                    bit = Cast <to: int = 1> (above)
                },
                else_branch = signs () => (sign)
                {
                    zero = Constant <value = float {0.0}> ()
                    up = Constant <value = float {1.0}> ()
                    down = Constant <value = float {-1.0}> ()
                    positive = GreaterOrEqual (x, zero)
                    sign = Where (positive, up, down)
                }
            >
        }
    """)


def schema() -> onnx.defs.OpSchema:
    """The ONNX signature, for tools that know the operator itself."""
    from onnx import defs, helper

    schema = defs.OpSchema(
        NAME,
        "bnncc",
        1,
        doc=__doc__ or "",
        inputs=[defs.OpSchema.FormalParameter("x", "tensor(float)")],
        outputs=[defs.OpSchema.FormalParameter("y", "tensor(float)")],
        attributes=[
            defs.OpSchema.Attribute("unipolar", helper.make_attribute("unipolar", 0)),
            defs.OpSchema.Attribute("threshold", helper.make_attribute("threshold", 0.0)),
        ],
    )
    schema.set_type_and_shape_inference_function(lambda ctx: ctx.set_output_type(0, ctx.get_input_type(0)))
    return schema


@dataclass(frozen=True, eq=False)
class Binarize(View):
    """One call."""

    OPERATOR: ClassVar[str] = "bnncc.binarize"

    x: relax.Expr
    unipolar: bool
    threshold: float

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        x, unipolar, threshold = call.args
        return cls(call, x, bool(int(unipolar)), float(threshold.value))


def call(x: relax.Expr, unipolar: Integer = 0, threshold: Real = 0.0, span: tvm.ir.Span | None = None) -> relax.Call:
    """The Relax call; numbers may be Python's or Relax's."""
    return arguments.make(RELAX, [x, arguments.integer(unipolar), arguments.real(threshold)], span)


def infer(call: relax.Call, context: relax.BlockBuilder) -> relax.TensorType:
    """FInferType. A symbolic shape is kept as it is."""
    from tvm import relax

    kind = call.args[0].ty
    is_float = isinstance(kind, relax.TensorType) and str(kind.dtype) == "float32"
    arguments.require(is_float, RELAX, f"x is {kind}; it must be a float32 tensor")
    unipolar = int(call.args[1])
    arguments.require(unipolar in (0, 1), RELAX, f"unipolar is {unipolar}, allowed: 0, 1")
    return kind


def lower(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import te, tirx

    sign = Binarize.of(call)

    def compute(x: te.Tensor) -> te.Tensor:
        def value(*index: tirx.Var) -> relax.Expr:
            if sign.unipolar:
                return tirx.Select(x[index] > tirx.const(sign.threshold, "float32"), tirx.const(1.0), tirx.const(0.0))
            return tirx.Select(x[index] >= tirx.const(0.0), tirx.const(1.0), tirx.const(-1.0))

        return te.compute(x.shape, value, name="signs")

    return builder.call_te(compute, sign.x, primfunc_name_hint="binarize")
