"""Trains a small network in a process of its own, which may kill itself: `python -m tests.train.worker OUT ...`."""

import argparse
import os
import signal
from pathlib import Path

import torch
from torch import Tensor, nn

from bnncc.nn import BinaryConv2d
from bnncc.train import Data, Options, Part, fit


def data(samples: int = 70) -> Data:
    """Random images uint8 [N, 1, 8, 8] of three classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (samples, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (samples,), generator=generator)
    test = Part(images[:20], labels[:20])
    return Data(Part(images, labels), test, ("a", "b", "c"), mean=(0.5,), std=(0.3,))


def network(*, norm: bool = True) -> nn.Module:
    """float [N, 1, 8, 8] -> float [N, 3], the same at each call; with dropout, which draws at random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            BinaryConv2d(8, 8, 3, padding=1, scale="channel"),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.Flatten(),
            nn.Dropout(0.2 if norm else 0.0),
            nn.Linear(512, 3),
        )


def options(*, processes: int = 1, one_step: bool = False, checkpoint_seconds: float = 0.0) -> Options:
    """Four steps an epoch and a remainder; or a single step with all images, whose momentum is its gradient."""
    if one_step:
        return Options(
            epochs=1,
            batch=70,
            optimizer="sgd",
            schedule="constant",
            clip=0.0,
            processes=processes,
            device="cpu",
            threads=1,
        )
    return Options(
        epochs=3,
        batch=16,
        seed=5,
        crop=1,
        flip=True,
        weight_decay=1e-3,
        processes=processes,
        device="cpu",
        threads=1,
        checkpoint_seconds=checkpoint_seconds,
    )


def main() -> None:
    """`--kill-at N`: SIGKILL in the forward of training step N, in the first process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--one-step", action="store_true")
    parser.add_argument("--signal-at", type=int, default=-1)
    parser.add_argument("--signal", type=int, default=signal.SIGKILL)
    arguments = parser.parse_args()
    module, steps = network(norm=not arguments.one_step), 0

    def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal steps
        if module.training:
            if steps == arguments.signal_at and os.environ.get("LOCAL_RANK", "0") == "0":
                os.kill(os.getpid(), arguments.signal)
            steps += 1

    module.register_forward_pre_hook(count)
    fit(module, data(), options(processes=arguments.processes, one_step=arguments.one_step), arguments.out)


if __name__ == "__main__":
    main()
