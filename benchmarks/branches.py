"""What several binary bases cost beside one, and {0, 1} activations beside +-1, each in one run on one core.

    python -m benchmarks.branches [--seconds S] [--targets x86-avx512,x86-avx2]

Binary layers are timed, in sweeps through the whole network; `ideal` is that of docs/measuring.md. Times
are of the thread's CPU where the process had to wait for its core.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import bnncc
from benchmarks import peaks, timing
from benchmarks.layer_times import ideal_us
from bnncc import targets
from bnncc.bench.report import example
from bnncc.nn import BinaryConv2d
from bnncc.runtime.artifact import Layer
from bnncc.runtime.model import Binding, Model
from bnncc.targets.target import Target

BASES = 5
Activation = Literal["signs", "bits"]


@dataclass(frozen=True)
class Comparison:
    """A network `make(plain)`, and how many times its time `make(special)` may take. layers: the beginning of the names
    of those that count."""

    name: str
    make: Callable[[Any], nn.Module]
    plain: object
    special: object
    shape: tuple[int, ...]
    limit: float
    layers: str = ""


COMPARISONS = (
    Comparison(
        f"entry of {BASES} bases into ResNet-18's body",
        lambda n: Body(n),
        1,
        BASES,
        (1, 64, 56, 56),
        5.1,
        "groups.0.first",
    ),
    Comparison(f"ResNet-18's body of {BASES} bases with gates", lambda n: Body(n), 1, BASES, (1, 64, 56, 56), 5.6),
    Comparison(f"weighted sum of {BASES} bases, 16 @32", lambda n: Sum(16, n), 1, BASES, (1, 16, 32, 32), 5.1),
    Comparison("VGG-Small, {0, 1} beside +-1", lambda kind: vgg_small(kind), "signs", "bits", (1, 3, 32, 32), 1.03),
    Comparison("ResNet-18, {0, 1} beside +-1", lambda kind: resnet18(kind), "signs", "bits", (1, 3, 224, 224), 1.03),
)


class Sum(nn.Module):
    """A layer in layer-wise decomposition: the weighted sum of bases of one input."""

    def __init__(self, channels: int, bases: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(channels, channels) for _ in range(bases))

    def forward(self, x: Tensor) -> Tensor:
        first, *others = self.convs
        total: Tensor = 0.5 * first(x)
        for number, conv in enumerate(others):
            total = total + (0.25 - number) * conv(x)
        return total


class Group(nn.Module):
    """One block for each base: two layers conv -> ReLU -> BatchNorm, a shortcut around each; and the sum of all. A gate
    mixes the sum before into each base's input."""

    def __init__(self, inputs: int, outputs: int, stride: int, bases: int) -> None:
        super().__init__()
        self.first = nn.ModuleList(_layer(inputs, outputs, stride) for _ in range(bases))
        self.second = nn.ModuleList(_layer(outputs, outputs) for _ in range(bases))
        halves = nn.Sequential(_conv(inputs, outputs, stride, 1), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if stride == 1 else halves

    def forward(self, streams: list[Tensor], mean: Tensor) -> tuple[list[Tensor], Tensor]:
        found: list[Tensor] = []
        total: Tensor | None = None
        for base, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            x = 0.3 * streams[base] + 0.7 * mean if streams else mean
            u = first(x) + self.shortcut(x)
            v = second(u) + u
            found.append(v)
            total = (0.5 - 0.2 * base) * v if total is None else total + (0.5 - 0.2 * base) * v
        assert total is not None
        return found, total


class Body(nn.Module):
    """Group-Net on ResNet-18 without stem and head, one block a group."""

    def __init__(self, bases: int) -> None:
        super().__init__()
        widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
        extents = itertools.pairwise(widths)
        self.groups = nn.ModuleList(Group(i, o, 1 if i == o else 2, bases) for i, o in extents)

    def forward(self, mean: Tensor) -> Tensor:
        streams: list[Tensor] = []
        for group in self.groups:
            streams, mean = group(streams, mean)
        return mean


class Scaled(nn.Module):
    """BatchNorm, then a binary convolution times a factor for each channel: + a shortcut where there is one."""

    def __init__(
        self, inputs: int, outputs: int, activation: Activation, stride: int = 1, shortcut: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.norm, self.shortcut = nn.BatchNorm2d(inputs), shortcut
        self.conv = BinaryConv2d(inputs, outputs, 3, stride, padding=1, bias=False, activation=activation)
        self.scale = nn.Parameter(torch.randn(outputs, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.norm(x)) * self.scale
        return y if self.shortcut is None else y + self.shortcut(x)


def vgg_small(activation: Activation) -> nn.Module:
    """float [N, 3, 32, 32] -> [N, 10], a pool behind every second layer."""
    parts: list[nn.Module] = [nn.Conv2d(3, 128, 3, padding=1, bias=False)]
    widths = (128, 128, 256, 256, 512, 512)
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        parts.append(Scaled(inputs, outputs, activation))
        if number % 2 == 0:
            parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts, nn.BatchNorm2d(512), nn.Flatten(), nn.Linear(512 * 16, 10))


def resnet18(activation: Activation) -> nn.Module:
    """float [N, 3, 224, 224] -> [N, 1000], a shortcut around every layer."""
    parts: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for outputs in (64, 128, 256, 512):
        for _ in range(4):
            halves = inputs != outputs
            around: nn.Module = nn.Identity()
            if halves:
                around = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))
            parts.append(Scaled(inputs, outputs, activation, 2 if halves else 1, around))
            inputs = outputs
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(_conv(inputs, outputs, stride), nn.ReLU(), nn.BatchNorm2d(outputs))


