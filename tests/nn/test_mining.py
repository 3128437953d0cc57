"""Mining: sums, gains and rewards are what they say; the miners raise sign agreement, repeatably and resumably."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnncc.models.reactnet import Shift
from bnncc.nn import BinaryConv2d, ChannelInteraction, InteractionGraph, Sign
from bnncc.nn.interaction_graph import stepped
from bnncc.nn.mining import Miner, MiningOptions, Rewards, Thresholds, agreements, mine, rewards, statistics, table
from bnncc.nn.mining.least_squares import Explained, greedy
from bnncc.nn.mining.policy import Actions
from bnncc.nn.mining.responses import Batch, Place, labels, places, respond
from bnncc.nn.mining.statistics import Scale
from bnncc.runtime.errors import InputError, OptionError
from tests.conftest import randomise

CHANNELS = 12


def network(seed: int = 0) -> nn.Sequential:
    """Binary layers behind shifts, before a pool, with and without a BatchNorm; statistics as if trained."""
    torch.manual_seed(seed)
    made = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        BinaryConv2d(
            8,
            CHANNELS,
            3,
            padding=1,
            scale="channel",
            input_quantizer=nn.Sequential(Shift(8), Sign()),
            interaction=ChannelInteraction(CHANNELS),
        ),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(CHANNELS),
        BinaryConv2d(CHANNELS, CHANNELS, 3, bias=False, interaction=ChannelInteraction(CHANNELS)),
        nn.Flatten(),
        nn.Linear(4 * CHANNELS, 10),
    )
    randomise(made, torch.empty(1, 1, 8, 8), seed)
    return made


def batches(count: int = 6, *, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(16, 1, 8, 8, generator=generator), torch.randint(10, (16,), generator=generator))
        for _ in range(count)
    ]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def install(place: Place, strengths: Tensor, unit: int, scale: Scale) -> None:
    place.interaction.graph = InteractionGraph.of(
        CHANNELS,
        [
            stepped(t, s, int(strengths[t, s]), unit=unit, thresholds=scale.thresholds)
            for t, s in strengths.nonzero().tolist()
        ],
    )


def some_strengths() -> Tensor:
    strengths = torch.randint(-2, 3, (CHANNELS, CHANNELS), generator=generator(5))
    return strengths * (torch.rand(CHANNELS, CHANNELS, generator=generator(6)) < 0.2) * (1 - torch.eye(CHANNELS).long())


def test_layers_and_what_they_say() -> None:
    module, (batch, *_) = network(), batches()
    found = places(module, batch)
    assert [(place.name, place.inputs) for place in found] == [("2", 72), ("5", 108)]
    assert found[0].norm is module[4]
    assert found[1].norm is None
    first, layer = respond(module, found, batch)[0], found[0].layer
    with torch.no_grad():
        x = module[1](module[0](batch[0]))
        shifted = layer.input_quantizer.get_submodule("0")(x)
        integers = layer.correlate(torch.where(shifted >= 0, 1.0, -1.0), torch.where(layer.weight >= 0, 1.0, -1.0))
        real = nn.functional.conv2d(shifted, layer.weight, padding=1)
        assert torch.equal(first.integers, integers.movedim(1, -1).reshape(-1, CHANNELS))
        np.testing.assert_allclose(first.real, real.movedim(1, -1).reshape(-1, CHANNELS), rtol=1e-5, atol=1e-5)
        normalised = module[4](layer(x))  # without the pool
    scale = statistics.scales(module, found, [batch], Thresholds(), "normalised")[0]
    by_scale = scale.integers(first.integers.double())
    np.testing.assert_allclose(by_scale, normalised.movedim(1, -1).reshape(-1, CHANNELS), rtol=1e-4, atol=1e-4)


def test_sums_are_streamed_and_tell_what_edges_explain() -> None:
    """The explained share from sums of the plain integers is that of the integers that the network then gives."""
    module, given = network(), batches(3)
    found = places(module, given[0])
    scales = statistics.scales(module, found, given, Thresholds(values=(0.3, 0.6)), "normalised")
    sums = statistics.sums(module, found, scales, given)
    strengths = some_strengths()
    for i, (place, scale, total) in enumerate(zip(found, scales, sums, strict=True)):
        assert total.pixels == 48 * (64 if i == 0 else 4)
        install(place, strengths, 3, scale)
        said = [respond(module, found, batch)[i] for batch in given]
        install(place, 0 * strengths, 3, scale)
        v = scale.integers(torch.cat([response.interacted for response in said]).double())
        u = scale.integers(torch.cat([response.integers for response in said]).double())
        g = scale.real(torch.cat([response.real for response in said]).double())
        if place.norm is not None:  # the float response has gamma and beta of that BatchNorm
            np.testing.assert_allclose(g.mean(0), place.norm.bias.detach(), atol=1e-6)
            np.testing.assert_allclose(g.std(0, correction=0), place.norm.weight.detach().abs(), rtol=1e-2, atol=1e-3)
        explained = Explained(total, scale, 3, strengths)
        aligned = (g * v).sum(0)
        share = torch.where(aligned > 0, aligned.square() / ((g * g).sum(0) * (v * v).sum(0)).clamp(min=1e-300), 0)
        np.testing.assert_allclose(explained.shares(), share, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(total.wrong, ((u >= 0) != (g >= 0)).sum(0))

        gains, before = explained.gains(-2), explained.shares()
        explained.apply(3, 7, -2)
        np.testing.assert_allclose(explained.shares()[7] - before[7], gains[3, 7], rtol=1e-9, atol=1e-12)
        changed = strengths.clone()
        changed[3, 7] -= 2
        np.testing.assert_allclose(explained.shares(), Explained(total, scale, 3, changed).shares(), rtol=1e-9)


def test_the_residual_is_what_regression_leaves() -> None:
    """Of the student's float response on its own value; the strength that would fit is that of a second regressor."""
    module, given = network(), batches(3)
    found = places(module, given[0])
    scales = statistics.scales(module, found, given, Thresholds(), "normalised")
    sums = statistics.sums(module, found, scales, given)
    (total, _), scale, unit = sums, scales[0], 2
    none = torch.zeros(CHANNELS, CHANNELS, dtype=torch.int64)
    correlation, fitted = Explained(total, scale, unit, none).residual()
    said = [respond(module, found, batch)[0] for batch in given]
    r = torch.cat([response.integers for response in said])
    g = scale.real(torch.cat([response.real for response in said]).double()).numpy()
    u, phi = scale.integers(r.double()).numpy(), scale.phi(r).double().numpy()
    for teacher, student in ((0, 1), (5, 2), (7, 4)):
        both = np.stack([u[:, student], phi[:, teacher]], 1)
        (multiple, strength), *_ = np.linalg.lstsq(both, g[:, student], rcond=None)
        alone = np.linalg.lstsq(both[:, :1], g[:, student], rcond=None)[0]
        step = float(scale.integers.scale[student]) * unit
        expected = strength / (alone[0] * step)
        np.testing.assert_allclose(fitted[teacher, student], expected, rtol=1e-6)
        assert np.sign(float(correlation[teacher, student])) == np.sign(expected)
        assert multiple > 0


