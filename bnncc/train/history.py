"""What training tells of itself: a header and a line an epoch, each enough to trace a figure by."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bnncc.runtime import atomic
from bnncc.runtime.errors import InputError

LOG = "log.jsonl"


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images.

    epoch           from 1
    seconds         of training and testing since the first epoch began, pauses left out
    learning_rate   of the last step
    loss, accuracy  mean over the training images as they were met, moved and mirrored
    flips           part of the latent weights whose sign is another than when the epoch began
    layer_flips     their number, by weight
    mined           for each layer what mining after this epoch changed (fields of `bnncc.nn.mining.miner.MiningResult`)
    """

    seed: int
    epoch: int
    steps: int
    seconds: float
    device: str
    processes: int
    learning_rate: float
    loss: float
    accuracy: float
    test_loss: float
    test_accuracy: float
    flips: float
    layer_flips: Mapping[str, int]
    mined: Sequence[Mapping[str, str | int | float]] = ()


@dataclass(frozen=True)
class History:
    """about: what was trained how, JSON values by name. rank: of this process; only that of rank 0 writes files."""

    about: Mapping[str, object]
    epochs: list[Epoch] = field(default_factory=list)
    rank: int = 0

    def write(self, path: Path) -> None:
        """As JSON lines, whole or not at all: ``{"kind": "run", ...}``, then ``{"kind": "epoch", ...}`` each."""
        lines = [{"kind": "run", **self.about}]
        lines += [{"kind": "epoch", **dataclasses.asdict(epoch)} for epoch in self.epochs]
        atomic.write(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode())


def read(path: Path) -> History:
    """What `History.write` wrote.

    Raises:
        InputError: the file cannot be read, or is another.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return History(lines[0], epochs(lines[1:]))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give the log of a run") from error
    except (ValueError, IndexError, InputError) as error:
        raise InputError(f"{path}: is not the log of a run ({error}); give {LOG} in the folder of one") from error


def epochs(values: object) -> list[Epoch]:
    """From JSON values.

    Raises:
        InputError: they are others.
    """
    wanted = {each.name for each in dataclasses.fields(Epoch)}
    found = []
    for value in values if isinstance(values, list) else [None]:
        if not isinstance(value, dict) or value.keys() - {"kind"} != wanted:
            raise InputError(f"found {str(value)[:80]!r}, allowed is an epoch with {', '.join(sorted(wanted))}")
        found.append(Epoch(**{name: value[name] for name in wanted}))
    return found
