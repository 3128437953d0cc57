"""One bench of one artifact: latency, and when asked the profile and the baseline, as one record."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bnncc.bench.baseline import onnxruntime
from bnncc.bench.latency import Latency, TimeRuns, clock_overhead_us, measure
from bnncc.bench.profile import Profile
from bnncc.bench.profile import profile as profile_layers
from bnncc.runtime.array import Array
from bnncc.runtime.artifact import Tensor
from bnncc.runtime.network import Network

SCHEMA = 1
REST_SECONDS = 0.05  # before each block, where another pool of threads may still be looking for work


@dataclass(frozen=True)
class Bench:
    """What was measured. `baseline` and `layers` are None unless they were asked for."""

    artifact: dict[str, str]
    machine: dict[str, object]
    threads: int
    latency: Latency
    layers: Profile | None
    baseline_name: str | None
    baseline: Latency | None
    max_abs_difference: float | None

    @property
    def ratio(self) -> float | None:
        """Median of the baseline over our median: above 1, the artifact is faster."""
        return self.baseline.median_us / self.latency.median_us if self.baseline else None

    def report(self) -> dict[str, object]:
        """The record as JSON values; times in microseconds."""
        record: dict[str, object] = {
            "schema": SCHEMA,
            "kind": "measured",
            "threads": self.threads,
            "artifact": self.artifact,
            "machine": self.machine,
            "latency": self.latency.report(),
        }
        if self.layers:
            record["peaks_gmacs"] = self.layers.peaks
            record["layers"] = [layer.report() for layer in self.layers.layers]
        if self.baseline:
            record["baseline"] = {
                "name": self.baseline_name,
                "latency": self.baseline.report(),
                "ratio": self.ratio,
                # JSON has no NaN.
                "max_abs_difference": self.max_abs_difference if np.isfinite(self.max_abs_difference or 0.0) else None,
            }
        return record


def bench(
    network: Network,
    *,
    seconds: float = 1.0,
    profile: bool = False,
    baseline_model: str | os.PathLike[str] | None = None,
    samples: bool = False,
) -> Bench:
    """Time a loaded network where it runs, on the threads it was loaded with.

    Args:
        network: from `bnncc.load`, for this machine.
        seconds: least time spent measuring each thing, warm-up apart.
        profile: also time every layer alone, on one thread.
        baseline_model: the ONNX file the artifact was compiled from, to be timed in onnxruntime in the same run,
            here, on as many threads.
        samples: keep every sample.

    Raises:
        OptionError, ModelError: the baseline cannot be had; see `bnncc.bench.baseline`.
    """
    manifest = network.manifest
    inputs = {tensor.name: example(tensor) for tensor in manifest.inputs}
    bound = network.bind(inputs)
    takers: dict[str, TimeRuns] = {"artifact": bound.time_runs}
    peer = None
    if baseline_model is not None:
        peer = onnxruntime(manifest, baseline_model, inputs, network.threads)
        takers["baseline"] = peer.time_runs
    overhead_us = clock_overhead_us()
    machine = network.machine()
    rest_seconds = REST_SECONDS if peer and network.threads > 1 else 0.0
    taken = measure(takers, seconds=seconds, overhead_us=overhead_us, rest_seconds=rest_seconds)
    return Bench(
        artifact={
            "name": manifest.name,
            "target": manifest.target,
            "source_sha256": manifest.source_sha256,
            "library_sha256": manifest.library_sha256,
        },
        machine=machine,
        threads=network.threads,
        latency=Latency.of(taken["artifact"], keep=samples),
        layers=profile_layers(network, bound, seconds=seconds) if profile else None,
        baseline_name=peer.name if peer else None,
        baseline=Latency.of(taken["baseline"], keep=samples) if peer else None,
        max_abs_difference=_difference(bound.outputs, peer.outputs) if peer else None,
    )


def example(tensor: Tensor) -> Array:
    """Input to time with: standard normal for floats, zeros otherwise; the same in every run."""
    if np.dtype(tensor.dtype).kind != "f":
        return np.zeros(tensor.shape, tensor.dtype)
    return np.random.default_rng(0).standard_normal(tensor.shape).astype(tensor.dtype)


def _difference(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> float:
    return max(float(np.max(np.abs(ours[name].astype(np.float64) - theirs[name]))) for name in ours)
