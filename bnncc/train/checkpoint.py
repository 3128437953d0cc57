"""The file that training goes on from: tensors, numbers and text, which torch reads without running anything in it."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import get_origin, get_type_hints

import torch
from torch import Tensor

from bnncc.runtime import atomic
from bnncc.runtime.errors import InputError

FORMAT = 1
NAME = "checkpoint.pt"


@dataclass(frozen=True)
class State:
    """Where training is.

    about       JSON: what is trained how
    history     JSON: the epochs so far
    epoch       whole ones so far; step: of the one that has begun
    seconds     so far
    threads     of torch
    sums        float [3] over the epoch that has begun: loss, images that were right, images
    network, centers, optimizer   their state dicts
    signs       bool, by name of latent weights: as they were when the epoch began
    """

    about: str
    history: str
    epoch: int
    step: int
    seconds: float
    threads: int
    sums: Tensor
    network: dict[str, Tensor]
    centers: dict[str, Tensor]
    optimizer: dict[str, object]
    signs: dict[str, Tensor]


def write(path: Path, state: State) -> None:
    """Whole or not at all.

    Raises:
        OptionError: the file cannot be written there.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **vars(state)}, buffer)
    atomic.write(path, buffer.getvalue())


def read(path: Path) -> State:
    """What `write` was given, on the CPU; what is within network and optimizer, torch checks when it loads them.

    Raises:
        InputError: the file cannot be read, is damaged or no checkpoint.
    """
    try:
        _check_sizes(path)
        found: object = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; give the folder of a run") from error
    except Exception as error:  # torch, pickle and zipfile have no base in common
        message = " ".join(ascii(str(error))[1:-1].split())[:120] or type(error).__name__
        raise InputError(f"{path}: is not a whole checkpoint ({message}); remove it and train anew") from error
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise InputError(f"{path}: is no checkpoint of format {FORMAT}; remove it and train anew")
    wanted = get_type_hints(State)
    wrong = [name for name, kind in wanted.items() if not isinstance(found.get(name), get_origin(kind) or kind)]
    if wrong or len(found) > len(wanted):
        raise InputError(f"{path}: {', '.join(wrong) or 'more'} is not as in a checkpoint; remove it and train anew")
    state = State(**found)
    tensors = [*state.network.values(), *state.centers.values(), *state.signs.values()]
    names = [*state.network, *state.centers, *state.signs]
    counts = min(state.epoch, state.step, state.threads - 1) >= 0 and state.sums.shape == (3,)
    if not counts or not all(isinstance(t, Tensor) for t in tensors) or not all(isinstance(n, str) for n in names):
        raise InputError(f"{path}: holds what no checkpoint has; remove it and train anew")
    return state


def _check_sizes(path: Path) -> None:
    """torch stores what it saves as it is; packed entries could fill the memory."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("packed entries")
    if sum(entry.file_size for entry in entries) > os.path.getsize(path):
        raise ValueError("entries that overlap")
