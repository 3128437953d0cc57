"""Binary convolutions: torch's, with input and weights binarised (numpy meaning: bnncc/ops/binary_conv.py).

    y = scale * interaction(correlate(pad(input_quantizer(x)), weight_quantizer(weight))) + bias

Arguments and defaults are those of torch.nn.Conv1d / Conv2d; besides, by keyword:

pad_value         value of the border, added after binarisation: -1, 0 (default) or +1
activation        "signs" (default): the input becomes +-1; "bits": {0, 1}
input_quantizer   module that binarises the input; it ends in a `Sign` or `Bits`. Default: that of `activation`
weight_quantizer  module latent weight -> +-s with one s per output channel. Default: `Sign()`
scale             None (default), "channel" or "layer": multiply the result by mean |weight| (XNOR-Net)
interaction       None (default), or a `ChannelInteraction` of the output channels; the weights are a `Sign`'s then

Latent weights are initialised as torch does. Anything else is an OptionError.
"""

from torch import Tensor, device, nn
from torch import dtype as torch_dtype

from bnncc.nn import operators
from bnncc.nn.channel_interaction import ChannelInteraction
from bnncc.nn.layer import Activation, BinaryLayer, Scale
from bnncc.nn.quantizers import Sign
from bnncc.runtime.errors import OptionError


class BinaryConvolution(BinaryLayer):
    """What both ranks share; the second base is torch.nn.Conv1d or Conv2d."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    pad_value: float
    interaction: ChannelInteraction | None

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
        activation: Activation = "signs",
        input_quantizer: nn.Module | None = None,
        weight_quantizer: nn.Module | None = None,
        scale: Scale = None,
        interaction: ChannelInteraction | None = None,
    ) -> None:
        self._check(padding_mode, pad_value)
        self._check_interaction(interaction, out_channels, weight_quantizer)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, "zeros", device, dtype
        )
        self.pad_value = float(pad_value)
        self._set_quantizers(activation, input_quantizer, weight_quantizer, scale)
        self.interaction = interaction

    def pads(self) -> list[int]:
        """The border in ONNX order (begins, then ends), pixels; "same" puts an odd pixel at the end, as torch does."""
        if self.padding == "valid":
            return [0] * (2 * len(self.kernel_size))
        if self.padding == "same":
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return [t // 2 for t in total] + [t - t // 2 for t in total]
        return [int(p) for p in self.padding] * 2

    def correlate(self, signs: Tensor, weight: Tensor) -> Tensor:
        """Binarised input [N, C, ...], quantized weight [O, C / groups, ...] -> [N, O, ...], without scale and bias."""
        return operators.binary_conv(
            signs, weight, self.stride, self.pads(), self.dilation, self.groups, self.pad_value
        )

    def forward(self, input: Tensor) -> Tensor:
        acc = self.correlate(self.input_quantizer(input), self.weight_quantizer(self.weight))
        if self.interaction is not None:
            acc = self.interaction(acc, len(self.kernel_size))
        return self._scale_and_bias(acc, len(self.kernel_size))

    def _check(self, padding_mode: str, pad_value: float) -> None:
        where = type(self).__name__
        if padding_mode != "zeros":
            raise OptionError(
                f"{where}: padding_mode is {padding_mode!r}; allowed is 'zeros'. "
                f"Choose the value of the border with pad_value=-1, 0 or +1."
            )
        if pad_value not in (-1, 0, 1):
            raise OptionError(f"{where}: pad_value is {pad_value!r}; allowed are -1, 0 and +1.")

    def _check_interaction(
        self, interaction: ChannelInteraction | None, out_channels: int, weight_quantizer: nn.Module | None
    ) -> None:
        where = type(self).__name__
        if interaction is None:
            return
        if interaction.channels != out_channels:
            raise OptionError(
                f"{where}: interaction is of {interaction.channels} channels; allowed are the layer's {out_channels}."
            )
        if not isinstance(weight_quantizer, Sign | None):
            raise OptionError(
                f"{where}: both an interaction and a weight_quantizer other than Sign are given; an interaction reads "
                f"integers. Scale behind it, with scale='channel' or 'layer'."
            )


class BinaryConv1d(BinaryConvolution, nn.Conv1d):
    """float [N, C, L] or [C, L] -> float [N, O, OL] or [O, OL]; see the module's docstring."""


class BinaryConv2d(BinaryConvolution, nn.Conv2d):
    """float [N, C, H, W] or [C, H, W] -> float [N, O, OH, OW] or [O, OH, OW]; see the module's docstring."""
