"""Limits that a model must keep, and the baseline that they may refer to."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from bnncc.runtime import atomic
from bnncc.runtime.errors import InputError, OptionError

FORMAT = 1
MOST_BYTES = 1 << 20
FIELDS = ("bytes", "instructions", "agreement", "accuracy")

Figures = dict[str, float]


@dataclass(frozen=True)
class Gate:
    """One limit, named by its option. at_most: `allowed` is the largest allowed, else the smallest."""

    name: str
    found: float
    allowed: float
    at_most: bool = True

    @property
    def passed(self) -> bool:
        return self.found <= self.allowed if self.at_most else self.found >= self.allowed

    @property
    def word(self) -> str:
        return "at most" if self.at_most else "at least"

    def __str__(self) -> str:
        return f"{self.name}: found {_shown(self.found)}, allowed {self.word} {_shown(self.allowed)}"


def limit(option: str, text: str, baseline: Figures, field: str) -> float:
    """A limit as a user gives it: a number, or `+2%` above the baseline's field. OptionError: neither."""
    relative = re.fullmatch(r"\+(\d+(?:\.\d+)?)%", text)
    if relative:
        if field not in baseline:
            raise OptionError(f"{option} {text}: the baseline has no {field}; write one with --update-baseline")
        return baseline[field] * (1 + float(relative[1]) / 100)
    if not re.fullmatch(r"\d+(?:\.\d+)?(?:[eE]\d+)?", text):
        raise OptionError(f"{option} {text}: allowed is a number, or +2% for so much above the baseline")
    return float(text)


class Baseline:
    """A JSON file of figures by model and target, of as many networks as one likes: read before, updated after.

    path: of the file, which need not be there yet. InputError: it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._models = _models(path)

    def figures(self, model: str, target: str) -> Figures:
        """Those of one network; none where it has none yet."""
        return self._models.get(model, {}).get(target, {})

    def update(self, model: str, target: str, figures: Figures) -> None:
        """Write the file anew with these figures for one network; others keep theirs."""
        shown = {name: int(value) if value == int(value) else value for name, value in figures.items()}
        models = _models(self._path)
        models.setdefault(model, {})[target] = shown
        text = json.dumps({"format": FORMAT, "models": models}, indent=2, sort_keys=True)
        atomic.write(self._path, (text + "\n").encode())


def _models(path: Path) -> dict[str, dict[str, Figures]]:
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MOST_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no baseline ({error}); write it with --update-baseline") from error
    models = found.get("models") if isinstance(found, dict) and found.get("format") == FORMAT else None
    if not isinstance(models, dict) or not all(
        isinstance(targets, dict) and all(map(_are_figures, targets.values())) for targets in models.values()
    ):
        raise InputError(f"{path}: is no baseline of format {FORMAT}; write it with --update-baseline")
    return models


def _are_figures(found: object) -> bool:
    return isinstance(found, dict) and all(
        name in FIELDS and isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        for name, value in found.items()
    )


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) and abs(number) >= 10 else f"{number:.6g}"
