"""Dividing one kernel call among threads.

A kernel's work is a number of units: rows of its output, or blocks of its channels. Its last two parameters, int32
`begin` and `end`, say which units a call computes; (0, units) is everything. Calls with disjoint units write disjoint
bytes, and the bytes do not depend on how the units were divided, so any number of threads gives the same result. What
belongs to no unit (borders of packed images) is written by the call that computes unit 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T
from tvm.tirx.script.builder.frame import ForFrame

from bnncc.tir.registers import Expr

UNITS = "bnncc.units"  # a kernel's attribute: how many units it has; a kernel without it is never divided

Range = tuple[Expr, Expr]  # from the first to before the second


@dataclass(frozen=True)
class Share:
    """The units that one call computes: from `begin` to before `end`."""

    begin: Expr
    end: Expr

    def of(self, first: Expr, count: int) -> Range:
        """Those of the `count` units from unit `first` on that are in the share, counted from `first`."""
        zero = tirx.const(0, "int32")
        begin = T.Bind(T.min(T.max(self.begin - first, zero), count))
        return begin, T.Bind(T.max(T.min(self.end - first, count), begin))

    def each_row(self, batch: int, rows: int, emit: Callable[[Expr, Expr], None]) -> None:
        """Call `emit(n, y)` for the rows in the share, where a unit is a row of one of the images."""
        with T.serial(0, batch) as n:
            begin, end = self.of(n * rows, rows)
            with T.serial(begin, end) as y:
                emit(n, y)

    def once(self, emit: Callable[[], None]) -> None:
        """Call `emit` in the call that computes unit 0."""
        with T.If(tirx.all(self.begin == 0, self.end > 0)), T.Then():
            emit()


def share(units: int) -> Share:
    """Declare a kernel's last two parameters and how many units it has. No parameters overlap in memory."""
    T.func_attr({"tirx.noalias": True, UNITS: units})
    return Share(T.arg("begin", T.int32()), T.arg("end", T.int32()))


def within(units: Range, begin: int, end: int) -> ForFrame:
    """A loop over those of `units` that lie from `begin` to before `end`."""
    first = T.max(units[0], tirx.const(begin, "int32"))
    return T.serial(first, T.max(first, T.min(units[1], tirx.const(end, "int32"))))


def units(kernel: tirx.PrimFunc) -> int:
    """How many units a kernel has; 0 for one without the parameters `begin` and `end`."""
    return int(kernel.attrs[UNITS]) if kernel.attrs and UNITS in kernel.attrs else 0


def balance(units: int) -> float:
    """How evenly so many equal units divide among 2, 3 and 4 threads; 3.0 is perfectly."""
    return sum(units / (parts * -(-units // parts)) for parts in (2, 3, 4))
