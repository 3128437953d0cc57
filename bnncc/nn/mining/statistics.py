"""Sums over batches that say how well each channel of a layer could teach each other one. No activation is kept.

With phi(x) = sum over T: [x >= T] - [x <= -T], a float response g and u = BN(r) for each student:

    gram[t, t'] = sum of phi(r_t) phi(r_t')     response[t, s] = sum of phi(r_t) g_s     own[t, s] = sum of phi(r_t) u_s
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from bnncc.nn.interaction_graph import fraction_thresholds, quantile_thresholds
from bnncc.nn.mining import responses
from bnncc.nn.mining.responses import Affine, Batch, Place, Reference, Response
from bnncc.runtime.errors import OptionError


@dataclass(frozen=True)
class Thresholds:
    """Where phi steps: at "integers", at "fractions" of channels times taps, or at "quantiles" of a layer's |r|.

    The default is the median of |r|: small trials with it raised sign agreement by 2 to 4 points, where a quarter of
    channels times taps is reached at 2 to 3 % of the pixels only; the released code takes the integer 200.
    """

    kind: Literal["integers", "fractions", "quantiles"] = "quantiles"
    values: tuple[float, ...] = (0.5,)

    def of(self, inputs: int, counts: Tensor) -> tuple[int, ...]:
        """The thresholds of a layer, from 1; counts[v] is how often |r| was v: int64 [V]."""
        if self.kind == "fractions":
            return fraction_thresholds(self.values, inputs)
        if self.kind == "quantiles":
            return quantile_thresholds(self.values, counts.cpu().numpy())
        if self.kind != "integers" or any(v < 1 or v != int(v) for v in self.values):
            raise OptionError(
                f"Thresholds: {self.kind!r} of {self.values} are given; allowed are 'integers' from 1, 'fractions' "
                "and 'quantiles'."
            )
        return tuple(int(v) for v in self.values)


@dataclass(frozen=True)
class Scale:
    """How a layer is read: its thresholds, and what makes a sign of its integers and of its float response."""

    thresholds: tuple[int, ...]
    integers: Affine
    real: Affine

    def phi(self, r: Tensor) -> Tensor:
        """float32, as r; r of whole numbers."""
        return sum(((r >= t).float() - (r <= -t).float() for t in self.thresholds), torch.zeros_like(r))


def scales(
    network: nn.Module, places: list[Place], batches: Sequence[Batch], thresholds: Thresholds, reference: Reference
) -> list[Scale]:
    """One for each place, from all batches."""
    totals = [torch.zeros(2, place.channels, dtype=torch.float64) for place in places]
    counts = [torch.zeros(place.inputs + 1, dtype=torch.int64) for place in places]
    pixels = [0 for _ in places]
    for batch in batches:
        for i, response in enumerate(responses.respond(network, places, batch)):
            real = response.real.double()
            totals[i] += torch.stack([real.sum(0), real.square().sum(0)]).cpu()
            counts[i] += torch.bincount(response.integers.abs().long().flatten(), minlength=len(counts[i])).cpu()
            pixels[i] += len(real)
    made = []
    for place, total, magnitudes, n in zip(places, totals, counts, pixels, strict=True):
        mean, square = total.to(place.layer.weight.device) / n
        wanted = responses.of_real(place, mean, square - mean.square(), reference)
        made.append(Scale(thresholds.of(place.inputs, magnitudes), responses.of_integers(place), wanted))
    return made


@dataclass
class Sums:
    """float64; see the module's docstring. `own_own`, `own_real` and `real_real` are sums of u u, u g and g g, [C];
    `wrong` counts the pixels where their signs differ."""

    gram: Tensor
    response: Tensor
    own: Tensor
    own_own: Tensor
    own_real: Tensor
    real_real: Tensor
    wrong: Tensor
    pixels: int

    @classmethod
    def zero(cls, channels: int, device: torch.device) -> Self:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        gram, response, own = (zeros(channels, channels) for _ in range(3))
        own_own, own_real, real_real, wrong = (zeros(channels) for _ in range(4))
        return cls(gram, response, own, own_own, own_real, real_real, wrong, 0)

    def add(self, response: Response, scale: Scale) -> None:
        """Count one more batch."""
        phi = scale.phi(response.integers).double()
        u, g = scale.integers(response.integers.double()), scale.real(response.real.double())
        self.gram += phi.T @ phi
        self.response += phi.T @ g
        self.own += phi.T @ u
        self.own_own += u.square().sum(0)
        self.own_real += (u * g).sum(0)
        self.real_real += g.square().sum(0)
        self.wrong += ((u >= 0) != (g >= 0)).sum(0)
        self.pixels += len(u)


def sums(network: nn.Module, places: list[Place], scales: list[Scale], batches: Sequence[Batch]) -> list[Sums]:
    """One for each place, from all batches; interactions that the layers have are not counted."""
    made = [Sums.zero(place.channels, place.layer.weight.device) for place in places]
    for batch in batches:
        for total, response, scale in zip(made, responses.respond(network, places, batch), scales, strict=True):
            total.add(response, scale)
    return made
