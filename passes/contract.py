"""What a pass is: a callable with a name that takes a module and says what it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import tvm


@dataclass(frozen=True)
class Outcome:
    """What a pass did.

    rewrites: how many places it changed. refused: a line for each place that it left as it was, with the reason.
    """

    module: tvm.IRModule
    rewrites: int = 0
    refused: tuple[str, ...] = ()


class Pass(Protocol):
    """One pass. It keeps nothing from one module to the next, and leaves the module it is given as it is."""

    @property
    def name(self) -> str:
        """As the manifest and `inspect` show it."""

    def __call__(self, module: tvm.IRModule) -> Outcome:
        """The module after the pass."""


@dataclass(frozen=True)
class FromTVM:
    """A pass of TVM's, which does not count what it did."""

    transform: tvm.ir.transform.Pass

    @property
    def name(self) -> str:
        return str(self.transform.info.name)

    def __call__(self, module: tvm.IRModule) -> Outcome:
        return Outcome(self.transform(module))
