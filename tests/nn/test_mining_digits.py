"""What the miners gain on networks that were trained for 20 epochs on half of the digits, told on the other half."""

import pytest
import torch

from bnncc.models.methods import Recipe, scaled_conv
from bnncc.models.network import cifar_stem
from bnncc.models.resnet import resnet
from bnncc.nn.estimators import polynomial
from bnncc.nn.mining import MiningOptions, mine, table
from bnncc.nn.mining.responses import Batch
from bnncc.train import Options, fit, read
from bnncc.train.data import Part


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_policy_gains_what_least_squares_gains(seed: int) -> None:
    """In each of four layers of 32 and 64 channels, and more than as many random edges whose strengths fit."""
    data = read("digits")
    torch.manual_seed(seed)
    recipe = Recipe(scaled_conv(polynomial, interacting=True), "bireal", "float")
    network = resnet(cifar_stem(1, 32), (32, 64), 2, recipe, classes=10)
    fit(network, data, Options(epochs=20, batch=64, seed=seed, device="cpu"))

    def batches(part: Part) -> list[Batch]:
        return list(zip(torch.split(data.normalised(part.images), 64), torch.split(part.labels, 64), strict=True))

    generator = torch.Generator().manual_seed(seed)
    results = mine(network, batches(data.train), MiningOptions(), generator, judges=batches(data.test))
    print(table(results))
    assert len(results) == 4
    for result in results:
        assert result.policy > max(result.random, result.none)
        assert result.policy - result.none >= 0.8 * (result.least_squares - result.none)
