"""Results as tables: in the terminal and as Markdown, from the same rows."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks import arm
from benchmarks.layer_times import LayerTime
from benchmarks.networks import NetworkTime
from benchmarks.peaks import Peaks
from benchmarks.threads import ThreadsTime
from benchmarks.timing import Median


@dataclass(frozen=True)
class Table:
    """Text in rows; the first column is a name, the others are numbers and what belongs to them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """The table with its title and note."""
        lines = [
            f"### {self.title}",
            "",
            "| " + " | ".join(self.columns) + " |",
            "| --- |" + " ---: |" * (len(self.columns) - 1),
            *("| " + " | ".join(row) + " |" for row in self.rows),
        ]
        return "\n".join(lines + (["", self.note] if self.note else [])) + "\n"

    def show(self) -> None:
        """Print it."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable

        # Wide enough for every table where the output is no terminal.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 180)
        made = RichTable(
            box=box.SIMPLE_HEAD, title=self.title, title_justify="left", title_style="bold", pad_edge=False
        )
        for number, column in enumerate(self.columns):
            made.add_column(column, justify="right" if number else "left", overflow="fold")
        for row in self.rows:
            made.add_row(*row)
        console.print(made)
        if self.note:
            console.print(self.note, style="dim")


def peaks(measured: Iterable[Peaks]) -> Table:
    """Arithmetic and copying at best."""
    measured = list(measured)
    levels = [level.name for level in measured[0].levels]
    rows = [
        (
            one.target,
            *(f"{one.gmacs[kind]:.0f}" if kind in one.gmacs else "none" for kind in ("binary", "float32", "int8")),
            *(f"{level.gigabytes_per_second:.0f}" for level in one.levels),
        )
        for one in measured
    ]
    notes = [f"int8: {one.missing['int8']}." for one in measured if "int8" in one.missing]
    columns = ("target", "binary GMAC/s", "float32 GMAC/s", "int8 GMAC/s", *(f"copy {name} GB/s" for name in levels))
    return Table("Peaks of one core (measured)", columns, tuple(rows), " ".join(notes))


def layers(times: Sequence[LayerTime]) -> Table:
    """Every layer of one target."""
    rows = tuple(
        (
            row.name,
            f"{row.median.us:.1f}{_mark(row.median)}",
            f"{row.gmacs:.0f}" if row.gmacs else "",
            f"{row.of_peak:.0%}" if row.of_peak else "",
            f"{row.gigabytes_per_second:.0f}",
            row.level,
            f"{row.ideal_us:.1f}",
            f"{row.ratio:.2f}",
        )
        for row in times
    )
    columns = ("layer", "us", "GMAC/s", "of peak", "GB/s", "data in", "ideal us", "measured / ideal")
    title = f"Layers, {times[0].target}, one core (measured, medians)"
    return Table(
        title, columns, rows, "ideal = max(products / peak, bytes / copy bandwidth), with an epilogue their sum."
    )


def networks(times: Sequence[NetworkTime]) -> Table:
    """Networks beside their ideal and beside onnxruntime."""
    rows = tuple(
        (
            row.network,
            row.target,
            f"{row.median.us / 1e3:.3f}{_mark(row.median)}",
            f"{row.ideal_us / 1e3:.3f}",
            f"{row.ratio:.2f}",
            f"{row.dispatch_us:.1f}",
            f"{row.onnxruntime.us / 1e3:.3f}{_mark(row.onnxruntime)}",
            f"{row.onnxruntime.us / row.median.us:.1f}",
        )
        for row in times
    )
    columns = (
        "network", "target", "ms", "ideal ms", "measured / ideal", "dispatch us", "onnxruntime, same file, ms",
        "onnxruntime / ours",
    )  # fmt: skip
    note = (
        "ideal = sum over layers of max(products / peak, bytes / copy bandwidth); "
        "dispatch = the call without its kernels, median of pairs."
    )
    return Table("Networks, batch 1, one core (measured, medians)", columns, rows, note)


def threads(times: Sequence[ThreadsTime]) -> Table:
    """One and two threads."""
    rows = tuple(
        (row.network, row.target, *(f"{us / 1e3:.3f}" for us in row.us.values()), f"{row.us[1] / row.us[2]:.2f}")
        for row in times
    )
    columns = ("network", "target", "1 thread ms", "2 threads ms", "times as fast")
    return Table("Threads (measured, medians in turns)", columns, rows)


def peers(times: dict[str, Median], ours: Sequence[NetworkTime]) -> Table:
    """Other runtimes, with how many times longer they take than each of our builds of the 224x224 networks."""
    names = ("bireal_resnet18", "bireal_resnet18 int8", "quicknet", "quicknet int8", "reactnet18")
    large = [row for row in ours if row.network in names]
    rows = tuple(
        (
            name,
            f"{median.us / 1e3:.2f}{_mark(median)}",
            *(f"{median.us / row.median.us:.2f}" for row in large),
        )
        for name, median in times.items()
    )
    columns = ("other runtime", "ms", *(f"/ {row.network} {row.target}" for row in large))
    return Table("Beside other runtimes, same run, one core (measured, medians)", columns, rows)


def slowest(row: NetworkTime, count: int = 8) -> Table:
    """The kernels of one network that lose most against their ideal."""
    steps = sorted(row.steps, key=lambda step: step.ideal_us - step.us)[:count]
    rows = tuple(
        (
            f"{step.name} ({step.kind})",
            f"{step.us:.1f}",
            f"{step.ideal_us:.1f}",
            f"{step.us / step.ideal_us:.2f}" if step.ideal_us else "",
            f"{step.us / row.median.us:.0%}",
        )
        for step in steps
    )
    title = f"Where {row.network}, {row.target}, loses most (measured)"
    return Table(title, ("kernel", "us", "ideal us", "measured / ideal", "of the network"), rows)


def loops(rates: Sequence[arm.LoopRate], tool: str) -> Table:
    """Hot loops of the ARM kernels."""
    rows = tuple(
        (
            rate.name,
            rate.target,
            rate.core,
            f"{rate.macs_per_cycle:.1f}" if rate.macs_per_cycle else "no model",
            f"{rate.macs_per_cycle / arm.LIMIT[rate.core]:.0%}" if rate.macs_per_cycle else "",
            arm.LARQ.get(rate.target, ""),
            str(rate.instructions),
            str(rate.spills),
        )
        for rate in rates
    )
    columns = ("kernel", "target", "core", "MAC/cycle", "of limit", "Larq", "instructions", "spills")
    note = (
        f"modelled by {tool}: pipes and latencies alone, no caches; the limit is eor, cnt and add on all vector pipes."
    )
    return Table("ARM hot loops (modelled)", columns, rows, note)


def instructions(counts: dict[str, dict[str, int]]) -> Table:
    """Executed instructions by network and target."""
    targets = list(next(iter(counts.values())))
    rows = tuple((name, *(f"{by_target[t]:,}" for t in targets)) for name, by_target in counts.items())
    return Table("Instructions of one inference, executed under qemu (counted)", ("network", *targets), rows)


def _mark(median: Median) -> str:
    return "" if median.clock == "wall" else " (CPU time)"
