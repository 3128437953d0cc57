"""One bench of one artifact: latency, and when asked the profile and the baseline, as one record."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bnncc.bench import baseline as peers
from bnncc.bench import machine
from bnncc.bench import profile as profiles
from bnncc.bench.latency import Latency, clock_overhead_us, measure
from bnncc.runtime.artifact import Tensor
from bnncc.runtime.model import Array, Model

SCHEMA = 1
REST_SECONDS = 0.05  # before each block, where another pool of threads may still be looking for work


@dataclass(frozen=True)
class Bench:
    """What was measured. `baseline` and `layers` are None unless they were asked for."""

    artifact: dict[str, str]
    machine: dict[str, object]
    threads: int
    latency: Latency
    layers: profiles.Profile | None
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
    model: Model,
    *,
    seconds: float = 1.0,
    profile: bool = False,
    baseline_model: str | os.PathLike[str] | None = None,
    samples: bool = False,
) -> Bench:
    """Time a loaded network on this machine, on the threads it was loaded with.

    Args:
        model: from `bnncc.load`.
        seconds: least time spent measuring each thing, warm-up apart.
        profile: also time every layer alone, on one thread.
        baseline_model: the ONNX file the artifact was compiled from, to be timed in onnxruntime in the same run, on
            as many threads.
        samples: keep every sample.

    Raises:
        OptionError, ModelError: the baseline cannot be had; see `bnncc.bench.baseline`.
    """
    manifest = model.manifest
    inputs = {tensor.name: example(tensor) for tensor in manifest.inputs}
    binding = model.bind(inputs)
    calls: dict[str, Callable[[], object]] = {"artifact": binding.run}
    peer = None
    if baseline_model is not None:
        peer = peers.onnxruntime(manifest, baseline_model, inputs, model.threads)
        calls["baseline"] = peer.run
    overhead_us = clock_overhead_us(lambda: None)
    state = machine.describe()
    rest_seconds = REST_SECONDS if peer and model.threads > 1 else 0.0
    taken = measure(calls, seconds=seconds, overhead_us=overhead_us, rest_seconds=rest_seconds)
    return Bench(
        artifact={
            "name": manifest.name,
            "target": manifest.target,
            "source_sha256": manifest.source_sha256,
            "library_sha256": manifest.library_sha256,
        },
        machine=state,
        threads=model.threads,
        latency=Latency.of(taken["artifact"], keep=samples),
        layers=profiles.profile(model, binding, seconds=seconds) if profile else None,
        baseline_name=peer.name if peer else None,
        baseline=Latency.of(taken["baseline"], keep=samples) if peer else None,
        max_abs_difference=_difference(binding.outputs, peer.outputs) if peer else None,
    )


def example(tensor: Tensor) -> Array:
    """Input to time with: standard normal for floats, zeros otherwise; the same in every run."""
    if np.dtype(tensor.dtype).kind != "f":
        return np.zeros(tensor.shape, tensor.dtype)
    return np.random.default_rng(0).standard_normal(tensor.shape).astype(tensor.dtype)


def _difference(ours: dict[str, Array], theirs: dict[str, Array]) -> float:
    return max(float(np.max(np.abs(ours[name].astype(np.float64) - theirs[name]))) for name in ours)
