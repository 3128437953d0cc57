"""Tasks: what there is to compute, as data, so that a schedule can be chosen for it and kept in a record."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from tvm import tirx

from bnncc.kernels.kernel import Kernel
from bnncc.kernels.schedule import Schedule
from bnncc.targets.target import Target
from bnncc.tir.epilogue import Epilogue

Schedules = Mapping[str, Schedule]  # `Task.key` -> the schedule to take instead of the default

_NOT_DATA = ("name", "description")  # of a target: two targets that differ in these alone are the same machine


@dataclass(frozen=True)
class Task:
    """One kernel with its epilogue, for a target. Equal tasks are one function in a compiled network."""

    kernel: Kernel
    epilogue: Epilogue
    target: Target

    @property
    def kind(self) -> str:
        """What the kernel is called in artifacts and reports."""
        return self.kernel.kind

    @functools.cached_property
    def key(self) -> str:
        """64 hexadecimal digits that stand for kind, extents, epilogue and the target's data, the same in every
        process and release that keeps their fields."""
        target = {name: value for name, value in dataclasses.asdict(self.target).items() if name not in _NOT_DATA}
        extents, epilogue = dataclasses.asdict(self.kernel), dataclasses.asdict(self.epilogue)
        text = json.dumps([self.kind, extents, epilogue, target], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Scheduled:
    """A task and how it is computed. The function is built when it is first asked for."""

    task: Task
    schedule: Schedule

    @functools.cached_property
    def function(self) -> tirx.PrimFunc:
        """The kernel's code in TIR."""
        return self.task.kernel.build(self.task.epilogue, self.task.target, self.schedule)