def test_greedy_takes_the_best_edge_first() -> None:
    module, given = network(), batches(3)
    found = places(module, given[0])
    scales = statistics.scales(module, found, given, Thresholds(), "normalised")
    (total, _), scale = statistics.sums(module, found, scales, given), scales[0]
    best, edge = -1.0, (0, 0, 0)
    for teacher in range(CHANNELS):
        for student in set(range(CHANNELS)) - {teacher}:
            for k in (-2, -1, 1, 2):
                strengths = torch.zeros(CHANNELS, CHANNELS, dtype=torch.int64)
                strengths[teacher, student] = k
                share = float(Explained(total, scale, 2, strengths).shares().sum())
                best, edge = max((best, edge), (share, (teacher, student, k)))
    one = greedy(total, scale, unit=2, levels=2, most=1)
    assert one.strengths.nonzero().tolist() == [list(edge[:2])]
    assert int(one.strengths[edge[:2]]) == edge[2]
    np.testing.assert_allclose(one.explained, best, rtol=1e-9)

    allowed = torch.zeros(CHANNELS, CHANNELS, dtype=torch.bool)
    allowed[:, 4] = True
    many = greedy(total, scale, unit=2, levels=2, most=100, allowed=allowed)
    assert 0 < int((many.strengths != 0).sum()) < CHANNELS
    assert int((many.strengths[:, 4] != 0).sum()) == int((many.strengths != 0).sum())
    assert int(many.strengths.abs().max()) <= 2


