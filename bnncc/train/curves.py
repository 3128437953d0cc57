"""Curves of a run as a picture."""

from __future__ import annotations

import io
from pathlib import Path

from bnncc.runtime import atomic
from bnncc.train.history import History

NAME = "curves.png"


def draw(history: History, path: Path) -> None:
    """Loss, accuracy and flips by epoch, as PNG.

    Raises:
        OptionError: the file cannot be written there.
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    epochs = [each.epoch for each in history.epochs]
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    lines = {
        "loss": {"training": [e.loss for e in history.epochs], "test": [e.test_loss for e in history.epochs]},
        "accuracy, %": {
            "training": [100 * e.accuracy for e in history.epochs],
            "test": [100 * e.test_accuracy for e in history.epochs],
        },
        "signs that change in an epoch, %": {"latent weights": [100 * e.flips for e in history.epochs]},
    }
    for axes, (title, curves) in zip(figure.subplots(1, 3), lines.items(), strict=True):
        for name, values in curves.items():
            axes.plot(epochs, values, marker=".", label=name)
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    atomic.write(path, buffer.getvalue())
