"""What an action is worth: signs that agree with the float response, teachers that are surer, a smaller loss."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bnncc.nn.mining import responses
from bnncc.nn.mining.policy import Actions
from bnncc.nn.mining.responses import Batch, Response
from bnncc.nn.mining.statistics import Scale


@dataclass(frozen=True)
class Rewards:
    """How much each of the three counts.

    agreement    the points (of 100) of the student's signs that agree more: dense, and what the method is for. The
                 default
    information  R_info of the released code: mean over edges and pixels of sgn(|r_t| - |r_s|)
    loss         R_c of the released code: +1 where the loss falls by more than `errors` of its own standard errors, -1
                 where it rises by more. That code's 0.003 in place of it is silent or noise on small networks. One
                 forward pass of the network an action
    errors       also how many of its own standard errors the agreement must rise by, or the action is undone
    """

    agreement: float = 1.0
    information: float = 0.0
    loss: float = 0.0
    errors: float = 1.0


@dataclass(frozen=True)
class Value:
    """[M] each: the rewards of several actions, and the standard errors of what of them is measured on images."""

    reward: Tensor
    error: Tensor


def agreement(
    teachers: Tensor, students: Tensor, changes: Tensor, response: Response, scale: Scale, unit: int
) -> Value:
    """Points of the students' signs, for each change of a strength by itself; [M] each."""
    before = response.interacted[:, students]
    after = before + unit * changes * scale.phi(response.integers[:, teachers])
    factor, shift = (v[students].float() for v in (scale.integers.scale, scale.integers.shift))
    wanted = scale.real(response.real)[:, students] >= 0
    better = ((after * factor + shift >= 0) == wanted).float() - ((before * factor + shift >= 0) == wanted).float()
    images = 100 * better.reshape(response.images, -1, len(teachers)).mean(1)
    return Value(images.mean(0), images.std(0, correction=0) / response.images**0.5)


def information(actions: Actions, response: Response, strengths: Tensor) -> Tensor:
    """R_info of the edges that each action leaves: [M], from -1 to 1; 0 where it leaves none."""
    size = response.integers.abs()
    teachers, students = strengths.nonzero(as_tuple=True)
    surer = _surer(size, teachers, students)
    changed = _surer(size, actions.teacher.clamp(min=0), actions.student)
    known = strengths[actions.teacher.clamp(min=0), actions.student]
    more = (known + actions.change != 0).long() - (known != 0).long()
    more = more.masked_fill(actions.teacher < 0, 0)
    return (surer.sum() + more * changed) / (len(surer) + more).clamp(min=1)


def _surer(size: Tensor, teachers: Tensor, students: Tensor) -> Tensor:
    return torch.sign(size[:, teachers] - size[:, students]).mean(0)


def loss(network: nn.Module, batch: Batch, count: int, attempt: Callable[[int], None], errors: float) -> Tensor:
    """R_c of `count` actions, [count]: `attempt(i)` changes the network by the i-th, `attempt(-1)` back."""

    def each() -> Tensor:
        found: Tensor = functional.cross_entropy(network(responses.images(batch)), labels, reduction="none").double()
        return found

    labels = responses.labels(batch)
    made = torch.zeros(count)
    with responses.evaluating(network):
        before = each()
        for i in range(count):
            attempt(i)
            fallen = before - each()
            limit = errors * fallen.std(correction=0) / len(fallen) ** 0.5
            made[i] = float(fallen.mean() > limit) - float(fallen.mean() < -limit)
        attempt(-1)
    return made.to(before.device)
