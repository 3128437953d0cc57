"""Where the time goes: every layer of a network timed alone, beside what this machine's arithmetic can do at best."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from bnncc.runtime.artifact import Layer
from bnncc.runtime.network import BoundNetwork, Network

FEWEST_SWEEPS = 10
PEAK_SECONDS = 0.03


@dataclass(frozen=True)
class LayerTime:
    """One layer: median time in microseconds, share of the sum of all layers, and how near it comes to the peak.

    `gmacs` is 1e9 multiply-accumulates a second; `of_peak` is its fraction of the measured peak of the same kind of
    arithmetic (binary: xor and popcount; otherwise float32 fused multiply-add). Both are None for layers without MACs,
    the last also where no peak was measured.
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
    """Times of all layers in order, and the peaks (GMAC/s by kind) they are compared with, if the artifact has them."""

    layers: tuple[LayerTime, ...]
    peaks: dict[str, float]
    sweeps: int

    @property
    def total_us(self) -> float:
        """Sum of the layers' medians."""
        return sum(layer.us for layer in self.layers)


def profile(network: Network, bound: BoundNetwork, *, seconds: float) -> Profile:
    """Sweep over the layers in order for about `seconds` (at least `FEWEST_SWEEPS` times); medians of each.

    A sweep meets the caches as a run of the whole network does. What taking a time costs is measured in each sweep on a
    step that runs nothing, and taken off.
    """
    layers = network.manifest.layers
    kinds = sorted({_arithmetic(layer) for layer in layers if layer.macs} & set(network.peaks))
    peaks = {kind: peak_gmacs(network, kind) for kind in kinds}
    bound.run()
    sweeps = bound.time_steps(seconds)
    while len(sweeps) < FEWEST_SWEEPS:
        sweeps += bound.time_steps(0)
    *medians, overhead = np.median(np.array(sweeps, np.float64), axis=0) / 1e3
    return summarise(layers, [max(float(us - overhead), 0.0) for us in medians], peaks, len(sweeps))


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


def peak_gmacs(network: Network, kind: str) -> float:
    """Best of five: 1e9 MACs a second that the library's own `kind` instructions reach where it runs."""
    iterations, nanoseconds = 1000, 0
    while nanoseconds < PEAK_SECONDS * 1e9 and iterations < 1 << 40:
        iterations *= 4
        nanoseconds = network.time_peak(kind, iterations)[1]
    turns = [network.time_peak(kind, iterations) for _ in range(5)]
    return max(macs / taken for macs, taken in turns)


def _arithmetic(layer: Layer) -> str:
    if layer.kind == "conv2d_int8":
        return "int8"
    return "binary" if layer.binary else "float32"
