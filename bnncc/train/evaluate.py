"""How well a network does on images that it was not trained on."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from bnncc.train.data import Data, Part

BATCH = 256


@torch.no_grad()
def totals(network: nn.Module, data: Data, part: Part, *, first: int = 0, stride: int = 1) -> Tensor:
    """float64 [3]: summed cross-entropy, images that are right, images. In eval mode, on the network's own device.

    Of the images first, first + stride, ...
    """
    was_training = network.training
    network.eval()
    device = next(iter(network.state_dict().values())).device
    sums = torch.zeros(3, dtype=torch.float64)
    for begin in range(first, len(part), BATCH * stride):
        chosen = torch.arange(begin, min(begin + BATCH * stride, len(part)), stride)
        labels = part.labels[chosen].to(device)
        scores = network(data.normalised(part.images[chosen].to(device))).float()
        loss = functional.cross_entropy(scores, labels, reduction="sum")
        right = (scores.argmax(1) == labels).sum()
        sums += torch.tensor([loss.item(), right.item(), len(chosen)], dtype=torch.float64)
    network.train(was_training)
    return sums


def accuracy(network: nn.Module, x: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Share of x float32 [N, ...], as the network reads it, whose largest output is at its label, int64 [N]; 0 to 1."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        right = network(torch.from_numpy(x)).argmax(1).numpy() == labels
    network.train(was_training)
    return float(right.mean())
