"""Networks with statistics as if trained, exported once per test session."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import bnncc
from bnncc.models import MODELS

torch.set_num_threads(1)  # tests run side by side already


def randomise(module: nn.Module, example: torch.Tensor, seed: int) -> None:
    """Give `module` statistics as training would leave them, and the awkward values that training can leave.

    Running statistics are those of one random batch. Gammas take both signs and are 0 in every eighth channel, there
    with beta 0 in every other, so that a sign reads exactly 0. PReLU slopes take both signs, shifts are not 0.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("shift"):
                parameter.normal_(0, 0.3, generator=generator)
        for prelu in (m for m in module.modules() if isinstance(m, nn.PReLU)):
            prelu.weight.uniform_(-0.5, 0.75, generator=generator)
        for norm in norms:
            size = norm.weight.shape
            norm.weight.copy_(torch.empty(size).uniform_(0.25, 1.5, generator=generator))
            norm.weight.mul_(torch.where(torch.rand(size, generator=generator) < 0.3, -1.0, 1.0))
            norm.bias.normal_(0, 0.5, generator=generator)
            norm.weight[3::8] = 0
            norm.bias[3::16] = 0
            norm.momentum = 1.0
        batch = torch.randn((4, *example.shape[1:]), generator=generator)
        module.train()(batch)
    module.eval()


@pytest.fixture(scope="session")
def exported_model() -> Callable[[str], nn.Module]:
    """Name in `MODELS` -> that network with randomised statistics, in eval mode, the same one for a name each time."""

    @cache
    def network(name: str) -> nn.Module:
        build, shape = MODELS[name]
        seed = sum(name.encode())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = build()
        randomise(module, torch.empty(shape), seed)
        return module

    return network


@pytest.fixture(scope="session")
def exported(
    exported_model: Callable[[str], nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Name in `MODELS` -> the ONNX file of `exported_model(name)`, batch 1, written once per test session."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def file(name: str) -> Path:
        path = folder / f"{name}.onnx"
        bnncc.export(exported_model(name), torch.zeros(MODELS[name][1]), path)
        return path

    return file


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests keep what they compile away from the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bnncc.cache.default_folder", lambda: folder)
        yield
