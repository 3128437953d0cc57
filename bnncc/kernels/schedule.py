"""Schedules as data: how a kernel computes what it computes. Every legal schedule of a kernel gives the same bits.

A schedule is a frozen dataclass whose fields are the choices. Its class says which values each field may take for a
kernel's extents on a target (`choices`), and which of their combinations (`why_not`), so the space of a kernel is
finite and can be listed, drawn from, and checked field by field.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from bnncc.kernels.kernel import Kernel
    from bnncc.targets.target import Target

Choices = Mapping[str, tuple[int, ...]]  # field -> the values it may take; booleans are integers here

MOST_VECTORS = 8  # of one tile: more only reload the pixels' values less often, which no longer shows


class ScheduleError(ValueError):
    """A schedule that a kernel cannot have; the message names the field, what was found and what is allowed."""


@dataclass(frozen=True)
class Schedule:
    """No choice at all: the one schedule of kernels where nothing is to choose, and the base of all others."""

    @classmethod
    def choices(cls, kernel: Kernel, target: Target) -> Choices | None:
        """The values of each field, whatever the others are; None where `kernel` has no schedule of this class."""
        return {}

    def why_not(self, kernel: Kernel, target: Target) -> str:
        """Why these values do not go together, naming the fields; "" if they do."""
        return ""

    @classmethod
    def space(cls, kernel: Kernel, target: Target) -> Iterator[Self]:
        """All legal schedules of this class, each once."""
        choices = cls.choices(kernel, target)
        if choices is None:
            return
        for values in itertools.product(*choices.values()):
            schedule = cls(**dict(zip(choices, values, strict=True)))
            if not schedule.why_not(kernel, target):
                yield schedule

    def check(self, kernel: Kernel, target: Target) -> None:
        """Raises ScheduleError unless this is one of `space`."""
        name, choices = f"{kernel.kind}: {type(self).__name__}", self.choices(kernel, target)
        if choices is None:
            raise ScheduleError(f"{name}: this kernel on {target.name} has no schedule of this kind")
        for field in dataclasses.fields(self):
            found, allowed = getattr(self, field.name), choices[field.name]
            if found not in allowed:
                raise ScheduleError(f"{name}: {field.name} is {found}, allowed: {', '.join(map(str, allowed))}")
        if reason := self.why_not(kernel, target):
            raise ScheduleError(f"{name}: {reason}")


def up_to(most: int) -> tuple[int, ...]:
    """1, 2, ..., most."""
    return tuple(range(1, most + 1))
