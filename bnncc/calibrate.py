"""8-bit convolutions: the ranges of their inputs, found on data, and what they change in the network's results.

The float network runs on the samples on this machine, with the inputs of its float convolutions as further outputs.
Once for their least and largest values, once for a histogram between them, from which the range is chosen whose
rounding and clipping together make the least squared error. (With Bi-Real ResNet-20 trained on digits enlarged to
32x32x3, that moved the outputs least, by 16.2 % on average: clipping at percentile 99.99 16.3 %, at 99 and not at all
16.7 %; accuracies were within their noise. On inputs of known bounds all are the same.) The network compiled with these
ranges then runs on the same samples beside the float one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnncc.options import WATCHED, InputRange
from bnncc.progress import Progress, silent
from bnncc.runtime.array import Array
from bnncc.runtime.artifact import Calibration, Tensor
from bnncc.runtime.errors import InputError
from bnncc.runtime.model import Model
from bnncc.runtime.npz import LABELS

Arrays = Mapping[str, Array]

_BINS = 2048
_STEPS = 255  # between the integers that a range is divided into
_KEPT = np.linspace(0.1, 1.0, 46)  # shares of the whole range that are tried


@dataclass(frozen=True)
class Samples:
    """Checked samples. batch: samples in one run. labels: int64 [count], or None."""

    inputs: Mapping[str, Array]
    count: int
    batch: int
    labels: npt.NDArray[np.int64] | None

    @classmethod
    def of(
        cls, data: Arrays, tensors: Sequence[Tensor], outputs: Sequence[Tensor], what: str = "calibration data"
    ) -> Samples:
        """Check `data`, which errors call `what`, against the network's inputs. InputError says what is wrong."""
        names = [tensor.name for tensor in tensors]
        if not set(names) <= data.keys() or not data.keys() <= {*names, LABELS}:
            shown = ", ".join(sorted(map(ascii, data)))[:200] or "none"
            raise InputError(
                f"{what}: found arrays {shown}, allowed are exactly {', '.join(map(ascii, names))}, "
                f"and {LABELS!r}; save them by name with numpy.savez"
            )
        inputs = {tensor.name: _checked(data[tensor.name], tensor, what) for tensor in tensors}
        runs = {len(inputs[tensor.name]) // tensor.shape[0] for tensor in tensors}
        if len(runs) != 1:
            found = ", ".join(f"{name!a} {len(array)}" for name, array in inputs.items())
            raise InputError(f"{what}: found samples {found}; every input needs as many")
        batch = tensors[0].shape[0]
        count = runs.pop() * batch
        return cls(inputs, count, batch, _labels(data[LABELS], count, outputs, what) if LABELS in data else None)

    def runs(self, stage: str, progress: Progress = silent) -> Iterator[dict[str, Array]]:
        """The inputs of one run after the other."""
        runs = self.count // self.batch
        for number in range(runs):
            progress(stage, number, runs)
            first = number * self.batch
            yield {name: array[first : first + self.batch] for name, array in self.inputs.items()}


def _checked(array: Array, tensor: Tensor, what: str) -> Array:
    where = f"{what}: array {tensor.name!a}"
    if not tensor.shape:
        raise InputError(f"{where}: the input is a single number, which has no axis for samples; give none")
    batch, rest = tensor.shape[0], list(tensor.shape[1:])
    allowed = f"allowed is {tensor.dtype} [samples, {', '.join(map(str, rest))}]"
    if not isinstance(array, np.ndarray) or array.dtype != tensor.dtype or list(array.shape[1:]) != rest:
        found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"{where}: found {found}, {allowed}; convert or reshape it")
    if array.ndim == 0 or len(array) == 0 or len(array) % batch:
        found = f"{len(array)} samples" if array.ndim else "a single number"
        raise InputError(f"{where}: found {found}, allowed is a multiple of {batch}, the batch, and at least one run")
    if not np.isfinite(array).all():
        bad = int(np.argmax(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)))
        raise InputError(f"{where}: sample {bad} holds NaN or an infinity; ranges come of finite numbers, remove it")
    return array


