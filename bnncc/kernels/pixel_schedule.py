"""The schedule of kernels that slide a window without products in common: how many pixels are computed together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bnncc.kernels.kernel import Kernel
from bnncc.kernels.schedule import Choices, Schedule, up_to
from bnncc.targets.target import Target

MOST_PIXELS = 8
DEFAULT_PIXELS = 4  # so that a value under several windows is loaded once, and additions do not wait for one another


@dataclass(frozen=True)
class PixelSchedule(Schedule):
    """pixels: of one row that are computed together, where the window lies inside the image."""

    pixels: int = DEFAULT_PIXELS

    @classmethod
    def choices(cls, kernel: Kernel, target: Target) -> Choices | None:
        return {"pixels": up_to(MOST_PIXELS)}


class PixelKernel(Kernel):
    """A kernel whose schedule is a `PixelSchedule`."""

    schedule_kinds: ClassVar[tuple[type[Schedule], ...]] = (PixelSchedule,)

    def default(self, target: Target) -> PixelSchedule:
        return PixelSchedule()
