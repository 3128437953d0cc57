"""Mining: which channels of each layer should teach which, with the network's weights as they are."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnncc.nn.mining import least_squares, responses, statistics
from bnncc.nn.mining.edges import Edges
from bnncc.nn.mining.least_squares import Fit
from bnncc.nn.mining.options import MiningOptions
from bnncc.nn.mining.policy import Actions, Policy, features
from bnncc.nn.mining.responses import Batch, Place
from bnncc.nn.mining.statistics import Scale, Sums
from bnncc.runtime.errors import InputError


@dataclass(frozen=True)
class MiningResult:
    """One layer. Shares of signs that agree with the float response, 0 to 1, on images that nothing was mined on.

    none, before          without edges; with those that the layer had
    policy                with the policy's edges, `edges` of them
    least_squares         with those of the closed form
    random                with as many as the policy's, at random, of strengths that fit
    first, last           mean reward of the actions drawn in the first and the last quarter of the steps
    """

    layer: str
    edges: int
    none: float
    before: float
    policy: float
    least_squares: float
    random: float
    first: float
    last: float


class Miner:
    """A policy and its optimiser, which learn from call to call. Weights of the policy come from `generator`."""

    def __init__(self, options: MiningOptions, generator: torch.Generator) -> None:
        self.options = options
        self.policy = Policy(options.levels, options.hidden, generator)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=options.learning_rate)

    def state_dict(self) -> dict[str, Any]:
        """All that a later call depends on besides network, batches and generator."""
        return {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, to the same bits on the same machine."""
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])

    def mine(
        self,
        network: nn.Module,
        batches: Iterable[Batch],
        generator: torch.Generator,
        judges: Iterable[Batch] | None = None,
    ) -> list[MiningResult]:
        """Set the graphs of all layers of `network` that have an interaction; weights and BatchNorms stay.

        batches    images, or (images, labels), each a whole batch; statistics are taken of every second one, rewards
                   of the others
        generator  on the CPU; draws actions, and random edges to compare with
        judges     batches on which the agreement is told. None: every third of `batches`, which is not mined on then

        Edges that the layers have are where the policy begins, rounded to the units. InputError: too few batches.
        """
        given = list(batches)
        judging = given[2::3] if judges is None else list(judges)
        if judges is None:
            given = [batch for i, batch in enumerate(given) if i % 3 != 2]
        if len(given) < 2 or not judging:
            raise InputError(
                "mine: too few batches; allowed are 2 and judges, or 3 without. Give smaller batches, or more images."
            )
        counted, paying = given[::2], given[1::2]
        places = responses.places(network, given[0])
        device = places[0].layer.weight.device
        self.policy.to(device)
        scales = statistics.scales(network, places, counted, self.options.thresholds, self.options.reference)
        sums = statistics.sums(network, places, scales, counted)
        closed = [self._closed(*layer) for layer in zip(sums, scales, strict=True)]
        layers = [Edges(*parts, self.options) for parts in zip(places, scales, sums, closed, strict=True)]

        before = agreements(network, places, scales, judging)
        for layer in layers:
            layer.install(layer.strengths)
        paid = self._learn(network, layers, paying, generator)
        found = {"policy": [layer.strengths for layer in layers], "none": [0 * layer.strengths for layer in layers]}
        found["least-squares"] = [fit.strengths for fit in closed]
        found["random"] = [layer.random(generator) for layer in layers]
        told = {}
        for name, strengths in found.items():
            for layer, made in zip(layers, strengths, strict=True):
                layer.install(made)
            told[name] = agreements(network, places, scales, judging)
        for layer, made in zip(layers, found[self.options.by], strict=True):
            layer.install(made)
        quarter = max(1, self.options.steps // 4)
        return [
            MiningResult(
                layer=place.name,
                edges=int((found["policy"][i] != 0).sum()),
                none=told["none"][i],
                before=before[i],
                policy=told["policy"][i],
                least_squares=told["least-squares"][i],
                random=told["random"][i],
                first=_mean(paid[i][:quarter]),
                last=_mean(paid[i][-quarter:]),
            )
            for i, place in enumerate(places)
        ]

    def _closed(self, sums: Sums, scale: Scale) -> Fit:
        options = self.options
        return least_squares.fit(sums, scale, units=options.units, levels=options.levels, most=options.edges)

    def _learn(
        self, network: nn.Module, layers: Sequence[Edges], batches: Sequence[Batch], generator: torch.Generator
    ) -> list[list[float]]:
        """The mean reward of each step, of each layer."""
        paid: list[list[float]] = [[] for _ in layers]
        for _, batch in zip(range(self.options.steps), itertools.cycle(batches), strict=False):
            said = responses.respond(network, [layer.place for layer in layers], batch)
            for layer, response, rewards_of in zip(layers, said, paid, strict=True):
                layer.weigh(response)
                seen = features(layer.explained, layer.strengths, self.options.levels)
                options = self.options
                actions = self.policy.sample(seen, layer.strengths, options.actions, options.explore, generator)
                value = layer.value(network, batch, response, actions)
                self._reinforce(actions, value.reward)
                layer.act(actions, value)
                rewards_of.append(float(value.reward.mean()))
        return paid

    def _reinforce(self, actions: Actions, reward: Tensor) -> None:
        """REINFORCE (Williams, 1992), each action against the mean of the others, in units of their spread."""
        count = len(reward)
        advantage = (reward - reward.mean()) * count / (count - 1)
        advantage = advantage / advantage.std().clamp(min=1e-6)
        self.optimizer.zero_grad()
        loss = -(advantage.float() * actions.log_probability).mean() - self.options.entropy * actions.entropy
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


def mine(
    network: nn.Module,
    batches: Iterable[Batch],
    options: MiningOptions,
    generator: torch.Generator,
    judges: Iterable[Batch] | None = None,
) -> list[MiningResult]:
    """`Miner.mine` with a new policy."""
    return Miner(options, generator).mine(network, batches, generator, judges)


def agreements(
    network: nn.Module, places: Sequence[Place], scales: Sequence[Scale], batches: Sequence[Batch]
) -> list[float]:
    """For each place the share of signs that agree with the float response, with the edges that it has; 0 to 1."""
    right, count = [0] * len(places), [0] * len(places)
    for batch in batches:
        for i, response in enumerate(responses.respond(network, list(places), batch)):
            ours = scales[i].integers(response.interacted.double()) >= 0
            theirs = scales[i].real(response.real.double()) >= 0
            right[i] += int((ours == theirs).sum())
            count[i] += ours.numel()
    return [r / c for r, c in zip(right, count, strict=True)]


def table(results: Sequence[MiningResult]) -> str:
    """One line a layer: percent of signs that agree, and of the closed form's gain what the policy has."""
    lines = ["layer             edges   none  policy  least squares  random  policy / least squares"]
    for r in results:
        ratio = (r.policy - r.none) / (r.least_squares - r.none) if r.least_squares != r.none else float("nan")
        shares = f"{100 * r.none:>5.2f}  {100 * r.policy:>6.2f}  {100 * r.least_squares:>13.2f}  {100 * r.random:>6.2f}"
        lines.append(f"{r.layer:<16}  {r.edges:>5}  {shares}  {ratio:>22.2f}")
    return "\n".join(lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
