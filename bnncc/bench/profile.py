"""Where the time goes: every layer of a network timed alone, beside what this machine's arithmetic can do at best."""

import dataclasses
import time
from dataclasses import dataclass

import numpy as np

from bnncc.bench import latency
from bnncc.runtime.artifact import Layer
from bnncc.runtime.model import Binding, Model

FEWEST_SWEEPS = 10
PEAK_SECONDS = 0.03


@dataclass(frozen=True)
class LayerTime:
    """One layer: median time in microseconds, share of the sum of all layers, and how near it comes to the peak.

    `gmacs` is 1e9 multiply-accumulates a second; `of_peak` is its fraction of the measured peak of the same kind of
    arithmetic (binary: xor and popcount; otherwise float32 fused multiply-add). Both are None for layers without MACs.
    """

    layer: Layer
    us: float
    share: float
    gmacs: float | None
    of_peak: float | None
    kind: str = "measured"

    def report(self) -> dict[str, object]:
        """The fields for a JSON report, the layer's own beside the measured ones."""
        measured = {"us": self.us, "share": self.share, "gmacs": self.gmacs, "of_peak": self.of_peak}
        return {**dataclasses.asdict(self.layer), **measured, "measured": True}


@dataclass(frozen=True)
class Profile:
    """Times of all layers in order, and the peaks (GMAC/s by kind) they are compared with."""

    layers: tuple[LayerTime, ...]
    peaks: dict[str, float]
    sweeps: int

    @property
    def total_us(self) -> float:
        """Sum of the layers' medians."""
        return sum(layer.us for layer in self.layers)


def profile(model: Model, binding: Binding, *, seconds: float) -> Profile:
    """Sweep over the layers in order for about `seconds` (at least `FEWEST_SWEEPS` times); medians of each.

    A sweep meets the caches as a run of the whole network does. The cost of the clock and of the foreign call is
    measured on a step that does not exist, which runs nothing, and taken off.
    """
    layers = model.manifest.layers
    peaks = {kind: peak_gmacs(model, kind) for kind in sorted({_arithmetic(layer) for layer in layers if layer.macs})}
    steps = [binding.stepper(index) for index in range(len(layers))]
    overhead_us = latency.clock_overhead_us(binding.stepper(len(layers)))
    binding.run()
    sweeps: list[list[int]] = []
    clock = time.perf_counter_ns
    end = time.perf_counter() + seconds
    while len(sweeps) < FEWEST_SWEEPS or time.perf_counter() < end:
        times = []
        for step in steps:
            start = clock()
            step()
            times.append(clock() - start)
        sweeps.append(times)
    medians = np.median(np.array(sweeps, np.float64).reshape(len(sweeps), len(steps)), axis=0) / 1e3
    return summarise(layers, [max(float(us) - overhead_us, 0.0) for us in medians], peaks, len(sweeps))


def summarise(layers: tuple[Layer, ...], times_us: list[float], peaks: dict[str, float], sweeps: int) -> Profile:
    """Rates and shares from the layers' times."""
    total = sum(times_us)
    rows = []
    for layer, us in zip(layers, times_us, strict=True):
        gmacs = layer.macs / us / 1e3 if layer.macs and us > 0 else None
        peak = peaks.get(_arithmetic(layer))
        of_peak = gmacs / peak if gmacs is not None and peak else None
        rows.append(LayerTime(layer, us, us / total if total else 0.0, gmacs, of_peak))
    return Profile(tuple(rows), peaks, sweeps)


def peak_gmacs(model: Model, kind: str) -> float:
    """Best of five: 1e9 MACs a second that the library's own `kind` instructions reach on this machine."""
    iterations, seconds = 1000, 0.0
    while seconds < PEAK_SECONDS and iterations < 1 << 40:
        iterations *= 4
        start = time.perf_counter()
        model.peak(kind, iterations)
        seconds = time.perf_counter() - start
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        done = model.peak(kind, iterations)
        best = max(best, done / (time.perf_counter() - start) / 1e9)
    return best


def _arithmetic(layer: Layer) -> str:
    if layer.kind == "conv2d_int8":
        return "int8"
    return "binary" if layer.binary else "float32"
