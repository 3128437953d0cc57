"""What the layers that may be mined say to a batch: their integers, and what full precision would have said.

The float response of a layer is its correlation of the unbinarised input with the latent weights. What a network makes
of either is a sign behind BatchNorm, so both are compared as such: the integers through the BatchNorm of the network,
the float response through one of the same gamma and beta with statistics of its own.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bnncc.nn.channel_interaction import ChannelInteraction
from bnncc.nn.conv import BinaryConvolution
from bnncc.nn.quantizers import Bits, Sign
from bnncc.runtime.errors import InputError, OptionError

Batch = Tensor | Sequence[Tensor]
Norm = nn.BatchNorm1d | nn.BatchNorm2d
Reference = Literal["normalised", "raw"]

# Between a convolution and its BatchNorm these neither move channels nor change which of two values is larger.
_MONOTONE = (nn.MaxPool1d, nn.MaxPool2d, nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass(frozen=True)
class Place:
    """A layer with an interaction, and the BatchNorm behind it, if there is one."""

    name: str
    layer: BinaryConvolution
    norm: Norm | None

    @property
    def interaction(self) -> ChannelInteraction:
        assert self.layer.interaction is not None
        return self.layer.interaction

    @property
    def channels(self) -> int:
        return self.interaction.channels

    @property
    def inputs(self) -> int:
        """Channels times taps: the largest integer that it can give."""
        return self.layer.weight[0].numel()


@dataclass(frozen=True)
class Response:
    """float32 [pixels of all images, channels] each, image after image; `images` of them."""

    integers: Tensor
    interacted: Tensor
    real: Tensor
    images: int


@dataclass(frozen=True)
class Affine:
    """scale * x + shift for each channel, [C] each, of float64."""

    scale: Tensor
    shift: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.scale.to(x.dtype) + self.shift.to(x.dtype)


def places(network: nn.Module, batch: Batch) -> list[Place]:
    """The layers of `network` that have an interaction, in the order in which `batch` reaches them."""
    layers = {
        module: name
        for name, module in network.named_modules()
        if isinstance(module, BinaryConvolution) and module.interaction is not None
    }
    found: dict[BinaryConvolution, Norm | None] = {}
    values: list[tuple[Tensor, BinaryConvolution]] = []  # kept, so that no other tensor gets the same identity

    def of(value: Any) -> BinaryConvolution | None:
        return next((layer for tensor, layer in values if tensor is value), None)

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, BinaryConvolution):
            found.setdefault(module, None)
            values.append((output, module))
            return
        layer = of(inputs[0]) if inputs else None
        if layer is None:
            return
        if isinstance(module, _MONOTONE):
            values.append((output, layer))
        elif isinstance(module, Norm):
            found[layer] = module

    watched = [
        m for m in network.modules() if m in layers or isinstance(m, (*_MONOTONE, nn.BatchNorm1d, nn.BatchNorm2d))
    ]
    with evaluating(network), _hooked([m.register_forward_hook(after) for m in watched]):
        network(images(batch))
    if not found:
        raise OptionError(
            "mine: the network has no binary convolution with an interaction; pass "
            "interaction=ChannelInteraction(channels) to those whose channels may teach each other."
        )
    return [Place(layers[layer], layer, norm) for layer, norm in found.items()]


def respond(network: nn.Module, places: list[Place], batch: Batch) -> list[Response]:
    """What each place says to the batch, the network being in eval mode; nothing is differentiated."""
    seen: dict[str, list[Tensor]] = {}

    def remember(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
            seen.setdefault(name, []).extend(t for t in (inputs[0], output) if isinstance(t, Tensor))

        return hook

    hooks = []
    for place in places:
        hooks.append(_input_of(place.layer).register_forward_pre_hook(remember(place.name)))
        hooks.append(place.interaction.register_forward_hook(remember(place.name)))
    with evaluating(network), _hooked(hooks):
        network(images(batch))
        return [_response(place, seen.get(place.name, [])) for place in places]


def _response(place: Place, tensors: list[Tensor]) -> Response:
    if len(tensors) != 3:
        raise OptionError(
            f"mine: layer {place.name} is called {len(tensors) // 3} times in one forward; allowed is once. "
            "Leave it without an interaction."
        )
    x, integers, interacted = tensors
    real = place.layer.correlate(x, place.layer.weight)
    return Response(_rows(integers), _rows(interacted), _rows(real), len(x))


def _input_of(layer: BinaryConvolution) -> nn.Module:
    """The module whose input is what the layer binarises: its sign, behind learned shifts for example."""
    steps = [module for module in layer.input_quantizer.modules() if isinstance(module, Sign | Bits)]
    return steps[-1] if steps else layer.input_quantizer


def _rows(x: Tensor) -> Tensor:
    return x.movedim(1, -1).flatten(0, -2)


def of_integers(place: Place) -> Affine:
    """What the network makes of the integers: the layer's scale and bias, then its BatchNorm in eval mode."""
    affine = _identity(place)
    factors, bias = place.layer.weight_scale(), place.layer.bias
    if factors is not None:
        affine = Affine(affine.scale * factors.detach().double(), affine.shift)
    if bias is not None:
        affine = Affine(affine.scale, affine.shift + bias.detach().double())
    if place.norm is None:
        return affine
    norm = place.norm
    if norm.running_mean is None or norm.running_var is None:
        raise OptionError(
            f"mine: the BatchNorm behind layer {place.name} keeps no running statistics; build it with "
            "track_running_stats=True."
        )
    return _normalised(norm, affine, norm.running_mean.double(), norm.running_var.double())


def of_real(place: Place, mean: Tensor, variance: Tensor, reference: Reference) -> Affine:
    """What a full-precision network would make of the float response; its mean and variance are given, [C]."""
    if place.norm is None or reference == "raw":
        return _identity(place)
    return _normalised(place.norm, _identity(place), mean, variance)


def _identity(place: Place) -> Affine:
    ones = place.layer.weight.detach().new_ones(place.channels).double()
    return Affine(ones, torch.zeros_like(ones))


def _normalised(norm: Norm, before: Affine, mean: Tensor, variance: Tensor) -> Affine:
    gamma = norm.weight.detach().double() if norm.affine else torch.ones_like(mean)
    beta = norm.bias.detach().double() if norm.affine else torch.zeros_like(mean)
    factor = gamma / torch.sqrt(variance + norm.eps)
    return Affine(before.scale * factor, (before.shift - mean) * factor + beta)


def images(batch: Batch) -> Tensor:
    """The network's input of a batch, which may have labels beside it."""
    return batch if isinstance(batch, Tensor) else batch[0]


def labels(batch: Batch) -> Tensor:
    """The labels of a batch. InputError: it has none."""
    if isinstance(batch, Tensor):
        raise InputError("mine: a reward from the loss needs labels; give batches as (images, labels).")
    return batch[1]


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module gets its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextlib.contextmanager
def _hooked(hooks: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
