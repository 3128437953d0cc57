"""Pooling and elementwise kernels against numpy."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from bnncc.kernels.elementwise import Elementwise
from bnncc.kernels.global_pool import GlobalPool
from bnncc.kernels.pack import Pack
from bnncc.kernels.pool2d import Pool2d
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.transpose import Transpose
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from tests.kernelrun import each_target, run
from tests.kernels import epilogues
from tests.kernels.checks import check, schedules

Array = npt.NDArray[Any]
SETTINGS = settings(max_examples=25, deadline=None)
CHANNELS = st.sampled_from([1, 3, 8, 12, 16, 24, 40, 67])


def pool(x: Array, shape: Pool2d) -> Array:
    """One output pixel after the other, in float64."""
    out, (top, left, bottom, right) = shape.output, shape.pads
    y = np.zeros((out.batch, out.rows, out.width, out.channels))
    for row in range(out.rows):
        for column in range(out.width):
            i = [row * shape.strides[0] - top + k * shape.dilations[0] for k in range(shape.kernel[0])]
            j = [column * shape.strides[1] - left + k * shape.dilations[1] for k in range(shape.kernel[1])]
            inside_i, inside_j = [k for k in i if 0 <= k < shape.in_rows], [k for k in j if 0 <= k < shape.in_width]
            window = x[:, inside_i][:, :, inside_j].astype(np.float64)
            if shape.what == "max":
                y[:, row, column] = window.max(axis=(1, 2), initial=-np.inf)
                continue
            count = window.shape[1] * window.shape[2]
            if shape.what == "average_with_pads":
                count = sum(k < shape.in_rows + bottom for k in i) * sum(k < shape.in_width + right for k in j)
            y[:, row, column] = window.sum(axis=(1, 2)) / count
    return y.astype(np.float32)


@each_target
@SETTINGS
@given(data=st.data())
def test_pool2d(target: Target, data: st.DataObject) -> None:
    kinds: tuple[Literal["max", "average", "average_with_pads"], ...] = ("max", "average", "average_with_pads")
    kind = data.draw(st.sampled_from(kinds))
    axes: list[tuple[int, ...]] = []
    for _ in range(2):
        kernel, stride, dilation = (
            data.draw(st.integers(1, 4)),
            data.draw(st.integers(1, 3)),
            data.draw(st.integers(1, 2)),
        )
        reach = (kernel - 1) * dilation + 1
        before, after = data.draw(st.integers(0, (kernel - 1) // 2)), data.draw(st.integers(0, (kernel - 1) // 2))
        size = data.draw(st.integers(max(1, reach - before - after), 14))
        room = size + before + after - reach
        extent = room // stride + 1
        # ceil_mode: one more window where it starts inside the image.
        if data.draw(st.booleans()) and room % stride and (extent * stride < size + before):
            extent += 1
        axes.append((kernel, stride, dilation, before, after, size, extent))
    windows, strides, dilations, begin, end, sizes, extents = (
        (values[0], values[1]) for values in zip(*axes, strict=True)
    )
    out = ep.Geometry(data.draw(st.integers(1, 2)), extents[0], extents[1], data.draw(CHANNELS))
    pooling = Pool2d(out, sizes[0], sizes[1], windows, strides, (*begin, *end), dilations, kind)
    schedule = data.draw(schedules(pooling, target))
    case = data.draw(epilogues.cases(out))
    x = np.random.default_rng(0).standard_normal((out.batch, *sizes, out.channels)).astype(np.float32)
    expected = pool(x, pooling)
    if not np.isfinite(expected).all():
        return  # a dilated window may miss the image altogether
    check(pooling, target, schedule, [x], [], case, expected, rtol=1e-5, atol=1e-6)


@each_target
@SETTINGS
@given(data=st.data())
def test_global_pool(target: Target, data: st.DataObject) -> None:
    rows, width = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 8))
    out = ep.Geometry(data.draw(st.integers(1, 2)), 1, 1, data.draw(CHANNELS))
    case = data.draw(epilogues.cases(out))
    x = np.random.default_rng(0).standard_normal((out.batch, rows, width, out.channels)).astype(np.float32)
    mean = x.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
    kernel = GlobalPool(out, rows, width)
    check(kernel, target, data.draw(schedules(kernel, target)), [x], [], case, mean, rtol=1e-5, atol=1e-6)


@st.composite
def geometries(draw: st.DrawFn) -> ep.Geometry:
    return ep.Geometry(draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(CHANNELS))


@each_target
@SETTINGS
@given(data=st.data(), out=geometries(), dtype=st.sampled_from(["float32", "int32"]))
def test_elementwise(target: Target, data: st.DataObject, out: ep.Geometry, dtype: Literal["float32", "int32"]) -> None:
    case = data.draw(epilogues.cases(out, dtype))
    random = np.random.default_rng(0)
    shape = (out.batch, out.rows, out.width, out.channels)
    x = random.standard_normal(shape).astype(np.float32) if dtype == "float32" else random.integers(-30, 30, shape)
    kernel = Elementwise(out, dtype)
    check(kernel, target, Schedule(), [x.astype(dtype)], [], case, x.astype(dtype), rtol=1e-6, atol=1e-6)


@each_target
@SETTINGS
@given(data=st.data(), out=geometries(), kind=st.sampled_from(["scalar", "channel", "int32"]), strict=st.booleans())
def test_pack(target: Target, data: st.DataObject, out: ep.Geometry, kind: str, strict: bool) -> None:
    groups = data.draw(st.sampled_from([g for g in (1, 2, 3, 4) if out.channels % g == 0]))
    layout = data.draw(epilogues.layouts(out.channels))
    size = -(-out.channels // groups // 8) + data.draw(st.integers(0, 2))
    layout = ep.BitLayout(out.channels, groups, size, layout.pads, layout.pad_bit)
    random = np.random.default_rng(0)
    dtype = "int32" if kind == "int32" else "float32"
    x = random.integers(-9, 9, (out.batch, out.rows, out.width, out.channels)).astype(dtype)
    limits = [
        random.integers(-9, 9, out.channels).astype(dtype) for _ in range(("scalar", "channel", "int32").index(kind))
    ]
    limit = limits[0] if limits else np.float32(2)
    bits = x > limit if strict and kind != "int32" else x >= limit
    if kind == "int32":
        bits &= x <= limits[1]
    expected = epilogues.pack(bits, layout)
    got = np.full(expected.shape, 0x55, np.uint8)
    kernel = Pack(out, "int32" if kind == "int32" else "float32", 2.0 if kind == "scalar" else None, strict)
    epilogue = ep.Epilogue(outputs=(ep.Output(0, "uint8", layout),))
    run(kernel.build(epilogue, target, Schedule()), target, x, *limits, got)
    np.testing.assert_array_equal(got, expected)


@each_target
@SETTINGS
@given(batch=st.integers(1, 2), rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_transpose(target: Target, batch: int, rows: int, columns: int) -> None:
    x = np.random.default_rng(0).standard_normal((batch, rows, columns)).astype(np.float32)
    got = np.zeros((batch, columns, rows), np.float32)
    kernel = Transpose(ep.Geometry(batch, 1, columns, rows))
    run(kernel.build(ep.Epilogue(), target, Schedule()), target, x, got)
    np.testing.assert_array_equal(got, x.transpose(0, 2, 1))
