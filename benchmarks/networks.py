"""Whole networks, compiled, beside the ideal that the machine's peaks allow and beside other runtimes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import bnncc
from benchmarks.layer_times import ideal_us
from benchmarks.peaks import Peaks
from benchmarks.progress import Tell
from benchmarks.timing import PATIENCE, SLOWED, FullSpeed, Median, Timed, medians, repeat, timed
from bnncc.bench import baseline
from bnncc.bench.report import example
from bnncc.runtime.artifact import Layer
from bnncc.runtime.model import Binding, Model

NETWORKS = ("bireal_resnet18", "quicknet", "reactnet18", "vgg_small", "digits_net")
INT8 = ("bireal_resnet18", "quicknet")  # measured with their float convolutions in 8-bit integers, too
INT8_KIND = "conv2d_int8"
FEWEST_SWEEPS = 15


@dataclass(frozen=True)
class StepTime:
    """One kernel of a network, timed within sweeps over all of them."""

    name: str
    kind: str
    binary: bool
    macs: int
    moved: int
    us: float
    ideal_us: float
    kernel: str


@dataclass(frozen=True)
class NetworkTime:
    """One network, compiled for one target, and the same ONNX file in onnxruntime, timed in turns.

    `ideal_us`: sum over layers of max(products / peak, bytes / bandwidth). `dispatch_us`: the whole call without the
    kernels in it, median over pairs of a call and a sweep through the kernels (noise can push it below 0).
    """

    network: str
    target: str
    median: Median
    ideal_us: float
    dispatch_us: float
    onnxruntime: Median
    steps: tuple[StepTime, ...]

    @property
    def ratio(self) -> float:
        """Measured over ideal."""
        return self.median.us / self.ideal_us


def measure(
    targets: Mapping[str, Peaks],
    folder: Path,
    peers: Mapping[str, Timed],
    *,
    seconds: float,
    names: Sequence[str],
    tell: Tell,
    full_speed: FullSpeed,
) -> tuple[list[NetworkTime], dict[str, Median]]:
    """All networks for all targets (name -> peaks) and all peers, in turns, each for `seconds`."""
    turns: dict[tuple[str, str], Timed] = {("peer", name): turn for name, turn in peers.items()}
    built: dict[tuple[str, str], tuple[Model, Binding]] = {}
    kept = []  # onnxruntime writes into arrays that it does not own
    for name in names:
        path = export(name, folder)
        for target in targets:
            model = bnncc.load(bnncc.compile(path, target))
            inputs = {tensor.name: example(tensor) for tensor in model.manifest.inputs}
            models = {name: model}
            if name in INT8:
                models[f"{name} int8"] = bnncc.load(bnncc.compile(path, target, calibrate=inputs))
            for build, loaded in models.items():
                built[build, target] = loaded, (binding := loaded.bind(inputs))
                turns[build, target] = timed(repeat(binding.run))
            if (name, "onnxruntime") not in turns:
                same = baseline.onnxruntime(model.manifest, path, inputs)
                kept.append(same)
                turns[name, "onnxruntime"] = timed(repeat(same.run))
    times = medians(turns, seconds=seconds, tell=tell, full_speed=full_speed)
    rows = []
    for (name, target), (model, binding) in built.items():
        steps, dispatch_us = _steps(model, binding, targets[target], seconds, full_speed)
        ideal = sum(step.ideal_us for step in steps)
        peer = times[name.removesuffix(" int8"), "onnxruntime"]
        row = NetworkTime(name, target, times[name, target], ideal, dispatch_us, peer, tuple(steps))
        rows.append(row)
    return rows, {name: times["peer", name] for name in peers}


def export(name: str, folder: Path) -> Path:
    """The network with random weights as an ONNX file. (Time does not depend on the values.)"""
    import torch

    from bnncc.models import MODELS

    torch.manual_seed(0)
    build, shape = MODELS[name]
    path = folder / f"{name}.onnx"
    bnncc.export(build().eval(), torch.zeros(shape), path)
    return path


def _steps(
    model: Model, binding: Binding, peaks: Peaks, seconds: float, full_speed: FullSpeed
) -> tuple[list[StepTime], float]:
    """Medians over sweeps through the kernels in order, which meet the caches as a run of the network does; and the
    median of what a run takes beyond the sweep beside it, in microseconds."""
    layers = model.manifest.layers
    calls = [timed(repeat(binding.stepper(index))) for index in range(len(layers))]
    # A step that does not exist runs nothing: what remains is the clocks and the foreign call.
    nothing = timed(repeat(binding.stepper(len(layers))))
    overhead = float(np.median([nothing(1).wall for _ in range(500)]))
    whole = timed(repeat(binding.run))
    sweeps: list[list[float]] = []
    beyond: list[float] = []
    spent = 0.0
    while len(sweeps) < FEWEST_SWEEPS or spent < seconds:
        before = full_speed()
        taken = [call(1) for call in calls]
        run = whole(1)
        spent += sum(turn.wall for turn in taken) + run.wall
        if max(before, full_speed()) > SLOWED and spent < PATIENCE * seconds:
            continue
        # What had to wait for the core counts with its CPU time.
        sweeps.append([(turn.cpu if turn.disturbed else turn.wall) - overhead for turn in taken])
        beyond.append((run.cpu if run.disturbed else run.wall) - overhead - sum(sweeps[-1]))
    medians_us = np.maximum(np.median(np.array(sweeps), axis=0), 0.0) * 1e6
    steps = [_step(layer, float(us), peaks) for layer, us in zip(layers, medians_us, strict=True)]
    return steps, float(np.median(beyond)) * 1e6


def _step(layer: Layer, us: float, peaks: Peaks) -> StepTime:
    moved = layer.bytes_in + layer.bytes_out + layer.bytes_weights
    kind = "binary" if layer.binary else "int8" if layer.kind == INT8_KIND else "float32"
    # Where the machine has no instructions for integers, they are multiplied as fast as floats at best.
    peak = peaks.gmacs.get(kind, peaks.gmacs["float32"])
    ideal = ideal_us(layer.macs, peak, moved, peaks.level(moved).gigabytes_per_second, after=False)
    return StepTime(layer.name, layer.kind, layer.binary, layer.macs, moved, us, ideal, layer.kernel)