def actions(*rows: tuple[int, int, int]) -> Actions:
    teacher, student, change = torch.tensor(rows).unbind(1)
    return Actions(teacher, student, change, torch.zeros(len(rows)), torch.zeros(()))


def test_rewards_are_what_changes_in_the_network() -> None:
    module, (batch, *_) = network(), batches()
    found = places(module, batch)
    scales = statistics.scales(module, found, [batch], Thresholds(), "normalised")
    strengths = some_strengths()
    strengths[0, 1], strengths[2, 3] = 1, 0
    tried = actions((0, 1, -1), (2, 3, 2), (0, 1, 1), (-1, 0, 0))
    for i, (place, scale) in enumerate(zip(found, scales, strict=True)):
        install(place, strengths, 2, scale)
        response = respond(module, found, batch)[i]
        before = agreements(module, found, scales, [batch])[i]
        teachers = tried.teacher.clamp(min=0)
        value = rewards.agreement(teachers, tried.student, tried.change, response, scale, 2)
        sure = rewards.information(tried, response, strengths)
        chosen = zip(teachers.tolist(), tried.student.tolist(), tried.change.tolist(), strict=True)
        for row, (teacher, student, change) in enumerate(chosen):
            after = strengths.clone()
            after[teacher, student] += change
            install(place, after, 2, scale)
            gained = agreements(module, found, scales, [batch])[i] - before
            np.testing.assert_allclose(value.reward[row], 100 * CHANNELS * gained, rtol=1e-3, atol=1e-3)
            size = response.integers.abs()
            wanted = [float(torch.sign(size[:, t] - size[:, s]).mean()) for t, s in after.nonzero().tolist()]
            np.testing.assert_allclose(sure[row], np.mean(wanted), rtol=1e-4, atol=1e-5)
        install(place, 0 * strengths, 2, scale)
        assert float(value.error[3]) == 0


def test_the_loss_counts_in_its_own_standard_errors() -> None:
    module, (batch, *_) = network(), batches()
    with torch.no_grad():
        plain = module(batch[0])
    right = nn.functional.one_hot(batch[1], 10).float()
    noise = torch.randn(16, 10, generator=generator())
    made: dict[int, Tensor] = {-1: plain, 0: plain + right, 1: plain - right, 2: plain + 1e-3 * noise, 3: plain}
    current: list[Tensor] = [plain]

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return current[0]

    def attempt(i: int) -> None:
        current[0] = made[i]

    assert rewards.loss(Fixed(), batch, 4, attempt, errors=3.0).tolist() == [1, -1, 0, 0]
    assert current[0] is plain
    with pytest.raises(InputError, match="give batches as"):
        labels(batch[0])


OPTIONS = MiningOptions(edges=20, steps=25, actions=16, units=(2, 4))


def test_miners_raise_agreement_and_leave_the_rest_alone() -> None:
    module = network().train()
    module[1].eval()
    state = {k: v.clone() for k, v in module.state_dict().items() if "interaction" not in k}
    results = mine(module, batches(12), OPTIONS, generator(), judges=batches(4, seed=1))
    for result in results:
        assert 0 < result.edges <= 20
        assert result.none == result.before
        assert result.none < result.random < result.policy
        assert result.policy - result.none > 0.8 * (result.least_squares - result.none)
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items() if "interaction" not in k)
    assert module.training
    assert not module[1].training
    assert all(parameter.grad is None for parameter in module.parameters())
    assert len(table(results).splitlines()) == 3


