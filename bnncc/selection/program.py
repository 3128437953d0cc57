"""A network as machine code sees it: kernels, the calls of them in order, and constants. What `select` makes of the
last Relax module and `assemble` turns into a shared library."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from tvm import tirx

from bnncc.runtime.artifact import Layer
from bnncc.selection.task import Scheduled, Task


@dataclass(frozen=True)
class Value:
    """A tensor in memory. `alias` names the value whose bytes it shares (a reshape)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    alias: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Legalised:
    """A function without schedules: one that TVM made of an operator without a kernel of ours, whose blocks its own
    passes lower, or a check of indices."""

    function: tirx.PrimFunc


@dataclass(frozen=True)
class Call:
    """One kernel call. Arguments are names of values, or arrays that become constants; `workspace` bytes are lent to
    the call for its duration, as arguments from position `workspace_at` on.

    filler: a kernel that fills the workspace from the first argument, for each of the `batch` images before the call
    computes that image. reports: whether the record of the run is the last argument.
    """

    kernel: str
    inputs: tuple[str | npt.NDArray[np.generic], ...]
    outputs: tuple[str, ...]
    layer: Layer
    workspace: tuple[int, ...] = ()
    workspace_at: int = 0
    filler: str = ""
    batch: int = 1
    reports: bool = False


@dataclass
class Program:
    """inputs and outputs are names of values, in the order of the network's; kernels are known by their symbols.
    refused: layers that are not computed as one might expect, and why."""

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    kernels: dict[str, Scheduled | Legalised] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def root(self, name: str) -> str:
        """The value whose bytes `name` stands for."""
        while self.values[name].alias:
            name = self.values[name].alias
        return name

    def explain(self, reasons: Mapping[str, str]) -> None:
        """Say of layers, by name, why they are not binary, where something before selection knows it."""
        for number, call in enumerate(self.calls):
            if call.layer.name in reasons and not call.layer.binary:
                layer = dataclasses.replace(call.layer, why_not=reasons[call.layer.name])
                self.calls[number] = dataclasses.replace(call, layer=layer)

    def tasks(self) -> dict[Task, int]:
        """Every task of the network, in the order of its first call, with how many calls it has."""
        symbols = [symbol for call in self.calls for symbol in (call.filler, call.kernel) if symbol]
        kernels = ((self.kernels[symbol], count) for symbol, count in Counter(symbols).items())
        return {kernel.task: count for kernel, count in kernels if isinstance(kernel, Scheduled)}
