"""Trained Binarization (Xu and Cheung, "Accurate and Compact Convolutional Neural Networks with Trained Binarization",
BMVC 2019, arXiv 1909.11366): scaling factors of weights and activations are trained like any other parameter.

    y = alpha_a * alpha_w * (H(x) (*) sign(w)) + bias        H(x) = 1 where x > 0, else 0

Both factors stand behind the integer sum, where a BatchNorm and the next sign or H turn them into thresholds. Besides
the arguments of bnncc/nn/conv.py and linear.py (scale and quantizers aside) there are, by keyword:

    activation   "bits" (default): {0, 1}, the paper's H, and what earns its accuracy; "signs": +-1
    granularity  "channel" (default): alpha_w float [O]; "layer": float [1]
    estimator    of the derivative of both steps, default `long_tailed` (the paper's)

The paper's text leaves the granularity open; one factor for each filter is XNOR-Net's choice, and costs nothing once it
is folded.

alpha_w starts as mean |w| of what shares it, alpha_a, float [1], one for a layer, as 1: one for each input channel
would not come out of the sum of bits. Either may become negative; nothing downstream minds.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, device, nn
from torch import dtype as torch_dtype

from bnncc.nn.conv import BinaryConvolution
from bnncc.nn.estimators import Estimator, long_tailed
from bnncc.nn.layer import Activation, BinaryLayer
from bnncc.nn.linear import BinaryLinear
from bnncc.nn.quantizers import Bits, Sign
from bnncc.runtime.errors import OptionError

Granularity = Literal["channel", "layer"]


class TrainedScale(BinaryLayer):
    """The two factors, alpha_w and alpha_a, of a binary layer; mixed into one for each kind below."""

    alpha_w: nn.Parameter
    alpha_a: nn.Parameter

    def _set_factors(self, granularity: Granularity) -> None:
        if granularity not in ("channel", "layer"):
            raise OptionError(
                f"{type(self).__name__}: granularity is {granularity!r}; allowed are 'channel' and 'layer'."
            )
        channels = self.weight.shape[0] if granularity == "channel" else 1
        self.alpha_w = nn.Parameter(self.weight.new_empty(channels))
        self.alpha_a = nn.Parameter(self.weight.new_empty(1))
        self.reset_factors()

    @torch.no_grad()
    def reset_factors(self) -> None:
        """alpha_w = mean |w|, alpha_a = 1; call it after latent weights were put in from elsewhere."""
        self.alpha_w.copy_(self.weight.abs().reshape(self.alpha_w.numel(), -1).mean(1))
        self.alpha_a.fill_(1)

    def weight_scale(self) -> Tensor:
        return self.alpha_a * self.alpha_w


class TrainedBinaryConvolution(TrainedScale, BinaryConvolution):
    """What both ranks share."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: device | str | None = None,
        dtype: torch_dtype | None = None,
        *,
        pad_value: float = 0.0,
        activation: Activation = "bits",
        granularity: Granularity = "channel",
        estimator: Estimator = long_tailed,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            pad_value=pad_value,
            activation=activation,
            input_quantizer=_step(activation, estimator),
            weight_quantizer=Sign(estimator),
        )
        self._set_factors(granularity)


class TrainedBinaryConv1d(TrainedBinaryConvolution, nn.Conv1d):
    """float [N, C, L] or [C, L] -> float [N, O, OL] or [O, OL]; see the module's docstring."""


class TrainedBinaryConv2d(TrainedBinaryConvolution, nn.Conv2d):
    """float [N, C, H, W] or [C, H, W] -> float [N, O, OH, OW] or [O, OH, OW]; see the module's docstring."""


class TrainedBinaryLinear(TrainedScale, BinaryLinear):  # type: ignore[misc]  # as BinaryLinear
    """float [..., K] -> float [..., N]; see the module's docstring."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: device | str | None = None,
        dtype: torch_dtype | None = None,
        *,
        activation: Activation = "bits",
        granularity: Granularity = "channel",
        estimator: Estimator = long_tailed,
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            bias,
            device,
            dtype,
            activation=activation,
            input_quantizer=_step(activation, estimator),
            weight_quantizer=Sign(estimator),
        )
        self._set_factors(granularity)


def scaling_factors(module: nn.Module) -> Iterator[nn.Parameter]:
    """Every alpha_w in `module`: what the paper regularises in place of the latent weights."""
    return (part.alpha_w for part in module.modules() if isinstance(part, TrainedScale))


def scale_penalty(module: nn.Module, beta: float = 1e-4) -> Tensor:
    """(beta / 2) * sum over layers of |alpha_w|^2, a scalar to add to the loss; 0 without such layers.

    The paper penalises the factors and not the latent weights, whose magnitude means nothing, and leaves beta open:
    1e-4 is what weight decay has elsewhere. An optimizer's own weight decay of beta on `scaling_factors` does the same.
    """
    return 0.5 * beta * sum((alpha.square().sum() for alpha in scaling_factors(module)), torch.zeros(()))


def _step(activation: Activation, estimator: Estimator) -> nn.Module:
    return Sign(estimator) if activation == "signs" else Bits(0.0, estimator)
