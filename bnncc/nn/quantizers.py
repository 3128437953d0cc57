"""Binarising modules: a step forward, an estimator backward (numpy meaning: bnncc/ops/binarize.py)."""

from typing import Any

import torch
from torch import Tensor, nn

from bnncc.nn.estimators import Estimator, clipped, long_tailed


class _Step(torch.autograd.Function):
    """`high` where the test holds, else `low`; backward multiplies by the estimator at the distance from the step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, unipolar: bool, threshold: float, estimator: Estimator) -> Tensor:
        ctx.save_for_backward(x)
        ctx.threshold, ctx.estimator = threshold, estimator
        if unipolar:
            return (x > threshold).to(x.dtype)
        return (x >= 0).to(x.dtype).mul_(2).sub_(1)

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

    The default estimator is TrainedBin's, centred at the threshold (Xu and Cheung, BMVC 2019).
    """

    def __init__(self, threshold: float = 0.0, estimator: Estimator = long_tailed) -> None:
        super().__init__()
        self.threshold = threshold
        self.estimator = estimator

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Step.apply(x, True, self.threshold, self.estimator)  # type: ignore[no-untyped-call]
        return y

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}"
