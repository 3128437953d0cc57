"""Cases of the epilogue that random shapes meet too seldom."""

import numpy as np
import pytest

from bnncc.kernels.elementwise import Elementwise
from bnncc.kernels.schedule import Schedule
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from tests.kernelrun import each_target, run
from tests.kernels import epilogues


@each_target
@pytest.mark.parametrize(("channels", "groups"), [(16, 2), (48, 2), (96, 4), (32, 2), (40, 5)])
def test_a_vector_of_channels_crosses_into_the_next_group(target: Target, channels: int, groups: int) -> None:
    layout = ep.BitLayout(channels, groups, 8, (1, 0, 0, 2), 1)
    x = np.random.default_rng(0).standard_normal((1, 2, 3, channels)).astype(np.float32)
    steps = (ep.Step("pack", (epilogues.value(0), epilogues.scalar(0.0))),)
    epilogue = ep.Epilogue((), steps, (ep.Output(1, "uint8", layout),))
    built = Elementwise(ep.Geometry(1, 2, 3, channels)).build(epilogue, target, Schedule())
    expected = epilogues.pack(x >= 0, layout)
    got = np.full(expected.shape, 0x55, np.uint8)
    run(built, target, x, got)
    np.testing.assert_array_equal(got, expected)


@each_target
def test_zero_is_positive_and_nan_is_not(target: Target) -> None:
    x = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1.0], np.float32).reshape(1, 1, 1, 8)
    steps = (ep.Step("pack", (epilogues.value(0), epilogues.scalar(0.0))),)
    outputs = (ep.Output(1, "uint8", ep.BitLayout(8, 1, 1)),)
    got = np.zeros((1, 1, 1, 1), np.uint8)
    kernel = Elementwise(ep.Geometry(1, 1, 1, 8))
    run(kernel.build(ep.Epilogue((), steps, outputs), target, Schedule()), target, x, got)
    assert got[0, 0, 0, 0] == 0b10101011
