"""What a training step is made of: rates, order, crops, groups of parameters, the loss, weights from elsewhere."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from bnncc.models import build
from bnncc.nn import BinaryConv2d, TrainedBinaryConv2d
from bnncc.runtime.errors import InputError, OptionError
from bnncc.train import Data, Options, Part, fit, parameters
from bnncc.train.augment import augment, order
from bnncc.train.objective import Objective
from bnncc.train.options import Schedule
from bnncc.train.schedule import factor
from bnncc.train.warm_start import warm_start
from tests.train.worker import data, network


@pytest.mark.parametrize(
    ("schedule", "places"),
    [
        ("one-cycle", {0: 0.04, 15: 0.52, 30: 1.0, 65: 0.5, 100: 0.0}),
        ("cosine", {0: 1.0, 25: 0.5 + math.sqrt(0.5) / 2, 50: 0.5, 100: 0.0}),
        ("step", {0: 1.0, 49: 1.0, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
        ("constant", {0: 1.0, 99: 1.0}),
    ],
)
def test_schedules(schedule: Schedule, places: dict[int, float]) -> None:
    assert {step: factor(schedule, step, 100) for step in places} == pytest.approx(places, rel=0, abs=1e-12)


def test_warm_up_rises_to_where_the_schedule_begins() -> None:
    rates = [factor("cosine", step, 20, 4) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], rel=0, abs=1e-12)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))


@given(samples=st.integers(1, 300), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 1000))
def test_order_is_a_permutation_of_its_own_in_each_epoch(samples: int, seed: int, epoch: int) -> None:
    found = order(samples, seed, epoch)
    assert sorted(found.tolist()) == list(range(samples))
    assert torch.equal(found, order(samples, seed, epoch))
    if samples > 20:
        assert not torch.equal(found, order(samples, seed, epoch + 1))
        assert not torch.equal(found, order(samples, seed + 1, epoch))


@given(crop=st.integers(0, 3), flip=st.booleans(), epoch=st.integers(0, 100))
def test_each_image_is_moved_by_itself(crop: int, flip: bool, epoch: int) -> None:
    images = torch.from_numpy(np.random.default_rng(epoch).integers(1, 256, (7, 2, 5, 6), dtype=np.uint8))
    indices = torch.arange(10, 17)
    found = augment(images, indices, 3, epoch, crop=crop, flip=flip)
    alone = [augment(images[i : i + 1], indices[i : i + 1], 3, epoch, crop=crop, flip=flip) for i in range(7)]
    assert torch.equal(found, torch.cat(alone))  # whatever else is in the batch
    padded = functional.pad(images, (crop,) * 4)
    for image, whole in zip(found, padded, strict=True):
        places = [
            whole[:, y : y + 5, x : x + 6].flip([-1] if f else [])
            for y in range(2 * crop + 1)
            for x in range(2 * crop + 1)
            for f in {False, flip}
        ]
        assert any(torch.equal(image, place) for place in places)


def test_every_move_is_met_alike() -> None:
    image = torch.arange(1, 26, dtype=torch.uint8).reshape(1, 1, 5, 5).expand(9000, 1, 5, 5)
    found = augment(image, torch.arange(9000), 0, 0, crop=1, flip=True)
    _, counts = torch.unique(found.flatten(1), dim=0, return_counts=True)
    assert len(counts) == 18
    assert 400 < int(counts.min()) <= int(counts.max()) < 600  # 500 each


def test_each_kind_of_parameter_has_its_decay() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), TrainedBinaryConv2d(2, 3, 3))
    given = Options(epochs=1, weight_decay=0.5, latent_decay=0.25, alpha_decay=0.125)
    decays = {
        id(parameter): group["weight_decay"]
        for group in parameters.optimizer(module, given).param_groups
        for parameter in group["params"]
    }
    assert {name: decays[id(parameter)] for name, parameter in module.named_parameters()} == {
        "0.weight": 0.5,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": 0.25,
        "2.bias": 0.0,
        "2.alpha_w": 0.125,
        "2.alpha_a": 0.0,
    }


def test_flips_count_signs_and_latent_weights_are_clipped() -> None:
    layer = BinaryConv2d(1, 1, 2)
    weights = parameters.latent(layer)
    assert list(weights) == ["weight"]
    layer.weight.data = torch.tensor([[[[0.0, -0.5], [2.0, -3.0]]]])
    before = parameters.signs(weights)
    layer.weight.data = torch.tensor([[[[-0.1, -0.0], [2.0, -3.0]]]])
    assert parameters.flips(before, parameters.signs(weights)) == {"weight": 2}  # to -1, and to sign(-0.0) = +1
    parameters.clip(list(weights.values()), 1.0)
    assert layer.weight.flatten().tolist() == pytest.approx([-0.1, -0.0, 1.0, -1.0], rel=0, abs=1e-7)


def test_the_loss_is_what_it_says() -> None:
    torch.manual_seed(0)
    module, teacher = (build("resnet20", "float", classes=3, image=(1, 8, 8), width=0.25) for _ in range(2))
    images, labels = torch.randn(6, 1, 8, 8), torch.arange(6) % 3
    given = Options(epochs=1, label_smoothing=0.1, distill_weight=0.75, center_weight=0.5)
    objective = Objective(module.eval(), given, 3, teacher)
    assert objective.centers is not None
    objective.centers.centers.data.normal_()
    loss, right = objective(images, labels)
    scores, soft = module(images), functional.softmax(teacher.eval()(images), 1)
    hard = functional.cross_entropy(scores, labels, label_smoothing=0.1)
    divergence = (soft * (soft.log() - functional.log_softmax(scores, 1))).sum(1).mean()
    distances = (module.features(images) - objective.centers.centers[labels]).square().sum(1).mean()
    torch.testing.assert_close(loss, 0.25 * hard + 0.75 * divergence + 0.25 * distances, rtol=1e-5, atol=0)
    assert int(right) == int((scores.argmax(1) == labels).sum())
    loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    names = {name for name, _ in objective.named_parameters()}
    assert names == {f"network.{n}" for n, _ in module.named_parameters()} | {"centers.centers"}


def test_weights_from_the_float_twin() -> None:
    torch.manual_seed(0)
    twin = build("resnet20", "float", image=(1, 8, 8), width=0.25, classes=4)
    module = build("resnet20", "trained-binarization", image=(1, 8, 8), width=0.25)
    found = warm_start(module, {**twin.state_dict(), "other": torch.zeros(1)})
    assert set(found.left) == {"other", "classifier.weight", "classifier.bias"}
    assert {name.rpartition(".")[2] for name in found.kept} == {"alpha_w", "alpha_a", "weight", "bias"}
    own, theirs = module.state_dict(), twin.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in found.taken)
    assert "stages.0.0.conv1.weight" in found.taken
    conv = module.get_submodule("stages.0.0.conv1")
    assert isinstance(conv, TrainedBinaryConv2d)
    torch.testing.assert_close(conv.alpha_w.detach(), conv.weight.detach().abs().mean((1, 2, 3)), rtol=1e-6, atol=0)


def test_group_net_begins_with_tanh_and_ends_with_signs() -> None:
    module = build("resnet20", "group-net", image=(1, 8, 8), width=0.25, bases=2, classes=3)
    stages: list[tuple[bool, float]] = []

    def note(stage: str, done: int, total: int) -> None:
        conv = module.get_submodule("stages.groups.0.layers.0.convs.0")
        stages.append((bool(conv.tanh), 0.0))

    found = fit(module, data(), Options(epochs=3, batch=70, tanh_epochs=1, device="cpu", threads=1), progress=note)
    assert [on for on, _ in stages] == [True, False, False]
    assert len(found.epochs) == 3
    # each stage of one and of two steps has its own cycle: a first step is at 1 / 25 of the highest rate
    assert [e.learning_rate for e in found.epochs][:2] == pytest.approx([2e-4, 2e-4], rel=1e-9, abs=0)


def test_interactions_are_mined_between_epochs_to_the_same_bits(tmp_path: Path) -> None:
    given = Options(epochs=2, batch=16, mine_every=1, mine_steps=2, device="cpu", threads=1)
    runs = []
    for name in "ab":
        torch.manual_seed(0)
        module = build("vgg-small", "ci-bcnn", image=(1, 8, 8), width=1 / 16, classes=3)
        history = fit(module, data(), given, tmp_path / name)
        runs.append((module.state_dict(), history.epochs))
    (state, epochs), (again, _) = runs
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert [len(epoch.mined) for epoch in epochs] == [5, 0]
    assert sum(len(table) for name, table in state.items() if name.endswith("interaction.up")) > 0
    assert all(0 <= float(layer["policy"]) <= 1 for layer in epochs[0].mined)
    resumed = build("vgg-small", "ci-bcnn", image=(1, 8, 8), width=1 / 16, classes=3)  # its graphs have no edges yet
    fit(resumed, data(), given, tmp_path / "a")
    assert all(torch.equal(resumed.state_dict()[name], state[name]) for name in state)


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_precisions_train(precision: Any) -> None:
    found = fit(network(), data(), Options(epochs=2, batch=16, precision=precision, device="cpu", threads=1))
    assert found.epochs[1].loss < found.epochs[0].loss


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs is 0; allowed are whole numbers from 1"),
        ({"batch": 1}, "batch is 1; allowed are whole numbers from 2"),
        ({"batch": 9, "processes": 2}, "batch is 9; allowed are 2 or more a process, the same number each"),
        ({"learning_rate": math.nan}, "learning_rate is nan; allowed are numbers from 0"),
        ({"schedule": "linear"}, "schedule is 'linear'; allowed are 'one-cycle', 'cosine', 'step', 'constant'"),
        ({"warm_up": 0.5}, r"warm_up is 0\.5; allowed are 0 with one-cycle"),
        ({"momentum": 1.5}, r"momentum is 1\.5; allowed are numbers from 0 to 1"),
        ({"tanh_epochs": 1}, "tanh_epochs is 1; allowed are less than epochs"),
        ({"seed": True}, "seed is True; allowed are whole numbers from 0"),
    ],
)
def test_options_that_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"^training: {message}"):
        Options(**{"epochs": 1, **values})


def test_data_that_is_refused() -> None:
    with pytest.raises(InputError, match=r"labels torch.int64 \[3\]; allowed are"):
        Part(torch.zeros(4, 1, 8, 8), torch.zeros(3, dtype=torch.int64))
    part = Part(torch.zeros(4, 1, 8, 8), torch.arange(4))
    with pytest.raises(InputError, match="found labels 0 to 3, allowed are 0 to 1"):
        Data(part, part, ("a", "b"))
    with pytest.raises(OptionError, match=r"in epoch 1 the loss is \S+, and nan on test images; allowed are"):
        fit(
            network(), data(), Options(epochs=1, optimizer="sgd", schedule="constant", learning_rate=1e30, device="cpu")
        )
    with pytest.raises(OptionError, match="device 'cuda' cannot be had"):
        fit(network(), data(), Options(epochs=1, device="cuda"))
