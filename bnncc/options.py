"""What may be chosen about a compilation, apart from the model and the target: all of it decides the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bnncc.kernels.schedule import Schedule


@dataclass(frozen=True)
class InputRange:
    """The values of a convolution's input that its integers must cover; others are clipped. It always covers 0."""

    low: float
    high: float


@dataclass(frozen=True)
class Keep:
    """Float convolutions stay what they are."""


@dataclass(frozen=True)
class Watch:
    """The inputs of float convolutions become further outputs of the network, which calibration looks at."""


@dataclass(frozen=True)
class Quantize:
    """Float convolutions are computed in 8-bit integers, as far as the target gains by it. ranges: number of the
    convolution, as `Watch` counts its outputs -> range of its input."""

    ranges: Mapping[int, InputRange]


FloatConvs = Keep | Watch | Quantize
KEEP = Keep()
WATCHED = "input of float convolution "  # and its number: the name of an output that `Watch` adds


@dataclass(frozen=True)
class Options:
    """Options of one compilation. The cache hashes every field, so each must be data: see `bnncc.cache.encoded`.

    shapes: input name -> shape, for inputs with dynamic dimensions. float_convs: what becomes of float convolutions.
    schedules: task key -> the schedule to take instead of its kernel's default; `bnncc.tasks` lists the tasks.
    peaks: whether the library also holds loops of arithmetic alone, which `bnncc bench --profile` compares layers with.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    float_convs: FloatConvs = KEEP
    schedules: Mapping[str, Schedule] = field(default_factory=dict)
    peaks: bool = False
