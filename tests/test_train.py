"""The training loop: it learns, it repeats itself, it refuses what it cannot train on."""

from typing import Any

import numpy as np
import pytest
import torch

from bnncc.models import digits_net
from bnncc.nn import BinaryConv2d, BinaryLinear
from bnncc.runtime.errors import InputError, OptionError
from bnncc.train import accuracy, train
from examples.digits import load_digits, train_digits


def test_digits_are_learned() -> None:
    module, x, labels = train_digits(epochs=6, progress=False)
    assert x.shape == (360, 1, 8, 8)
    assert not module.training
    assert accuracy(module, x, labels) > 0.95
    for layer in module.modules():
        if isinstance(layer, BinaryConv2d | BinaryLinear):
            assert float(layer.weight.detach().abs().max()) <= 1


def test_the_split_leaks_nothing() -> None:
    x, labels, x_test, labels_test = load_digits()
    assert (len(x), len(labels), len(x_test), len(labels_test)) == (1437, 1437, 360, 360)
    assert not {image.tobytes() for image in x} & {image.tobytes() for image in x_test}
    assert float(np.abs(x).max()) <= 1


def test_same_seed_same_weights(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((65, 1, 8, 8)).astype(np.float32)  # the last of the batches would be a single sample
    labels = rng.integers(0, 10, 65)
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        module = digits_net()
        train(module, x, labels, epochs=2, batch=16, seed=seed, progress=False)
        states.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "samples", "options", "message"),
    [
        (InputError, 3, {}, "x holds 4 samples and labels 3; allowed is the same number"),
        (OptionError, 4, {"epochs": 0}, "epochs is 0; allowed are whole numbers from 1"),
        (OptionError, 4, {"batch": 1}, "batch is 1; allowed are whole numbers from 2"),
        (OptionError, 4, {"learning_rate": float("nan")}, "learning_rate is nan; allowed are finite numbers above 0"),
    ],
)
def test_refusals(error: type[Exception], samples: int, options: dict[str, Any], message: str) -> None:
    x, labels = np.zeros((4, 1, 8, 8), np.float32), np.zeros(samples, np.int64)
    with pytest.raises(error, match=f"^train: {message}"):
        train(digits_net(), x, labels, **{"epochs": 1, **options})
