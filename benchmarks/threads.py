"""Networks on one and on two threads, in turns."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import bnncc
from bnncc.bench.latency import measure as in_turns
from bnncc.bench.report import REST_SECONDS, example

NETWORKS = ("bireal_resnet18", "quicknet")
THREADS = (1, 2)


@dataclass(frozen=True)
class ThreadsTime:
    """Median time of one network by number of threads, microseconds."""

    network: str
    target: str
    us: dict[int, float]
    kind: str = "measured"


def measure(folder: Path, *, seconds: float, names: Sequence[str] = NETWORKS) -> list[ThreadsTime]:
    """Each network compiled for this machine. The process must be free to use as many cores as threads."""
    from benchmarks.networks import export

    rows = []
    for name in names:
        artifact = bnncc.compile(export(name, folder))
        models = {threads: bnncc.load(artifact, threads=threads) for threads in THREADS}
        bound = {threads: model.bind(*map(example, model.manifest.inputs)) for threads, model in models.items()}
        taken = in_turns(
            {str(threads): binding.time_runs for threads, binding in bound.items()},
            seconds=seconds,
            rest_seconds=REST_SECONDS,
        )
        us = {threads: float(np.median(taken[str(threads)])) for threads in THREADS}
        rows.append(ThreadsTime(name, artifact.manifest.target, us))
    return rows
