"""What the binary layers share: quantizers, scale, bias, and the checks of their options."""

from typing import Literal

from torch import Tensor, nn

from bnncc.nn.quantizers import Bits, Sign
from bnncc.runtime.errors import OptionError

Activation = Literal["signs", "bits"]
Scale = Literal["channel", "layer"] | None


class BinaryLayer(nn.Module):
    """Base of a layer that binarises its own input and weights; a second base brings weight and bias, [O, ...], [O].

    A layer computes exact integers first and then ``scale * integers + bias``, so that forward, ONNX file and
    artifact agree bit for bit up to these two float operations.
    """

    weight: Tensor
    bias: Tensor | None
    input_quantizer: nn.Module
    weight_quantizer: nn.Module
    scale: Scale

    def _set_quantizers(
        self,
        activation: Activation,
        input_quantizer: nn.Module | None,
        weight_quantizer: nn.Module | None,
        scale: Scale,
    ) -> None:
        where = type(self).__name__
        if activation not in ("signs", "bits"):
            raise OptionError(f"{where}: activation is {activation!r}; allowed are 'signs' and 'bits'.")
        if scale not in (None, "channel", "layer"):
            raise OptionError(f"{where}: scale is {scale!r}; allowed are None, 'channel' and 'layer'.")
        if scale is not None and weight_quantizer is not None:
            raise OptionError(
                f"{where}: both scale={scale!r} and a weight_quantizer are given; allowed is one of them. "
                f"Pass scale=None and let the quantizer scale."
            )
        if input_quantizer is None:
            input_quantizer = Sign() if activation == "signs" else Bits()
        self.input_quantizer = input_quantizer
        self.weight_quantizer = Sign() if weight_quantizer is None else weight_quantizer
        self.scale = scale

    def weight_scale(self) -> Tensor | None:
        """mean |w| of each output channel, [O], or of the layer, [1] (XNOR-Net, Rastegari et al., ECCV 2016, eq. 6)."""
        if self.scale is None:
            return None
        if self.scale == "layer":
            return self.weight.abs().mean().reshape(1)
        return self.weight.abs().flatten(1).mean(1)

    def _scale_and_bias(self, acc: Tensor, spatial: int) -> Tensor:
        """acc [..., O, *spatial axes] -> scale * acc + bias, same shape."""
        per_channel = (-1, *[1] * spatial)
        scale = self.weight_scale()
        if scale is not None:
            acc = acc * scale.reshape(per_channel)
        return acc if self.bias is None else acc + self.bias.reshape(per_channel)