def _labels(labels: Array, count: int, outputs: Sequence[Tensor], what: str) -> npt.NDArray[np.int64]:
    if not isinstance(labels, np.ndarray):
        raise InputError(f"{what}: {LABELS}: found {type(labels).__name__}, allowed is a numpy array")
    found = f"{labels.dtype} {list(labels.shape)}"
    classes = next((tensor.shape[1] for tensor in outputs if _classifies(tensor)), 0)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(f"{what}: {LABELS}: found {found}, allowed are whole numbers [{count}]")
    if not classes:
        raise InputError(f"{what}: {LABELS}: the network has no output [samples, classes]; leave them out")
    if labels.min() < 0 or labels.max() >= classes:
        raise InputError(f"{what}: {LABELS}: found {labels.min()} to {labels.max()}, allowed are 0 to {classes - 1}")
    return labels.astype(np.int64)


def _classifies(tensor: Tensor) -> bool:
    return len(tensor.shape) == 2 and tensor.shape[1] > 1 and tensor.dtype == "float32"


# Ranges -------------------------------------------------------------------------------------------------------------


def find_ranges(watched: Model, samples: Samples, progress: Progress = silent) -> dict[int, InputRange]:
    """For each float convolution of a network compiled with `Watch`, the range of its input."""
    names = [tensor.name for tensor in watched.manifest.outputs if tensor.name.startswith(WATCHED)]
    extremes = dict.fromkeys(names, (0.0, 0.0))  # 0 is always covered: borders hold it
    for inputs in samples.runs("find ranges", progress):
        outputs = watched.run(inputs)
        for name in names:
            low, high = float(outputs[name].min()), float(outputs[name].max())
            if not np.isfinite([low, high]).all():
                raise InputError(
                    "calibration data: the network computes NaN or an infinity from it; give other samples"
                )
            extremes[name] = min(extremes[name][0], low), max(extremes[name][1], high)
    counts = {name: np.zeros(_BINS) for name in names}
    for inputs in samples.runs("find best ranges", progress):
        outputs = watched.run(inputs)
        for name in names:
            counts[name] += np.histogram(outputs[name], _BINS, extremes[name])[0]
    return {number: best_range(counts[name], *extremes[name]) for number, name in enumerate(names)}


def best_range(counts: npt.NDArray[np.float64], low: float, high: float) -> InputRange:
    """The range of least squared error for values of a histogram from `low` <= 0 to `high` >= 0."""
    centers = low + (np.arange(len(counts)) + 0.5) * ((high - low) / len(counts))
    best, least = InputRange(low, high), np.inf
    for kept in _KEPT[::-1]:
        tried = InputRange(low * float(kept), high * float(kept))
        clipped = centers - np.clip(centers, tried.low, tried.high)
        step = (tried.high - tried.low) / _STEPS
        # A value inside is off by up to half a step, evenly distributed; 0 itself is exact.
        error = float(np.sum(counts * (clipped**2 + (clipped == 0) * step**2 / 12)))
        if error < least:
            best, least = tried, error
    return best


# Comparison ---------------------------------------------------------------------------------------------------------


def compare(before: Model, after: Model, samples: Samples, progress: Progress = silent) -> Calibration:
    """What changed between the float network and the one with 8-bit convolutions."""
    outputs = after.manifest.outputs
    difference, scale = ({tensor.name: 0.0 for tensor in outputs} for _ in range(2))
    classes = next((tensor.name for tensor in outputs if _classifies(tensor)), None)
    chosen: list[tuple[Array, Array]] = []
    for inputs in samples.runs("compare with float32", progress):
        old, new = before.run(inputs), after.run(inputs)
        for name in difference:
            difference[name] = max(difference[name], float(np.abs(old[name] - new[name]).max()))
            scale[name] = max(scale[name], float(np.abs(old[name]).max()))
        if classes:
            chosen.append((old[classes].argmax(axis=1), new[classes].argmax(axis=1)))
    top = [np.concatenate(arrays) for arrays in zip(*chosen, strict=True)]
    accuracy = [float((each == samples.labels).mean()) if samples.labels is not None else None for each in top]
    return Calibration(
        samples=samples.count,
        layers=sum(layer.kind == "conv2d_int8" for layer in after.manifest.layers),
        target=after.manifest.target,
        largest_difference=max(difference[name] / (scale[name] or 1.0) for name in difference),
        agreement=float((top[0] == top[1]).mean()) if top else None,
        accuracy_float=accuracy[0] if top else None,
        accuracy_int8=accuracy[1] if top else None,
    )