def _conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> BinaryConv2d:
    return BinaryConv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False, pad_value=1.0)


def _with_statistics(network: nn.Module) -> nn.Module:
    """Scales of both signs, so that nothing is simpler than in a trained network."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean, norm.running_var = torch.randn(norm.num_features), torch.rand(norm.num_features) + 0.5
            norm.weight.data, norm.bias.data = torch.randn(norm.num_features), torch.randn(norm.num_features)
    return network.eval()


def _counts(layer: Layer, case: Comparison) -> bool:
    return (layer.binary or layer.kind == "or_pool2d") and layer.name.startswith(case.layers)


def _in_order(binding: Binding, model: Model, case: Comparison) -> timing.Timed:
    """Runs all layers, and reads the clocks around those that count: they find the caches as in a run."""
    steps = [(binding.stepper(i), _counts(layer, case)) for i, layer in enumerate(model.manifest.layers)]
    binding.run()

    def turn(times: int) -> timing.Turn:
        wall = cpu = 0.0
        for _ in range(times):
            for step, counts in steps:
                if not counts:
                    step()
                    continue
                wall_start, cpu_start = time.perf_counter(), time.thread_time()
                step()
                wall, cpu = wall + time.perf_counter() - wall_start, cpu + time.thread_time() - cpu_start
        return timing.Turn(wall, cpu)

    return turn


def _ideal_us(model: Model, case: Comparison, found: peaks.Peaks) -> float:
    total = 0.0
    for layer in model.manifest.layers:
        if _counts(layer, case):
            moved = layer.bytes_in + layer.bytes_out + layer.bytes_weights
            bandwidth = found.level(moved).gigabytes_per_second
            total += ideal_us(layer.macs, found.gmacs["binary"], moved, bandwidth, after=False)
    return total


def _compare(case: Comparison, target: Target, found: peaks.Peaks, seconds: float, folder: Path) -> str:
    turns: dict[str, timing.Timed] = {}
    models: dict[str, Model] = {}
    for name, choice in (("one", case.plain), ("other", case.special)):
        torch.manual_seed(0)
        path = folder / f"{name}.onnx"
        bnncc.export(_with_statistics(case.make(choice)), torch.randn(case.shape), path, check=False)
        models[name] = bnncc.load(bnncc.compile(path, target.name))
        binding = models[name].bind(*map(example, models[name].manifest.inputs))
        turns[name] = _in_order(binding, models[name], case)
    times = timing.medians(turns, seconds=seconds, full_speed=peaks.full_speed(target))
    one, other = times["one"].us, times["other"].us
    ideals = [_ideal_us(models[name], case, found) for name in ("one", "other")]
    return (
        f"{case.name:44} {one:9.1f} {other:9.1f} {other / one:7.2f} {case.limit:7.2f} "
        f"{one / ideals[0]:9.2f} {other / ideals[1]:6.2f}  {times['other'].clock}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on each network")
    parser.add_argument("--targets", default="x86-avx512,x86-avx2", help="names, with commas between")
    options = parser.parse_args(arguments)
    timing.pin()
    for target in map(targets.find, options.targets.split(",")):
        found = peaks.measure(target)
        print(f"{target.name}, load {os.getloadavg()[0]:.1f}, {found.gmacs['binary']:.0f} GMAC/s binary at best")
        print(f"{'us of the binary layers':44} {'one':>9} {'other':>9} {'ratio':>7} {'allowed':>7} {'times ideal':>16}")
        with tempfile.TemporaryDirectory() as folder:
            for case in COMPARISONS:
                print(_compare(case, target, found, options.seconds, Path(folder)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
