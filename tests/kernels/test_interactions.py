"""Channels that interact behind a binary convolution: the program of a pixel stage, and the kernel that runs it."""

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from bnncc import bitpack
from bnncc.kernels.interacted_conv2d import InteractedConv2d, capacity, why_not
from bnncc.kernels.interaction_plan import Plan, plan
from bnncc.ops import channel_interaction
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from tests.kernelrun import each_target
from tests.kernels import epilogues
from tests.kernels.checks import check, schedules
from tests.kernels.test_bits import correlate, random_bits

Array = npt.NDArray[Any]
EMPTY = np.zeros((0, 4), np.int32)


def table(rng: np.random.Generator, channels: int, steps: int, reach: int) -> npt.NDArray[np.int32]:
    """Steps between different channels, thresholds up to a little outside of +-reach."""
    steps = steps if channels > 1 else 0
    teacher = rng.integers(0, channels, steps)
    student = (teacher + rng.integers(1, max(channels, 2), steps)) % channels
    threshold, delta = rng.integers(-reach - 3, reach + 4, steps), rng.integers(-9, 10, steps)
    return np.stack([teacher, student, threshold, delta], axis=1).astype(np.int32)


def execute(program: Plan, acc: Array) -> Array:
    """What the stage does, on int16 [pixels, C]."""
    rows = np.zeros((acc.shape[1] + program.copies, len(acc)), np.int16)
    rows[: acc.shape[1]] = (acc + program.constants).T
    for update in program.updates:
        total = rows[update.source].copy()
        for step in update.steps:
            total += np.where(rows[step.teacher] > step.limit, step.delta, 0).astype(np.int16)
        rows[update.target] = total
    return rows[: acc.shape[1]].T.astype(np.int32)


@settings(max_examples=150, deadline=None)
@given(st.integers(2, 12), st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=4), st.integers(0, 999))
def test_program(channels: int, sizes: list[tuple[int, int]], seed: int) -> None:
    rng, reach = np.random.default_rng(seed), 10
    rounds = [(table(rng, channels, a, reach), table(rng, channels, b, reach)) for a, b in sizes]
    low, high = np.sort(rng.integers(-reach, reach + 1, (2, channels)), axis=0).astype(np.int64)
    acc = rng.integers(low, high + 1, (50, channels)).astype(np.int32)
    acc[0], acc[1] = low, high
    program = plan(rounds, low, high)
    assert program is not None
    want = acc
    for up, down in rounds:
        want = channel_interaction.meaning(want, up, down)
    assert (execute(program, acc) == want).all()


def test_what_passes_16_bits_has_no_program() -> None:
    low, high = np.array([-32767, -9], np.int64), np.array([0, 9], np.int64)
    assert plan([(np.array([[1, 0, 5, -1]], np.int32), EMPTY)], low, high) is not None
    assert plan([(np.array([[1, 0, 5, -2]], np.int32), EMPTY)], low, high) is None
    assert plan([(np.array([[1, 0, 10, -2]], np.int32), EMPTY)], low, high) is not None  # never happens
    assert plan([(np.array([[1, 0, -9, 1 << 20]], np.int32), EMPTY)], low, high) is None


def test_what_the_kernel_refuses() -> None:
    rounds, offset = [(EMPTY, EMPTY)], np.zeros((1, 1, 24), np.int32)
    assert why_not(rounds, offset, 99, width=9, groups=3) == ""
    assert "groups of 12 channels" in why_not(rounds, offset, 99, width=9, groups=2)
    assert "a row of 9999 pixels and 24 channels" in why_not(rounds, offset, 99, width=9999, groups=1)
    assert "16 bits" in why_not(rounds, offset, 40000, width=9, groups=1)


@each_target
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_interacted_conv2d(target: Target, data: st.DataObject) -> None:
    kernel = data.draw(st.sampled_from([(1, 1), (3, 3), (2, 3)]))
    rows, width = data.draw(st.sampled_from([1, 2, 3, 6])), data.draw(st.sampled_from([1, 5, 9, 16, 33]))
    groups, bit_weight = data.draw(st.sampled_from([1, 1, 2])), data.draw(st.integers(1, 2))
    channels, per_group = data.draw(st.sampled_from([3, 40, 70])), data.draw(st.sampled_from([8, 16, 40, 72]))
    if groups == 1:
        per_group = data.draw(st.sampled_from([1, 5, per_group, 100]))
    group_bytes = bitpack.packed_bytes(channels, target.word_bytes)
    out = ep.Geometry(data.draw(st.integers(1, 2)), rows, width, groups * per_group)
    classes = data.draw(st.sampled_from([(1, 1), (2, 3)]))
    rng, taps = np.random.default_rng(data.draw(st.integers(0, 99))), kernel[0] * kernel[1]
    offset = rng.integers(taps * channels - 9, taps * channels, (*classes, out.channels)).astype(np.int32)
    where = [rng.integers(0, c, n).astype(np.int32) for c, n in zip(classes, (rows, width), strict=True)]
    sizes = data.draw(st.lists(st.sampled_from([0, 3, 40]), min_size=1, max_size=3))
    reach = min(taps * channels, 12)
    rounds = [(table(rng, out.channels, size, reach), table(rng, out.channels, size, reach)) for size in sizes]
    room = capacity(rounds, offset, bit_weight * 8 * taps * group_bytes)
    conv = InteractedConv2d(
        out, rows + kernel[0] - 1, width + kernel[1] - 1, channels, group_bytes, kernel,
        groups=groups, bit_weight=bit_weight, classes=classes, capacity=room,
    )  # fmt: skip
    schedule = data.draw(schedules(conv, target))
    case = data.draw(epilogues.cases(out, "int32", groups))
    layout = ep.BitLayout(groups * channels, groups, group_bytes)
    bits = random_bits(rng, (out.batch, conv.in_rows, conv.in_width), layout)
    weights = bitpack.pack(rng.integers(0, 2, (out.channels, taps, channels)).astype(bool), target.word_bytes)
    expected = correlate(bits, weights, offset, (where[0], where[1]), conv)
    for up, down in rounds:
        expected = np.moveaxis(channel_interaction.meaning(np.moveaxis(expected, -1, 1), up, down), 1, -1)
    tolerance = 0.0 if all(o.dtype != "float32" for o in case.epilogue.outputs) else 1e-5
    constants: list[Array] = [weights, offset, *where, *(side for pair in rounds for side in pair)]
    check(conv, target, schedule, [bits], constants, case, expected, rtol=tolerance, atol=tolerance)
