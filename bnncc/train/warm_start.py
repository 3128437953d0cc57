"""Weights from another network: all whose names and shapes are the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from bnncc.nn.trained_binarization import TrainedScale


@dataclass(frozen=True)
class WarmStart:
    """Names of parameters and buffers that were taken; of the network's that stay as they were; of the others'."""

    taken: tuple[str, ...]
    kept: tuple[str, ...]
    left: tuple[str, ...]


def warm_start(network: nn.Module, state: Mapping[str, Tensor]) -> WarmStart:
    """Put those tensors of a state dict into `network` that it has by the same name, shape and kind of number.

    Trained scaling factors that did not come along start from the weights that did.
    """
    own = network.state_dict()
    taken = {name: value for name, value in state.items() if name in own and _alike(value, own[name])}
    network.load_state_dict(taken, strict=False)
    for name, module in network.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, TrainedScale) and f"{prefix}weight" in taken and f"{prefix}alpha_w" not in taken:
            module.reset_factors()
    return WarmStart(tuple(taken), tuple(own.keys() - taken.keys()), tuple(state.keys() - taken.keys()))


def _alike(value: Tensor, own: Tensor) -> bool:
    return value.shape == own.shape and value.is_floating_point() == own.is_floating_point()
