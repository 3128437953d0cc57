"""PReLU and LeakyReLU as ONNX and onnxruntime mean them: slope * x where x < 0, else x, which keeps 0, -0 and NaN.

TVM's own legalisation asks x > 0 and turns 0 into slope * 0. These take its place, so that an operator without a
kernel of ours gives the same bits as a fused one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bnncc.ops.standard import PRelu

if TYPE_CHECKING:
    from tvm import relax, te


def lower_prelu(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize of nn.prelu."""
    prelu = PRelu.of(call)

    def compute(x: te.Tensor, slope: te.Tensor) -> te.Tensor:
        axis = prelu.axis % len(x.shape)
        return _compute(x, lambda index: slope[index[axis] if int(slope.shape[0]) > 1 else 0])

    return builder.call_te(compute, prelu.x, prelu.slope, primfunc_name_hint="prelu")


def lower_leakyrelu(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize of nn.leakyrelu."""
    from tvm import tirx

    def compute(x: te.Tensor) -> te.Tensor:
        return _compute(x, lambda index: tirx.const(float(call.attrs.alpha), str(x.dtype)))

    return builder.call_te(compute, call.args[0], primfunc_name_hint="leakyrelu")


def _compute(x: te.Tensor, slope: Callable[[tuple[relax.Expr, ...]], relax.Expr]) -> te.Tensor:
    from tvm import te, tirx

    def value(*index: relax.Expr) -> relax.Expr:
        return tirx.Select(x[index] < tirx.const(0, str(x.dtype)), x[index] * slope(index), x[index])

    return te.compute(x.shape, value, name="prelu")
