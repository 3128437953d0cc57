"""The number that training makes small."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnncc.models.network import Network
from bnncc.nn.circulant import CenterLoss
from bnncc.runtime.errors import OptionError
from bnncc.train.options import Options


class Objective(nn.Module):
    """images [N, C, H, W] as a network reads them, labels int64 [N] -> (loss, how many are right), each a scalar.

        (1 - w) * cross-entropy(labels, smoothed) + w * KL(teacher, scores) + c * center loss(features)

    w is `distill_weight` where there is a teacher, else 0: the Kullback-Leibler divergence of the soft outputs is the
    distribution loss of ReActNet (Liu et al., ECCV 2020, equation 6) but for a constant. c is `center_weight`.

    The whole is one module, whose forward does everything: that is what several processes average the gradients of.
    """

    def __init__(self, network: nn.Module, options: Options, classes: int, teacher: nn.Module | None) -> None:
        super().__init__()
        self.network = network
        self.options = options
        self.centers = _centers(network, classes) if options.center_weight else None
        self._teacher = (teacher.eval().requires_grad_(False),) if teacher else ()  # in a tuple: not ours to train

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        extra = torch.zeros((), device=images.device)
        if self.centers is not None and isinstance(self.network, Network):
            features = self.network.features(images)
            scores = self.network.classifier(features)
            extra = self.options.center_weight * self.centers(features, labels)
        else:
            scores = self.network(images)
        weight = self.options.distill_weight if self._teacher else 0.0
        loss = extra
        if weight < 1:
            hard = functional.cross_entropy(scores, labels, label_smoothing=self.options.label_smoothing)
            loss = loss + (1 - weight) * hard
        for teacher in self._teacher:
            with torch.no_grad():
                soft = functional.log_softmax(teacher.to(images.device)(images), 1)
            ours = functional.log_softmax(scores, 1)
            loss = loss + weight * functional.kl_div(ours, soft, reduction="batchmean", log_target=True)
        return loss, (scores.detach().argmax(1) == labels).sum()


def _centers(network: nn.Module, classes: int) -> CenterLoss:
    if not isinstance(network, Network):
        raise OptionError(
            f"training: center_weight is given, but {type(network).__name__} does not say what its classifier reads; "
            f"allowed are networks of bnncc.models.build. Set it to 0."
        )
    return CenterLoss(classes, network.classifier.in_features)
