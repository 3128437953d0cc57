"""Binarising modules: a step forward, an estimator backward (numpy meaning: bnncc/ops/binarize.py)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from bnncc.nn import operators
from bnncc.nn.estimators import Estimator, clipped, long_tailed
from bnncc.runtime.errors import OptionError


class _Step(torch.autograd.Function):
    """`high` where the test holds, else `low`; derivatives multiply by the estimator at the distance from the step."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, unipolar: bool, threshold: float, estimator: Estimator) -> Tensor:
        return operators.binarize(x, unipolar, threshold)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, _, ctx.threshold, ctx.estimator = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * ctx.estimator(x - ctx.threshold), None, None, None


class Sign(nn.Module):
    """+1 where x >= 0, else -1 (so sign(0) = +1 and NaN gives -1); float tensor of any shape -> the same shape."""

    def __init__(self, estimator: Estimator = clipped) -> None:
        super().__init__()
        self.estimator = estimator

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Step.apply(x, False, 0.0, self.estimator)  # type: ignore[no-untyped-call]
        return y


class Bits(nn.Module):
    """1 where x > threshold, else 0; float tensor of any shape -> the same shape.

    Args:
        threshold: a number; or a tensor that broadcasts over x, one for each channel for example: a parameter trains,
            by the estimator too, any other tensor becomes a buffer.
        estimator: default: TrainedBin's, centred at the threshold (Xu and Cheung, BMVC 2019).

    Raises:
        OptionError: a threshold that is not a finite number or a tensor.
    """

    threshold: float | Tensor

    def __init__(self, threshold: float | Tensor = 0.0, estimator: Estimator = long_tailed) -> None:
        super().__init__()
        if isinstance(threshold, Tensor) and not isinstance(threshold, nn.Parameter):
            self.register_buffer("threshold", threshold.detach())
        elif isinstance(threshold, Tensor) or math.isfinite(_number(threshold)):
            self.threshold = threshold
        else:
            raise OptionError(f"Bits: threshold is {threshold!r}; allowed are finite numbers and tensors.")
        self.estimator = estimator

    def forward(self, x: Tensor) -> Tensor:
        threshold = self.threshold
        if isinstance(threshold, Tensor):  # x > t exactly where x - t > 0, and torch differentiates the difference
            x, threshold = x - threshold, 0.0
        y: Tensor = _Step.apply(x, True, float(threshold), self.estimator)  # type: ignore[no-untyped-call]
        return y

    def extra_repr(self) -> str:
        t = self.threshold
        return f"threshold={t}" if not isinstance(t, Tensor) else f"threshold of shape {tuple(t.shape)}"


def _number(threshold: object) -> float:
    """NaN for what is not a number."""
    try:
        return float(threshold)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
