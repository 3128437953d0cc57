"""Measure the compiler's kernels and networks on this machine, and model its ARM kernels.

    python -m benchmarks.run [--only layers|networks|threads|arm] [--json FILE] [--markdown FILE]

One thread, on one core, but for the part `threads`. Peaks come first; what is compared takes turns. Larq Compute Engine
takes part where --larq names the Python of an environment that has it and --larq-models a folder of .tflite files; the
environment is made by `pip install "numpy<2"` and `pip install --no-deps larq-compute-engine==0.16.0`.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.peaks import Peaks
    from benchmarks.tables import Table

PARTS = ("layers", "networks", "threads", "arm")
TARGETS = ("x86-avx512", "x86-avx2", "rpi5", "arm")
PEAK_ROUNDS = 3  # seconds apart, because other programs may slow the core for seconds
COUNTED = ("digits_net", "quicknet", "bireal_resnet18")
COUNTED_FOR = ("arm", "armv7")


@dataclass
class Report:
    """What was found: tables in order, the same as JSON values, and what was skipped with its reason."""

    tables: list["Table"] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def add(self, table: "Table") -> None:
        """Keep the table and show it."""
        self.tables.append(table)
        table.show()

    def skip(self, reason: str) -> None:
        """Keep the reason and show it."""
        self.skipped.append(reason)
        print(f"skipped: {reason}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 for wrong usage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="one part instead of all")
    parser.add_argument("--seconds", type=float, default=0.3, help="time spent on each thing that is measured")
    parser.add_argument("--networks", help="names, with commas between; all without it")
    parser.add_argument("--core", type=int, help="core to run on; the last one without it")
    parser.add_argument("--larq", type=Path, metavar="PYTHON", help="interpreter that has larq-compute-engine")
    parser.add_argument("--larq-models", type=Path, metavar="DIR", help="folder of .tflite files for it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")
    options = parser.parse_args(arguments)
    from benchmarks import timing
    from bnncc.runtime import atomic, machine

    report = Report()
    cores = os.sched_getaffinity(0)
    core = timing.pin(options.core)
    report.values = {"schema": 1, "machine": {**machine.describe(), "core": core}, "seconds": options.seconds}
    print(f"{report.values['machine']['cpu']}, core {core}, load {os.getloadavg()[0]:.2f}\n")
    parts = (options.only,) if options.only else PARTS
    peaks = _peaks(report) if {"layers", "networks"} & set(parts) else {}
    if "layers" in parts:
        _layers(report, peaks, options.seconds)
    if "networks" in parts:
        _networks(report, peaks, options)
    if "threads" in parts:
        _threads(report, cores, options.seconds)
    if "arm" in parts:
        _arm(report)
    report.values |= {"skipped": report.skipped, "load_average_after": os.getloadavg()}
    for file in (options.json, options.markdown):
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
    if options.json:
        atomic.write(options.json, (json.dumps(report.values, indent=1) + "\n").encode())
    if options.markdown:
        atomic.write(options.markdown, _markdown(report).encode())
    return 0


def _peaks(report: Report) -> dict[str, "Peaks"]:
    from benchmarks import peaks, tables
    from bnncc.targets import runnable

    measured: dict[str, Peaks] = {}
    for _ in range(PEAK_ROUNDS):
        for target in (target for target in runnable() if target.name in TARGETS):
            found = peaks.measure(target)
            measured[target.name] = found.best_of(measured.get(target.name, found))
    if not measured:
        report.skip(f"layers and networks: this machine runs none of {', '.join(TARGETS)}")
        return {}
    report.values["peaks"] = [dataclasses.asdict(one) for one in measured.values()]
    report.add(tables.peaks(measured.values()))
    return measured


def _layers(report: Report, peaks: Mapping[str, "Peaks"], seconds: float) -> None:
    from benchmarks import layer_times, layers, progress, tables
    from benchmarks.peaks import full_speed
    from bnncc.targets import TARGETS as KNOWN

    if not peaks:
        return
    report.values["layers"] = []
    watch = full_speed(KNOWN[next(iter(peaks))])
    for name, peak in peaks.items():
        cases = list(layers.cases(KNOWN[name]))
        with progress.bar(f"layers, {name}") as tell:
            times = layer_times.measure(cases, KNOWN[name], peak, seconds=seconds, tell=tell, full_speed=watch)
        report.values["layers"] += [{**dataclasses.asdict(row), "ratio": row.ratio} for row in times]
        report.add(tables.layers(times))


def _networks(report: Report, peaks: Mapping[str, "Peaks"], options: argparse.Namespace) -> None:
    import torch

    from benchmarks import larq, networks, peers, progress, tables
    from benchmarks.peaks import full_speed
    from bnncc.targets import TARGETS as KNOWN

    if not peaks:
        return
    torch.set_num_threads(1)
    names = options.networks.split(",") if options.networks else networks.NETWORKS
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        others = peers.resnet18(folder)
        if options.larq and options.larq_models:
            try:
                others |= stack.enter_context(larq.models(options.larq, options.larq_models))
            except larq.Unavailable as error:
                report.skip(str(error))
        else:
            report.skip("Larq Compute Engine: --larq and --larq-models do not say where it is")
        tell = stack.enter_context(progress.bar("networks"))
        watch = full_speed(KNOWN[next(iter(peaks))])
        rows, times = networks.measure(
            peaks, folder, others, seconds=options.seconds, names=names, tell=tell, full_speed=watch
        )
    report.values["networks"] = [
        {**dataclasses.asdict(row), "ratio": row.ratio, "dispatch_us": row.dispatch_us} for row in rows
    ]
    report.values["peers"] = {name: dataclasses.asdict(median) for name, median in times.items()}
    report.add(tables.networks(rows))
    report.add(tables.peers(times, rows))
    for row in rows:
        report.add(tables.slowest(row))


def _threads(report: Report, cores: set[int], seconds: float) -> None:
    from benchmarks import tables, threads

    if len(cores) < max(threads.THREADS):
        report.skip(f"threads: this process may use {len(cores)} core")
        return
    # A process of its own: libgomp looks once at how many cores it may use, and this one was bound to one by then.
    free = ProcessPoolExecutor(1, get_context("spawn"), initializer=os.sched_setaffinity, initargs=(0, cores))
    with free as process, tempfile.TemporaryDirectory() as folder:
        times = process.submit(threads.measure, Path(folder), seconds=max(seconds, 1.0)).result()
    report.values["threads"] = [dataclasses.asdict(row) for row in times]
    report.add(tables.threads(times))


def _arm(report: Report) -> None:
    from benchmarks import arm, hot_loop, progress, tables

    tool = hot_loop.version()
    if tool is None:
        report.skip(f"ARM hot loops: {hot_loop.TOOL} is not installed (package llvm)")
    else:
        with progress.bar("ARM hot loops") as tell:
            rates = arm.measure(tell)
        report.values["arm"] = {"tool": tool, "loops": [dataclasses.asdict(rate) for rate in rates]}
        report.add(tables.loops(rates, tool))
    _instructions(report)


def _instructions(report: Report) -> None:
    import torch

    import bnncc
    from benchmarks import progress, tables
    from bnncc.models import MODELS
    from bnncc.targets import TARGETS as KNOWN
    from bnncc.verify import instructions

    for name in COUNTED_FOR:
        if reason := instructions.missing(KNOWN[name]):
            report.skip(f"executed instructions: {reason} (package qemu-user-static)")
            return
    counts: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder, progress.bar("executed instructions") as tell:
        for done, network in enumerate(COUNTED):
            tell(done / len(COUNTED))
            build, shape = MODELS[network]
            path = Path(folder) / f"{network}.onnx"
            torch.manual_seed(0)
            bnncc.export(build().eval(), torch.zeros(shape), path)
            counts[network] = {name: instructions.count(path, KNOWN[name]) for name in COUNTED_FOR}
    report.values["instructions"] = counts
    report.add(tables.instructions(counts))


def _markdown(report: Report) -> str:
    machine = report.values["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    head = (
        f"## Benchmarks\n\n{machine['cpu']} ({machine['machine']}), one thread on core {machine['core']}, "
        f"{machine['time']}, load {machine['load_average'][0]}; {versions}.\n"
    )
    notes = "\n".join(f"* skipped: {reason}" for reason in report.skipped)
    return "\n".join([head, *(table.markdown() for table in report.tables), *([notes + "\n"] if notes else [])])


if __name__ == "__main__":
    sys.exit(main())
