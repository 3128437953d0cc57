"""A small training loop for networks whose data fit in memory: Adam, cosine learning rate, latent weights clipped."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from bnncc.nn.layer import BinaryLayer
from bnncc.runtime.errors import InputError, OptionError


def train(
    module: nn.Module,
    x: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    *,
    epochs: int,
    batch: int = 64,
    learning_rate: float = 1e-2,
    seed: int = 0,
    title: str = "training",
    progress: bool = True,
) -> None:
    """Train `module` in place on x float32 [N, ...] and labels int64 [N], and leave it in eval mode.

    Cross-entropy, Adam (Kingma and Ba, ICLR 2015), a cosine from `learning_rate` to 0 over all steps (Loshchilov and
    Hutter, ICLR 2017). Latent binary weights are clipped to [-1, 1] after each step, without which those that left the
    estimator's range would never change sign again (Courbariaux et al., NIPS 2015). The same seed, data and machine
    give the same weights; initial weights are the caller's: seed torch before building `module`.

    A last batch of a single sample is left out, since BatchNorm has no variance of one.

    `progress` shows a bar with `title` on stderr. InputError: x and labels do not fit. OptionError: a bad number.
    """
    if len(x) != len(labels) or len(x) < 2:
        raise InputError(
            f"train: x holds {len(x)} samples and labels {len(labels)}; allowed is the same number, 2 or more. "
            f"Pass one label for each sample."
        )
    for name, value, least in (("epochs", epochs, 1), ("batch", batch, 2)):
        if value < least:
            raise OptionError(f"train: {name} is {value}; allowed are whole numbers from {least}.")
    if not 0 < learning_rate < float("inf"):
        raise OptionError(f"train: learning_rate is {learning_rate}; allowed are finite numbers above 0.")
    samples, targets = torch.from_numpy(x), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(x) // batch))
    latent = [m.weight for m in module.modules() if isinstance(m, BinaryLayer)]
    module.train()
    for chosen in _batches(len(x), batch, epochs, generator, title, progress):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(module(samples[chosen]), targets[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for weight in latent:
                weight.clamp_(-1, 1)
    module.eval()


def accuracy(module: nn.Module, x: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Share of x float32 [N, ...] whose largest output is at its label, int64 [N]; 0 to 1. In eval mode."""
    was_training = module.training
    module.eval()
    with torch.no_grad():
        right = module(torch.from_numpy(x)).argmax(1).numpy() == labels
    module.train(was_training)
    return float(right.mean())


def _batches(
    samples: int, batch: int, epochs: int, generator: torch.Generator, title: str, progress: bool
) -> Iterator[torch.Tensor]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("epoch {task.completed}/{task.total}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not progress) as bar:
        task = bar.add_task(title, total=epochs)
        for _ in range(epochs):
            order = torch.randperm(samples, generator=generator)
            for start in range(0, samples, batch):
                chosen = order[start : start + batch]
                if len(chosen) > 1:
                    yield chosen
            bar.advance(task)
