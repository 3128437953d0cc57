"""How much slower an artifact is than another, both measured in turns in this process."""

from __future__ import annotations

from bnncc.bench import latency, report
from bnncc.runtime.artifact import Artifact
from bnncc.runtime.errors import OptionError
from bnncc.runtime.model import load


def ratio(artifact: Artifact, baseline: Artifact, seconds: float = 1.0) -> float:
    """Median of `artifact` over the median of `baseline`: above 1, it is slower. OptionError: they take other inputs.
    ArtifactError: one of them does not run here."""
    if artifact.manifest.inputs != baseline.manifest.inputs:
        raise OptionError("--baseline-artifact: takes other inputs than the model; give one of its old state")
    inputs = {tensor.name: report.example(tensor) for tensor in artifact.manifest.inputs}
    takers = {name: load(each).bind(inputs).time_runs for name, each in (("now", artifact), ("then", baseline))}
    taken = latency.measure(takers, seconds=seconds, overhead_us=latency.clock_overhead_us())
    medians = {name: latency.Latency.of(samples).median_us for name, samples in taken.items()}
    return medians["now"] / medians["then"]
