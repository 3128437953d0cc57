"""conv2d, depthwise and dense against loops over taps in numpy."""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx

from bnncc.bench.kernel import call, load
from bnncc.kernels.conv2d import Conv2d
from bnncc.kernels.dense import Dense
from bnncc.kernels.depthwise import DepthwiseConv2d
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir import shares
from tests.kernelrun import each_target, run
from tests.kernels.checks import check, schedules
from tests.kernels.epilogues import cases

Array = npt.NDArray[Any]
SETTINGS = settings(max_examples=25, deadline=None)


def convolve(x: Array, w: Array, shape: Any, groups: int) -> Array:
    """NHWC with HWIO weights, in float64, over as much zero padding as the windows reach."""
    out, (top, left) = shape.output, shape.pads[:2]
    x = np.pad(x.astype(np.float64), ((0, 0), (top, 64), (left, 64), (0, 0)))
    y = np.zeros((out.batch, out.rows, out.width, out.channels))
    per_in, per_out = w.shape[2], out.channels // groups
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            row, column = i * shape.dilations[0], j * shape.dilations[1]
            tap = x[:, row :: shape.strides[0], column :: shape.strides[1]][:, : out.rows, : out.width]
            for g in range(groups):
                part = tap[..., g * per_in : (g + 1) * per_in]
                y[..., g * per_out : (g + 1) * per_out] += part @ w[i, j, :, g * per_out : (g + 1) * per_out]
    return y.astype(np.float32)


def pairs(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


def output_extent(size: int, kernel: int, stride: int, dilation: int, pads: int) -> int:
    return (size + pads - (kernel - 1) * dilation - 1) // stride + 1


@st.composite
def windows(draw: st.DrawFn) -> tuple[Any, ...]:
    """(kernel, strides, pads, dilations, in_rows, in_width, rows, width) of a convolution that has an output."""
    kernel, strides, dilations = draw(pairs(1, 4)), draw(pairs(1, 3)), draw(pairs(1, 2))
    pads = draw(st.sampled_from([(0, 0, 0, 0), (1, 1, 1, 1), (0, 2, 1, 0), (2, 0, 0, 1)]))
    extents = tuple(draw(st.integers((k - 1) * d + 1, 12)) for k, d in zip(kernel, dilations, strict=True))
    rows, width = (
        output_extent(extents[a], kernel[a], strides[a], dilations[a], pads[a] + pads[a + 2]) for a in range(2)
    )
    return kernel, strides, pads, dilations, *extents, rows, width


@each_target
@SETTINGS
@given(data=st.data())
def test_conv2d(target: Target, data: st.DataObject) -> None:
    kernel, strides, pads, dilations, in_rows, in_width, rows, width = data.draw(windows())
    groups = data.draw(st.sampled_from([1, 1, 1, 2, 3]))
    per_in, per_out = data.draw(st.integers(1, 20)), data.draw(st.sampled_from([1, 3, 8, 12, 16, 24, 40, 67, 80]))
    batch, nchw = data.draw(st.integers(1, 2)), data.draw(st.booleans())
    out = ep.Geometry(batch, rows, width, groups * per_out)
    conv = Conv2d(out, in_rows, in_width, groups * per_in, kernel, strides, pads, dilations, groups, nchw)
    schedule = data.draw(schedules(conv, target))
    case = data.draw(cases(out, groups=groups))
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, in_rows, in_width, groups * per_in)).astype(np.float32)
    w = random.standard_normal((*kernel, per_in, groups * per_out)).astype(np.float32)
    source = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if nchw else x
    inputs: list[Array] = [source]
    expected = convolve(x, w, conv, groups)
    execute = run
    if filler := conv.filler():
        padding = filler.build(ep.Epilogue(), target, filler.default(target))
        inputs.append(np.full(conv.workspace_bytes(), 0xFF, np.uint8))
        if batch == 1:
            run(padding, target, source, inputs[-1])
        else:
            execute = partial(one_image_after_the_other, padding, batch)
    check(conv, target, schedule, inputs, [w], case, expected, rtol=1e-5, atol=2e-4, execute=execute)


def one_image_after_the_other(
    padding: tirx.PrimFunc, batch: int, kernel: tirx.PrimFunc, target: Target, *arrays: Array
) -> None:
    """Run a padded convolution: its workspace, arrays[2], has room for one image."""
    pad, convolution = load({"pad": padding, "kernel": kernel}, target).values()
    rows, units = shares.units(padding) // batch, shares.units(kernel) // batch
    for n in range(batch):
        call(pad, [arrays[0], arrays[2]], (n * rows, (n + 1) * rows))
        call(convolution, arrays, (n * units, (n + 1) * units))


@each_target
@SETTINGS
@given(data=st.data())
def test_depthwise(target: Target, data: st.DataObject) -> None:
    kernel, strides, pads, dilations, in_rows, in_width, rows, width = data.draw(windows())
    channels, batch = data.draw(st.sampled_from([1, 3, 8, 12, 16, 24, 40, 67])), data.draw(st.integers(1, 2))
    out = ep.Geometry(batch, rows, width, channels)
    conv = DepthwiseConv2d(out, in_rows, in_width, kernel, strides, pads, dilations)
    schedule = data.draw(schedules(conv, target))
    case = data.draw(cases(out))
    random = np.random.default_rng(0)
    x = random.standard_normal((batch, in_rows, in_width, channels)).astype(np.float32)
    w = random.standard_normal((*kernel, 1, channels)).astype(np.float32)
    expected = convolve(x, w, conv, channels)
    check(conv, target, schedule, [x], [w], case, expected, rtol=1e-5, atol=2e-5)


@each_target
@SETTINGS
@given(data=st.data())
def test_dense(target: Target, data: st.DataObject) -> None:
    rows, size = data.draw(st.sampled_from([1, 1, 2, 5, 9])), data.draw(st.integers(1, 70))
    out = ep.Geometry(rows, 1, 1, data.draw(st.sampled_from([1, 8, 10, 16, 24, 100, 136])))
    case = data.draw(cases(out))
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, size)).astype(np.float32)
    w = random.standard_normal((size, out.channels)).astype(np.float32)
    product = (x.astype(np.float64) @ w).astype(np.float32).reshape(rows, 1, 1, -1)
    dense = Dense(out, size)
    check(dense, target, data.draw(schedules(dense, target)), [x], [w], case, product, rtol=1e-5, atol=2e-5)
