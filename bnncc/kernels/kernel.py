"""What every kernel is: extents, and from them its schedules, its arguments in order, its constants and its code.

A kernel's function takes its `operands` (inputs, then constants), the workspace if it has one, then the epilogue's
parameters and outputs, then the units `begin` and `end` (see tir/shares.py), and returns 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from tvm import tirx

from bnncc.kernels.schedule import Schedule, ScheduleError
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep

Array = npt.NDArray[np.generic]
Arithmetic = Literal["binary", "float32", "int8", "none"]


@dataclass(frozen=True)
class Argument:
    """One buffer that a kernel's function takes.

    role: "input" is another kernel's output or the network's input; "constant" comes from `Kernel.arrange`;
    "workspace" is lent for the call; "param" and "output" are the epilogue's.
    """

    name: str
    role: Literal["input", "constant", "workspace", "param", "output"]
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Kernel(ABC):
    """Extents of one kernel. Subclasses are frozen dataclasses: equal extents are the same kernel."""

    output: ep.Geometry

    arithmetic: ClassVar[Arithmetic] = "none"
    # The classes its schedules can have. A target may have schedules of some of them only.
    schedule_kinds: ClassVar[tuple[type[Schedule], ...]] = (Schedule,)

    @property
    @abstractmethod
    def kind(self) -> str:
        """What it is called in artifacts and reports."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the source operator, binary or float."""
        return 0

    # Schedules ------------------------------------------------------------------------------------------------------

    def schedules(self, target: Target) -> Iterator[Schedule]:
        """Every schedule that this kernel can have on a target, each once. All give the same bits."""
        for kind in self.schedule_kinds:
            yield from kind.space(self, target)

    def default(self, target: Target) -> Schedule:
        """The schedule taken when nobody chose one."""
        return Schedule()

    def check(self, schedule: Schedule, target: Target) -> None:
        """Raises ScheduleError unless `schedule` is one of `schedules`; the message names the field."""
        if type(schedule) not in self.schedule_kinds:
            allowed = ", ".join(kind.__name__ for kind in self.schedule_kinds)
            raise ScheduleError(f"{self.kind}: schedule is a {type(schedule).__name__}, allowed: {allowed}")
        schedule.check(self, target)

    # Arguments ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def operands(self, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        """Inputs, then constants, in the order in which the function takes them."""

    def arrange(self, constants: Sequence[Array], target: Target, schedule: Schedule) -> tuple[Array, ...]:
        """Constants as Relax has them -> as the function reads them, one for each constant of `operands`."""
        return tuple(constants)

    def workspace_bytes(self) -> int:
        """Bytes lent to a call; 0 for a function without that argument. What `filler` writes there is read."""
        return 0

    def filler(self) -> Kernel | None:
        """The kernel that fills the workspace from the first input, one image at a time; None without a workspace."""
        return None

    def results(self, epilogue: ep.Epilogue) -> tuple[Argument, ...]:
        """The outputs, in the order of `epilogue.outputs`."""
        out = self.output
        found = []
        for number, output in enumerate(epilogue.outputs):
            shape: tuple[int, ...] = (out.batch, out.rows, out.width, out.channels)
            if output.bits is not None:
                top, left, bottom, right = output.bits.pads
                shape = (out.batch, top + out.rows + bottom, left + out.width + right, output.bits.pixel_bytes)
            found.append(Argument(f"out{number}", "output", output.dtype, shape))
        return tuple(found)

    def arguments(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tuple[Argument, ...]:
        """Every buffer that the function takes, in order."""
        out, space = self.output, self.workspace_bytes()
        params = [
            Argument(
                f"param{number}",
                "param",
                param.dtype,
                (out.channels,) if param.kind == "channel" else (out.batch, out.rows, out.width, out.channels),
            )
            for number, param in enumerate(epilogue.params)
        ]
        workspace = (Argument("workspace", "workspace", "uint8", (space,)),) if space else ()
        return (*self.operands(target, schedule), *workspace, *params, *self.results(epilogue))

    # Code -----------------------------------------------------------------------------------------------------------

    def build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """The function. ScheduleError for a schedule that is not legal, which would compute something else."""
        self.check(schedule, target)
        return self._build(epilogue, target, schedule)

    @abstractmethod
    def _build(self, epilogue: ep.Epilogue, target: Target, schedule: Schedule) -> tirx.PrimFunc:
        """`build` with a schedule that was checked."""


def images(out: ep.Geometry) -> tuple[int, int, int, int]:
    """The extents as a shape [N, H, W, C]."""
    return out.batch, out.rows, out.width, out.channels


def positions(out: ep.Geometry) -> int:
    """How many values the output holds."""
    return out.batch * out.rows * out.width * out.channels
