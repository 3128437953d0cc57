"""A copy of a torch module whose binary layers hold bits and trace to single nodes of the domain `bnncc`."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bnncc.nn.conv import BinaryConvolution
from bnncc.nn.layer import BinaryLayer
from bnncc.nn.linear import BinaryLinear
from bnncc.nn.quantizers import Bits, Sign
from bnncc.ops import ONNX_DOMAIN, ONNX_VERSION, binarize, binary_conv, binary_gemm, bitpack
from bnncc.runtime.errors import ModelError


def packed_copy(module: nn.Module) -> nn.Module:
    """A copy on the CPU, in eval mode, with the same module paths; a layer used twice stays one.

    ModelError where a weight is not +-s per output channel.
    """
    return _replaced(copy.deepcopy(module).cpu().eval(), "", {})


class PackedBinarize(nn.Module):
    """A `Sign` or `Bits` as one node."""

    def __init__(self, source: Sign | Bits) -> None:
        super().__init__()
        self.attributes: dict[str, Any] = {"unipolar": 0, "threshold": 0.0}
        if isinstance(source, Bits):
            self.attributes = {"unipolar": 1, "threshold": float(source.threshold)}

    def forward(self, x: Tensor) -> Tensor:
        return _node(binarize.NAME, (x,), self.attributes, tuple(x.shape))


class PackedLayer(nn.Module):
    """A binary layer as one node over bits, then Mul by its scale and Add of its bias where it has them.

    A convolution, or a dense layer where `kernel` is empty.
    """

    packed: Tensor
    scale: Tensor | None
    bias: Tensor | None

    def __init__(self, source: BinaryLayer, where: str, input_quantizer: nn.Module) -> None:
        super().__init__()
        self.input_quantizer = input_quantizer
        with torch.no_grad():
            weight = source.weight_quantizer(source.weight).detach().numpy()
            own_scale = source.weight_scale()
        positive, scale = _signs_and_scale(weight, where)
        if own_scale is not None:
            scale = own_scale.detach().numpy()
        self.filters = len(weight)
        self.kernel: tuple[int, ...] = weight.shape[2:]
        self.attributes: dict[str, Any] = {"channels": weight.shape[1]}
        if isinstance(source, BinaryConvolution):
            positive = np.moveaxis(positive.reshape(*weight.shape[:2], -1), 1, 2)  # [O, T, C / groups]
            self.attributes |= {
                "kernel_shape": list(self.kernel),
                "strides": list(source.stride),
                "pads": source.pads(),
                "dilations": list(source.dilation),
                "group": source.groups,
                "pad_value": source.pad_value,
            }
        per_channel = (-1, *[1] * len(self.kernel))
        self.register_buffer("packed", torch.from_numpy(bitpack.pack(positive)))
        self.register_buffer("scale", None if (scale == 1).all() else torch.from_numpy(scale).reshape(per_channel))
        self.register_buffer("bias", None if source.bias is None else source.bias.detach().reshape(per_channel))

    def forward(self, x: Tensor) -> Tensor:
        """What torch also takes, no batch axis or several, becomes exactly one for the node, and is put back."""
        lead = x.shape[: x.dim() - 1 - len(self.kernel)]
        if len(lead) != 1:
            x = x.reshape(-1, *x.shape[len(lead) :])
        x = self.input_quantizer(x)
        name, shape = binary_gemm.NAME, [x.shape[0], self.filters]
        if self.kernel:
            a = self.attributes
            name = binary_conv.NAME
            shape += binary_conv.output_shape(x.shape[2:], self.kernel, a["strides"], a["pads"], a["dilations"])
        y = _node(name, (x, self.packed), self.attributes, tuple(shape))
        if self.scale is not None:
            y = y * self.scale
        if self.bias is not None:
            y = y + self.bias
        return y if len(lead) == 1 else y.reshape(*lead, *shape[1:])


def _node(op: str, inputs: tuple[Tensor, ...], attributes: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
    """One opaque node of our domain in the traced graph."""
    y: Tensor = torch.onnx.ops.symbolic(
        f"{ONNX_DOMAIN}::{op}", inputs, dict(attributes), dtype=torch.float32, shape=shape, version=ONNX_VERSION
    )
    return y


def _signs_and_scale(
    weight: npt.NDArray[np.float32], where: str
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Quantized weight [O, ...] -> where it is positive, same shape, and s [O] with weight = +-s."""
    magnitude = np.abs(weight).reshape(len(weight), -1)
    scale = magnitude[:, 0]
    differs = np.argwhere((magnitude != scale[:, None]) | ~np.isfinite(magnitude))
    if len(differs):
        channel, index = differs[0]
        raise ModelError(
            f"{where}: weight_quantizer gives {weight.reshape(len(weight), -1)[channel, index]} in output channel "
            f"{channel}; allowed are +{scale[channel]} and -{scale[channel]} there, one magnitude per output channel. "
            f"Return a scale times bnncc.nn.Sign."
        )
    return weight > 0, scale.copy()


def _replaced(module: nn.Module, path: str, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """What stands in the place of `module`, found at `path`; every other module keeps its place and its children."""
    if module in done:
        return done[module]
    done[module] = module
    if isinstance(module, Sign | Bits):
        _check_forward(module, path, (Sign, Bits))
        done[module] = PackedBinarize(module)
    elif isinstance(module, BinaryLayer):
        _check_forward(module, path, (BinaryConvolution, BinaryLinear))
        quantizer = _replaced(module.input_quantizer, f"{path}.input_quantizer".removeprefix("."), done)
        done[module] = PackedLayer(module, path or type(module).__name__, quantizer)
    else:
        for name, child in list(module._modules.items()):
            if child is not None:
                module.register_module(name, _replaced(child, f"{path}.{name}" if path else name, done))
    return done[module]


def _check_forward(module: nn.Module, path: str, known: tuple[type[nn.Module], ...]) -> None:
    """A subclass may choose its options, but a forward of its own would be lost."""
    if type(module).forward not in [base.forward for base in known]:
        name = type(module).__name__
        raise ModelError(
            f"{path or name}: {name} overrides forward; allowed is the forward of its base. "
            f"Write a module that holds the layer instead."
        )
