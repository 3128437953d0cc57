"""Running, as those see it who measure and report: a network on the machine that runs it, whichever that is.

`bnncc.runtime.model` implements it for this process. Times are taken where the network runs, so that what lies between
here and there is not in them.
"""

from collections.abc import Mapping
from typing import Protocol

from bnncc.runtime.array import Array
from bnncc.runtime.artifact import Manifest


class BoundNetwork(Protocol):
    """A network with its inputs in place and outputs of its own. Not for several threads at once."""

    @property
    def outputs(self) -> Mapping[str, Array]:
        """By name, what the last `run` computed."""

    def run(self) -> None:
        """Compute the outputs."""

    def step(self, index: int) -> None:
        """Run layer `index` alone, on whatever the arena holds; `run` once before.

        Raises:
            OptionError: no such layer.
        """

    def time_runs(self, seconds: float) -> list[int]:
        """Nanoseconds of each of the runs, one behind the other, until `seconds` are over; at least one.

        The run before the first, which refills the caches, is not counted.
        """

    def time_steps(self, seconds: float) -> list[list[int]]:
        """Sweeps over the layers until `seconds` are over, at least one: nanoseconds of each layer in order, and behind
        them of a step that runs nothing, which is what taking a time costs."""


class Network(Protocol):
    """A network loaded somewhere."""

    @property
    def manifest(self) -> Manifest:
        """What it is."""

    @property
    def threads(self) -> int:
        """How many threads share one inference."""

    @property
    def peaks(self) -> tuple[str, ...]:
        """Kinds of arithmetic that `time_peak` knows; none where the artifact was compiled without."""

    def machine(self) -> dict[str, object]:
        """The machine it runs on and its state now, as JSON values; see `bnncc.runtime.machine.describe`."""

    def bind(self, *inputs: Array | Mapping[str, Array]) -> BoundNetwork:
        """The network bound to inputs in the manifest's order, or to one dict of them by name.

        Raises:
            InputError: a wrong name, number, shape or dtype.
        """

    def time_peak(self, kind: str, iterations: int) -> tuple[int, int]:
        """Keep one core's arithmetic busy with nothing else: multiply-accumulates made, and nanoseconds.

        Raises:
            OptionError: a kind that is not among `peaks`.
        """
