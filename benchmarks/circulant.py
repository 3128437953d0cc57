"""Circulant convolutions beside the expanded ones that they are, kernel by kernel, on one core:

    python -m benchmarks.circulant [TARGET ...]

Both give packed signs with a border, from zero padding. `faster` is the expanded time over the circulant one, `bits`
the weights stored. The ideal of shared filters is the products that there are, 1 / orientations of the expanded ones,
at the expanded kernel's rate, and nothing for additions; that of oriented ones is the expanded time.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.timing import medians, pin, timed
from bnncc import bitpack, targets
from bnncc.bench.kernel import bind
from bnncc.kernels.kernel import Array, Kernel
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.ops.circulant_expand import Base, Mixing, expand, slices
from bnncc.ops.window import Window
from bnncc.passes.lower_to_xnor import accumulator_constants
from bnncc.selection import circulant
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))  # expanded channels, rows and columns: the layers of ResNet-18
SECONDS = 0.4


@dataclass(frozen=True)
class Step:
    """One kernel with its arrays."""

    kernel: Kernel
    epilogue: ep.Epilogue
    constants: tuple[Array, ...]

    @property
    def weight_bits(self) -> int:
        """Bits of packed weights."""
        return 8 * sum(array.nbytes for array in self.constants if array.dtype == np.uint8)


def main(names: list[str]) -> None:
    """Print a table for each target."""
    pin()
    for target in [targets.find(name) for name in names or ["native"]]:
        print(f"{target.name} (measured): us expanded, us circulant, faster, times the ideal, bits stored")
        for channels, extent in SHAPES:
            for orientations in (4, 8):
                for mixing in ("shared", "oriented"):
                    print(_row(target, channels, extent, orientations, mixing), flush=True)


def _row(target: Target, channels: int, extent: int, orientations: int, mixing: Mixing) -> str:
    try:
        steps = dict(_steps(target, channels, extent, orientations, mixing))
    except circulant.Refused as reason:
        return f"{channels:4} @{extent:<2} {orientations} {mixing:8}  expanded: {reason}"
    runs = {}
    for name, step in steps.items():
        schedule = step.kernel.default(target)
        arguments = step.kernel.arguments(step.epilogue, target, schedule)
        arranged = iter((*step.kernel.arrange(step.constants, target, schedule), *_thresholds(step.epilogue, channels)))
        arrays = [
            next(arranged) if argument.role in ("constant", "param") else np.zeros(argument.shape, argument.dtype)
            for argument in arguments
        ]
        runs[name] = timed(bind(step.kernel.build(step.epilogue, target, schedule), target, arrays))
    us = {name: median.us for name, median in medians(runs, seconds=SECONDS).items()}
    expanded = us.pop("expanded")
    bits = steps["expanded"].weight_bits / sum(step.weight_bits for name, step in steps.items() if name in us)
    ideal = expanded / (orientations if mixing == "shared" else 1)
    taken = sum(us.values())
    return (
        f"{channels:4} @{extent:<2} {orientations} {mixing:8} {expanded:8.1f} {taken:8.1f} "
        f"({' + '.join(f'{name} {value:.1f}' for name, value in us.items())}) "
        f"{expanded / taken:6.2f} {taken / ideal:6.2f}   1/{bits:.0f}"
    )


def _steps(target: Target, channels: int, extent: int, orientations: int, mixing: Mixing) -> Iterator[tuple[str, Step]]:
    size, filters = bitpack.packed_bytes(channels, target.word_bytes), channels // orientations
    random = np.random.default_rng(0)
    shape = (filters, 9, slices(orientations, mixing) * filters)
    base = Base(random.integers(0, 2, shape).astype(bool), orientations, mixing)
    weights = expand(base.bits, orientations, mixing)
    window = Window(kernel=(3, 3), pads=(1, 1, 1, 1))
    flip = np.zeros((1, 1, channels), dtype=np.bool_)
    offset, rows, columns, _ = accumulator_constants(
        weights, window, (extent, extent), flip=flip, pad_value=0, unipolar=False
    )
    out, layout = ep.Geometry(1, extent, extent, channels), ep.BitLayout(channels, 1, size, (1, 1, 1, 1))
    classes = (offset.shape[0], offset.shape[1])
    conv = XnorConv2d(out, extent + 2, extent + 2, channels, size, (3, 3), classes=classes)
    signs = ep.Epilogue(
        (ep.Param("channel", "int32"),),
        (ep.Step("at_least", (ep.Operand("value", 0), ep.Operand("param", 0))),),
        (ep.Output(1, "uint8", layout),),
    )
    yield "expanded", Step(conv, signs, (bitpack.pack(weights, target.word_bytes), offset, rows, columns))
    if mixing == "oriented":
        oriented, packed = circulant.oriented(conv, base, target)
        yield "conv", Step(oriented, signs, (packed, offset, rows, columns))
        return
    counts, packed, total, constants = circulant.shared(conv, base, (offset, rows, columns), layout, target)
    yield "counts", Step(counts, ep.Epilogue(outputs=(ep.Output(0, "uint16"),)), (packed,))
    yield "sums", Step(total, signs, constants)


def _thresholds(epilogue: ep.Epilogue, channels: int) -> list[Array]:
    return [np.zeros(channels, np.int32) for _ in epilogue.params]


if __name__ == "__main__":
    main(sys.argv[1:])
