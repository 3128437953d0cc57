"""The policy: for every pair of channels of a layer, how much to create or delete an edge, and how strong.

One small network looks at the statistics of each pair in turn, the same for all pairs and layers, so that what it
learns in one layer holds in the next. (The released code has a recurrent network with 1x1 kernels over existence and
influence of edges; it sees no data, so that all empty pairs look alike to it.) A softmax over all of {create(t, s)},
{delete(t, s)} and {unchanged} gives the action, a second one the strength of what is created; to create an edge that
exists is to change its strength.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnncc.nn.mining.least_squares import Explained

FEATURES = 7
_NEVER = -1e9


@dataclass(frozen=True)
class Actions:
    """Several, each by itself, from one state: [M] each. `teacher` is -1 where nothing changes; `change` is of the
    edge's strength. `log_probability`, and `entropy` of both choices, a number, have gradients."""

    teacher: Tensor
    student: Tensor
    change: Tensor
    log_probability: Tensor
    entropy: Tensor


def features(explained: Explained, strengths: Tensor, levels: int) -> Tensor:
    """What the policy sees of a layer, float32 [T, S, FEATURES]: the correlation of the student's residual to its
    float response with phi(r_t), relative to the layer's; the strength that would fit; the shares of wrong signs of
    student and teacher; whether there is an edge, and its strength."""
    correlation, fitted = explained.residual()
    relative = correlation / correlation.square().mean().sqrt().clamp(min=1e-6)
    wrong = (explained.sums.wrong / max(explained.sums.pixels, 1)).expand_as(correlation)
    seen = (
        relative,
        relative.abs(),
        fitted.clamp(-2 * levels, 2 * levels) / levels,
        wrong,
        wrong.T,
        (strengths != 0).double(),
        strengths.double() / levels,
    )
    return torch.stack(seen, -1).float()


class Policy(nn.Module):
    """float [T, S, FEATURES] -> scores; weights are drawn from `generator`, biases start at 0.

    levels     strengths are +-1 ... +-levels
    hidden     units of the only hidden layer
    sharpness  trained: how much strengths lose with the square of their distance from the one that would fit. From 0
               the policy settled on one strength before it learned to use it, so it starts at 0.5
    """

    def __init__(self, levels: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.levels = levels
        self.pair = nn.Sequential(nn.Linear(FEATURES, hidden), nn.Tanh(), nn.Linear(hidden, 2 + 2 * levels))
        self.unchanged = nn.Linear(FEATURES, 1)
        self.sharpness = nn.Parameter(torch.zeros(1))
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter, generator=generator)
                else:
                    parameter.zero_()
            self.sharpness.fill_(0.5)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """(scores of create [T * S], delete [T * S], unchanged [1], in one row; of strengths [T * S, 2 levels])."""
        channels = len(seen)
        scores = self.pair(seen).flatten(0, 1)
        exists = seen[..., 5].flatten() > 0
        loops = torch.eye(channels, dtype=torch.bool, device=seen.device).flatten()
        create = scores[:, 0].masked_fill(loops, _NEVER)
        delete = scores[:, 1].masked_fill(~exists, _NEVER)
        unchanged = self.unchanged(seen.mean((0, 1)))
        fitting = self.levels * (seen[..., 2] + seen[..., 6]).flatten()[:, None]
        strengths = scores[:, 2:] - self.sharpness * (fitting - self._strengths(seen.device)).square()
        return torch.cat([create, delete, unchanged]), strengths

    def _strengths(self, device: torch.device) -> Tensor:
        return torch.tensor([k for k in range(-self.levels, self.levels + 1) if k], device=device)

    def sample(
        self, seen: Tensor, strengths: Tensor, count: int, explore: float, generator: torch.Generator
    ) -> Actions:
        """Draw `count` actions from the state that `seen` and `strengths` are of: from the softmax, or with
        probability `explore` any create with any strength."""
        channels = len(seen)
        scores, strength_scores = self(seen)
        log_action = _mixed(scores, explore)
        drawn = torch.multinomial(log_action.detach().exp().cpu(), count, replacement=True, generator=generator)
        drawn = drawn.to(seen.device)
        pairs = drawn % channels**2
        create, unchanged = drawn < channels**2, drawn == 2 * channels**2
        log_strength = _mixed(strength_scores[pairs], explore)
        level = torch.multinomial(log_strength.detach().exp().cpu(), 1, generator=generator).to(seen.device)
        made = self._strengths(seen.device)[level[:, 0]]
        teacher, student = pairs // channels, pairs % channels
        change = (torch.where(create, made, 0) - strengths[teacher, student]).masked_fill(unchanged, 0)
        log_probability = log_action[drawn] + torch.where(create, log_strength.gather(1, level)[:, 0], 0)
        entropy = _entropy(log_action) + _entropy(log_strength).mean()
        return Actions(teacher.masked_fill(unchanged, -1), student, change, log_probability, entropy)


def _entropy(log: Tensor) -> Tensor:
    return -(log.exp() * log).sum(-1)


def _mixed(scores: Tensor, explore: float) -> Tensor:
    """Logarithms of the softmax over the last axis, mixed with as much of an even choice of what is allowed."""
    even = (scores > _NEVER).float()
    return torch.log((1 - explore) * scores.softmax(-1) + explore * even / even.sum(-1, keepdim=True) + 1e-30)
