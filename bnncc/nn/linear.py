"""Binary dense layer: torch's, with input and weights binarised (numpy meaning: bnncc/ops/binary_gemm.py).

y = scale * (input_quantizer(x) @ weight_quantizer(weight)^T) + bias

Arguments and defaults are those of torch.nn.Linear; the keyword-only ones those of bnncc/nn/conv.py, without
pad_value. x: float [..., K]; y: float [..., N].
"""

from torch import Tensor, device, nn
from torch import dtype as torch_dtype

from bnncc.nn import operators
from bnncc.nn.layer import Activation, BinaryLayer, Scale


class BinaryLinear(BinaryLayer, nn.Linear):  # type: ignore[misc]  # torch types Linear.bias as never None
    """float [..., K] -> float [..., N]; see the module's docstring."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: device | str | None = None,
        dtype: torch_dtype | None = None,
        *,
        activation: Activation = "signs",
        input_quantizer: nn.Module | None = None,
        weight_quantizer: nn.Module | None = None,
        scale: Scale = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self._set_quantizers(activation, input_quantizer, weight_quantizer, scale)

    def forward(self, input: Tensor) -> Tensor:
        acc = operators.binary_gemm(self.input_quantizer(input), self.weight_quantizer(self.weight))
        return self._scale_and_bias(acc, 0)
