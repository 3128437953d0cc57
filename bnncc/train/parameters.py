"""What is trained, by kind: latent binary weights, scaling factors, other weights, and what has no decay."""

import torch
from torch import Tensor, nn

from bnncc.nn.layer import BinaryLayer
from bnncc.train.options import Options


def latent(module: nn.Module) -> dict[str, nn.Parameter]:
    """Latent weights by name, of which inference sees the signs."""
    layers = [(name, layer.weight) for name, layer in module.named_modules() if isinstance(layer, BinaryLayer)]
    return {f"{name}.weight".lstrip("."): weight for name, weight in layers if isinstance(weight, nn.Parameter)}


def optimizer(module: nn.Module, options: Options) -> torch.optim.Optimizer:
    """One that decays each kind by its own coefficient, as L2 in the loss, coefficient / 2 * sum of squares.

    Kinds: latent weights; factors named alpha_w; other tensors of two or more axes; and without decay the rest: biases,
    BatchNorm, gates, activations' factors and the centers of classes.
    """
    latents = {id(weight) for weight in latent(module).values()}
    kinds: dict[float, list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in latents:
            decay = options.latent_decay
        elif name.rpartition(".")[2] == "alpha_w":
            decay = options.alpha_decay
        else:
            decay = options.weight_decay if parameter.dim() > 1 and not name.startswith("centers.") else 0.0
        kinds.setdefault(decay, []).append(parameter)
    groups = [{"params": parameters, "weight_decay": decay} for decay, parameters in kinds.items()]
    if options.optimizer == "adam":
        return torch.optim.Adam(groups, lr=options.learning_rate)
    return torch.optim.SGD(groups, lr=options.learning_rate, momentum=options.momentum, nesterov=options.momentum > 0)


@torch.no_grad()
def clip(weights: list[nn.Parameter], most: float) -> None:
    """Keep latent weights in [-most, most]."""
    for weight in weights:
        weight.clamp_(-most, most)


def signs(weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    """Where each latent weight is +1 at inference: bool, on the CPU."""
    return {name: (weight.detach() >= 0).cpu() for name, weight in weights.items()}


def flips(before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, int]:
    """Signs that changed, by latent weight."""
    return {name: int((before[name] != now).sum()) for name, now in after.items()}
