"""The closed-form miner: greedy least squares of the float response on the interacted integers, on sums alone.

For a student s with v = BN(r_s + unit * sum of strength[t, s] * phi(r_t)), the best multiple of v leaves of the float
response g the share

    1 - <g, v>^2 / (<g, g> <v, v>)

unexplained. Each step takes the edge and the strength in {+-1, ..., +-levels} that lower the sum of these shares over
all students most, and updates <g, v>, <v, v> and <phi, v> from the Gram matrix. The multiple is free since a sign does
not see it; there is no free constant since the network's threshold is what it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnncc.nn.mining.statistics import Scale, Sums


@dataclass
class Fit:
    """`strengths` int64 [teachers, students], 0 where there is no edge; an edge adds unit * strength * phi."""

    strengths: Tensor
    unit: int
    explained: float


class Explained:
    """The explained share of each student, kept up to date while strengths change."""

    def __init__(self, sums: Sums, scale: Scale, unit: int, strengths: Tensor) -> None:
        self.sums = sums
        self.step = unit * scale.integers.scale  # of u, for a strength of 1 and phi = 1: [C]
        change = strengths.double() * self.step  # [T, S]
        along = sums.gram @ change
        self.phi_v = sums.own + along
        self.g_v = sums.own_real + (change * sums.response).sum(0)
        self.v_v = sums.own_own + 2 * (change * sums.own).sum(0) + (change * along).sum(0)

    def shares(self) -> Tensor:
        """[C]; 0 where v points away from g."""
        return _share(self.g_v, self.v_v, self.sums.real_real)

    def residual(self) -> tuple[Tensor, Tensor]:
        """For each pair, [T, S]: the correlation of phi(r_t) with what v_s leaves of g_s, positive where a positive
        strength helps, and the change of strength that would fit best."""
        multiple = self.g_v / self.v_v.clamp(min=1e-300)
        rest = (self.sums.real_real - self.g_v * multiple).clamp(min=1e-12)
        free = (self.sums.gram.diagonal()[:, None] - self.phi_v.square() / self.v_v.clamp(min=1e-300)).clamp(min=1e-12)
        common = self.sums.response - multiple * self.phi_v
        correlation = torch.sign(self.step) * common / torch.sqrt(rest * free)
        fitted = common / (free * multiple.clamp(min=1e-12) * self.step)
        return correlation.clamp(-1, 1), torch.nan_to_num(fitted, posinf=0, neginf=0)

    def gains(self, change: int | Tensor, students: slice = slice(None)) -> Tensor:
        """By how much each share rises when the strength of each edge changes by so much: [T, S]."""
        step, g_g = change * self.step[students], self.sums.real_real[students]
        g_v = self.g_v[students] + step * self.sums.response[:, students]
        own, size = self.phi_v[:, students], self.sums.gram.diagonal()[:, None]
        v_v = self.v_v[students] + 2 * step * own + step.square() * size
        return _share(g_v, v_v, g_g) - _share(self.g_v[students], self.v_v[students], g_g)

    def apply(self, teacher: int, student: int, change: int) -> None:
        """Change the strength of one edge."""
        step = change * self.step[student]
        self.g_v[student] += step * self.sums.response[teacher, student]
        self.v_v[student] += 2 * step * self.phi_v[teacher, student] + step**2 * self.sums.gram[teacher, teacher]
        self.phi_v[:, student] += step * self.sums.gram[:, teacher]


def _share(g_v: Tensor, v_v: Tensor, g_g: Tensor) -> Tensor:
    """<g, v>^2 / (<g, g> <v, v>), and 0 for a channel that is 0 or has the wrong sign."""
    return torch.where((v_v * g_g > 0) & (g_v > 0), g_v.square() / (v_v * g_g).clamp(min=1e-300), 0)


def greedy(sums: Sums, scale: Scale, *, unit: int, levels: int, most: int, allowed: Tensor | None = None) -> Fit:
    """At most `most` edges, of those in `allowed` (bool [T, S]); fewer where none explains more."""
    channels = len(sums.wrong)
    strengths = torch.zeros(channels, channels, dtype=torch.int64, device=sums.gram.device)
    free = ~torch.eye(channels, dtype=torch.bool, device=sums.gram.device)
    if allowed is not None:
        free &= allowed
    explained = Explained(sums, scale, unit, strengths)
    choices = torch.tensor([k for k in range(-levels, levels + 1) if k], device=free.device)[:, None, None]
    gains = torch.where(free, explained.gains(choices), -1)  # [2 levels, T, S]
    for _ in range(most):
        best = int(gains.argmax())
        if gains.flatten()[best] <= 0:
            break
        level, pair = divmod(best, channels**2)
        teacher, student = divmod(pair, channels)
        strengths[teacher, student] = choices[level, 0, 0]
        explained.apply(teacher, student, int(strengths[teacher, student]))
        free[teacher, student] = False
        one = slice(student, student + 1)
        gains[..., one] = torch.where(free[:, one], explained.gains(choices, one), -1)
    return Fit(strengths, unit, float(explained.shares().sum()))


def fit(
    sums: Sums, scale: Scale, *, units: Sequence[int], levels: int, most: int, allowed: Tensor | None = None
) -> Fit:
    """`greedy` with the unit that explains most."""
    fits = [greedy(sums, scale, unit=unit, levels=levels, most=most, allowed=allowed) for unit in units]
    return max(fits, key=lambda made: made.explained)