@pytest.mark.parametrize("by", ["policy", "least-squares", "random"])
def test_the_network_is_left_with_the_edges_asked_for(by: Any) -> None:
    module = network()
    plain = copy.deepcopy(module)
    options = MiningOptions(edges=8, steps=4, actions=8, units=(3,), by=by)
    told = mine(module, batches(4), options, generator(), judges=batches(2, seed=1))
    found = places(module, batches()[0])
    scales = statistics.scales(plain, places(plain, batches()[0]), batches(4)[::2], Thresholds(), "normalised")
    shares = agreements(module, found, scales, batches(2, seed=1))
    assert shares == [getattr(result, by.replace("-", "_")) for result in told]


def test_mining_repeats_itself_and_resumes() -> None:
    """The second of two calls, after its state went through state dicts, gives the same bits as without."""
    module, drawn = network(), generator(3)
    miner = Miner(OPTIONS, drawn)
    miner.mine(module, batches(6), drawn)
    kept = copy.deepcopy((module.state_dict(), miner.state_dict(), drawn.get_state()))
    first = miner.mine(module, batches(6, seed=2), drawn)

    other, later = network(), generator()
    resumed = Miner(OPTIONS, later)
    other.load_state_dict(kept[0])
    resumed.load_state_dict(kept[1])
    later.set_state(kept[2])
    assert resumed.mine(other, batches(6, seed=2), later) == first
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    for a, b in zip(miner.policy.parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_reward_is_paid() -> None:
    options = MiningOptions(
        edges=5, steps=2, actions=4, units=(2,), rewards=Rewards(agreement=0.0, information=1.0, loss=1.0)
    )
    for result in mine(network(), batches(6), options, generator()):
        assert -2 <= result.first <= 2
        assert result.first != 0
        assert result.edges <= 5


def test_thresholds_of_each_kind() -> None:
    counts = torch.bincount(torch.tensor([0, 2, 2, 4, 6, 6, 8, 10]))
    assert Thresholds("integers", (3, 5)).of(100, counts) == (3, 5)
    assert Thresholds("fractions", (0.25,)).of(100, counts) == (25,)
    assert Thresholds("quantiles", (0.5,)).of(100, counts) == (6,)
    with pytest.raises(OptionError, match="allowed are 'integers' from 1"):
        Thresholds("integers", (0,)).of(100, counts)


def test_refusals() -> None:
    given: list[Batch] = list(batches(3))
    with pytest.raises(OptionError, match="the network has no binary convolution with an interaction"):
        mine(nn.Sequential(nn.Conv2d(1, 2, 3)), given, OPTIONS, generator())
    with pytest.raises(InputError, match="too few batches; allowed are 2 and judges, or 3 without"):
        mine(network(), given[:2], OPTIONS, generator())
    module = network()
    module[4] = nn.BatchNorm2d(CHANNELS, track_running_stats=False)
    with pytest.raises(OptionError, match="behind layer 2 keeps no running statistics"):
        mine(module, given, OPTIONS, generator())
    twice = nn.Sequential(network()[5], nn.ZeroPad2d(1))
    with pytest.raises(OptionError, match=r"layer 0.0 is called 2 times in one forward"):
        mine(nn.Sequential(twice, twice), [torch.randn(2, CHANNELS, 6, 6)] * 3, OPTIONS, generator())
    refused: list[tuple[dict[str, Any], str]] = [
        ({"edges": 0}, "edges is 0; allowed are whole numbers from 1"),
        ({"units": ()}, "units are"),
        ({"by": "luck"}, "by is 'luck'"),
    ]
    for wrong, message in refused:
        with pytest.raises(OptionError, match=message):
            MiningOptions(**wrong)
