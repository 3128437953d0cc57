"""Straight-through estimators: what backward uses in place of a step function's derivative.

An estimator is a function of the distance from the step, float tensor of any shape -> surrogate derivative of the
same shape. To add one, write such a function; `Sign` and `Bits` take it as it is. A sign jumps by 2 and a bit by 1,
and the names below say which area each one has.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Estimator = Callable[[Tensor], Tensor]


def identity(x: Tensor) -> Tensor:
    """1 everywhere (Hinton's lectures, 2012; Group-Net's weights)."""
    return torch.ones_like(x)


def clipped(x: Tensor) -> Tensor:
    """1 where |x| <= 1, else 0; area 2 (Hubara et al., NIPS 2016, equation 4)."""
    return (x.abs() <= 1).to(x.dtype)


def polynomial(x: Tensor) -> Tensor:
    """2 - 2|x| where |x| <= 1, else 0; area 2 (Bi-Real Net, Liu et al., ECCV 2018, equation 4)."""
    return (2 - 2 * x.abs()).clamp(min=0)


def long_tailed(x: Tensor) -> Tensor:
    """2 - 4|x| where |x| <= 0.4, 0.4 up to |x| <= 1, else 0; area 1.44 (Xu and Cheung, BMVC 2019)."""
    distance = x.abs()
    return torch.where(distance <= 0.4, 2 - 4 * distance, 0.4 * (distance <= 1))


def gaussian(sigma: float = 1.0) -> Estimator:
    """sqrt(2 / pi) / sigma * exp(-x^2 / (2 sigma^2)); area 2 (Liu et al., CBCN, CVPR 2019; the width is ours)."""
    return partial(_gaussian, sigma=sigma)


def _gaussian(x: Tensor, *, sigma: float) -> Tensor:
    return math.sqrt(2 / math.pi) / sigma * torch.exp(-x.square() / (2 * sigma**2))
