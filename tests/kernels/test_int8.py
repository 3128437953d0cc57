"""quantize and conv2d_int8 against numpy integers, and every machine's dot product against its plain meaning."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.codegen.llvm import compile_object
from bnncc.kernels.conv2d_int8 import Conv2dInt8
from bnncc.kernels.quantize import Quantize, interleaves
from bnncc.kernels.schedule import Schedule
from bnncc.ops import conv2d_int8 as conv2d_int8_op
from bnncc.ops import quantize as quantize_op
from bnncc.targets import TARGETS
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep
from bnncc.tir import int8_dot
from bnncc.tir.registers import local, ramp
from bnncc.tir.tiles import arg
from tests.kernelrun import each_target, run
from tests.kernels.checks import check, schedules
from tests.kernels.epilogues import cases
from tests.kernels.test_conv2d import windows

Array = npt.NDArray[Any]
SETTINGS = settings(max_examples=20, deadline=None)
INT8_TARGETS = [target for target in TARGETS.values() if target.int8_dot]
# What the inner loop must be made of.
INSTRUCTIONS = {"vnni": "vpdpbusd", "madd": "pmaddwd", "sdot": "sdot", "smlal": "sadalp", "vmlal": "vpadal.s16"}


def integers(dtype: str, shape: tuple[int, ...], seed: int) -> Array:
    """Any values that quantising to `dtype` gives, the extreme ones among them often."""
    low, high = quantize_op.LIMITS[dtype]
    random = np.random.default_rng(seed)
    values = random.integers(low, high + 1, shape)
    return np.where(random.random(shape) < 0.3, random.choice([low, high], shape), values).astype(dtype)


def weights_of(shape: tuple[int, ...], seed: int) -> npt.NDArray[np.int8]:
    random = np.random.default_rng(seed)
    values = random.integers(-127, 128, shape)
    return np.where(random.random(shape) < 0.3, random.choice([-127, 127], shape), values).astype(np.int8)


@each_target
@SETTINGS
@given(data=st.data())
def test_conv2d_int8(target: Target, data: st.DataObject) -> None:
    kernel, strides, pads, dilations, in_rows, in_width, rows, width = data.draw(windows())
    in_rows, in_width = in_rows + pads[0] + pads[2], in_width + pads[1] + pads[3]
    channels, outputs = (
        data.draw(st.sampled_from([1, 2, 3, 4, 5, 8, 19])),
        data.draw(st.sampled_from([1, 8, 24, 67, 80])),
    )
    batch, seed, use = data.draw(st.integers(1, 2)), data.draw(st.integers(0, 99)), int8_dot.dot(target)
    out = ep.Geometry(batch, rows, width, outputs)
    run_length = kernel[1] * channels if dilations[1] == 1 else channels
    row = in_width * channels + -run_length % 4
    conv = Conv2dInt8(out, in_rows, row, channels, kernel, strides, dilations)
    schedule = data.draw(schedules(conv, target))
    case = data.draw(cases(out, dtype="int32"))
    q, w = integers(use.inputs, (batch, in_rows, row), seed), weights_of((*kernel, channels, outputs), seed)
    bias = np.random.default_rng(seed).integers(-(2**20), 2**20, outputs, dtype=np.int32)
    want = conv2d_int8_op.meaning(q, w, bias, width=in_width, strides=strides, dilations=dilations)
    # Sums are equal; what is computed from them in float32 differs by its own rounding.
    plain = not case.params
    tolerance = (0.0, 0.0) if plain or case.epilogue.outputs[0].dtype == "uint8" else (1e-6, 1e-2)
    check(conv, target, schedule, [q], [w, bias], case, want, rtol=tolerance[0], atol=tolerance[1])


@each_target
@SETTINGS
@given(data=st.data())
def test_quantize(target: Target, data: st.DataObject) -> None:
    batch, rows, width = (data.draw(st.integers(1, high)) for high in (2, 5, 40))
    channels, nchw = data.draw(st.sampled_from([1, 2, 3, 4, 7, 16])), data.draw(st.booleans())
    nchw = nchw and interleaves(channels)
    pads = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    dtype = data.draw(st.sampled_from(sorted(quantize_op.LIMITS)))
    row = (pads[1] + width + pads[3]) * channels + data.draw(st.integers(0, 7))
    low, high = quantize_op.LIMITS[dtype]
    inverse, zero = data.draw(st.sampled_from([1.0, 31.7, 2.0, 1e30, 1e-30])), data.draw(st.integers(low, high))
    x = np.random.default_rng(0).standard_normal((batch, rows, width, channels)).astype(np.float32) * 4
    x = np.where(np.random.default_rng(1).random(x.shape) < 0.3, np.round(x) + np.float32(0.5), x)  # ties
    x.reshape(-1)[:4] = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)[: x.size]
    kernel = Quantize(ep.Geometry(batch, rows, width, channels), pads, row, inverse, zero, dtype, nchw)
    source = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if nchw else x
    got = np.full((batch, pads[0] + rows + pads[2], row), 0x55, dtype)
    run(kernel.build(ep.Epilogue(), target, Schedule()), target, source, got)
    want = quantize_op.meaning(x, inverse_scale=inverse, zero_point=zero, pads=pads, row_elements=row, dtype=dtype)
    np.testing.assert_array_equal(got, want)


def dot_kernel(use: int8_dot.Dot, groups: int) -> tirx.PrimFunc:
    """(inputs, weights, sums): one vector of sums of `groups` groups."""
    everything, wide = ramp(0, use.lanes), use.lanes * use.group
    with IRBuilder() as ib, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        inputs, weights, sums = arg("inputs", use.inputs), arg("weights", use.weights), arg("sums", "int32")
        total = local("int32", use.lanes)
        T.buffer_store(total, sums[everything], [everything])
        with T.serial(0, groups) as i:
            values = T.Bind(use.load_inputs(inputs, i * use.group))
            row = T.Bind(weights[ramp(i * wide, wide)])
            T.buffer_store(total, use.add(total[everything], values, row), [everything])
        T.buffer_store(sums, total[everything], [everything])
    return ib.get()


@each_target
def test_dot_is_its_plain_meaning(target: Target) -> None:
    """The intrinsics never saturate: extreme inputs and weights, sums near the ends of int32."""
    use = int8_dot.dot(target)
    plain = int8_dot.plain(use.group, use.part, use.inputs, use.weights, use.lanes)
    groups = 64
    for seed in range(4):
        q = integers(use.inputs, (groups * use.group,), seed)
        w = weights_of((groups * use.group * use.lanes,), seed).astype(use.weights)
        if seed == 0:
            q[:], w[:] = quantize_op.LIMITS[use.inputs][1], 127
        if seed == 1:
            q[:], w[:] = quantize_op.LIMITS[use.inputs][0] or 255, -127
        results = []
        for each in (use, plain):
            sums = np.full(use.lanes, (-1) ** seed * (2**30), np.int32)
            run(dot_kernel(each, groups), target, q, w, sums)
            results.append(sums)
        assert np.array_equal(results[0], results[1])
        lanes = w.reshape(groups, -1, use.lanes, use.part).transpose(0, 1, 3, 2).reshape(-1, use.lanes)
        want = (-1) ** seed * 2**30 + q.astype(np.int64) @ lanes.astype(np.int64)
        np.testing.assert_array_equal(results[0], want)


@pytest.mark.parametrize("target", INT8_TARGETS, ids=lambda target: target.name)
def test_the_instruction_is_there(target: Target) -> None:
    text = compile_object({"kernel": dot_kernel(int8_dot.dot(target), 64)}, target, "s").decode()
    assert INSTRUCTIONS[target.int8_dot] in text


@pytest.mark.parametrize("name", ["arm", "rpi5", "armv7"])
def test_compiles_for_arm(name: str) -> None:
    target = TARGETS[name]
    conv = Conv2dInt8(ep.Geometry(1, 6, 6, 40), 17, 56, 3, (7, 7), (2, 2))
    pixels = ep.Geometry(1, 11, 11, 3)
    quantize = Quantize(pixels, (3, 3, 3, 3), 56, 20.0, -14, target.int8_inputs, nchw=True)
    for kernel in (conv, quantize):
        epilogue = ep.Epilogue(outputs=(ep.Output(0, "int32"),))
        built = kernel.build(epilogue, target, kernel.default(target))
        assert compile_object({"kernel": built}, target)[:4] == b"\x7fELF"
