"""Limits that a model must keep, and the baseline that they may refer to."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from bnncc.runtime import atomic
from bnncc.runtime.errors import InputError, OptionError

FORMAT = 1
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


def read_baseline(path: Path) -> Figures:
    """The figures of a baseline file; none where there is no such file. InputError: it is damaged."""
    try:
        found = json.loads(path.read_bytes()[: 1 << 20])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no baseline ({error}); write it with --update-baseline") from error
    figures = found.get("figures") if isinstance(found, dict) and found.get("format") == FORMAT else None
    if not isinstance(figures, dict) or not all(
        name in FIELDS and isinstance(value, int | float) and not isinstance(value, bool)
        for name, value in figures.items()
    ):
        raise InputError(f"{path}: is no baseline of format {FORMAT}; write it with --update-baseline")
    return {name: float(value) for name, value in figures.items()}


def write_baseline(path: Path, target: str, figures: Figures) -> None:
    """Write the figures beside the model, to be kept with it."""
    shown = {name: int(value) if value == int(value) else value for name, value in figures.items()}
    text = json.dumps({"format": FORMAT, "target": target, "figures": shown}, indent=2)
    atomic.write(path, (text + "\n").encode())


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number == int(number) and abs(number) >= 10 else f"{number:.6g}"
