"""What becomes 8-bit, what stays float32 and why, and which inputs calibration sees."""

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from bnncc.ops import conv2d_int8, quantize
from bnncc.options import InputRange
from bnncc.passes import watch_convs
from bnncc.passes.quantize_convs import QuantizeConvs, quantization
from bnncc.passes.watch_convs import WatchConvs
from tests.irtest import Array, build, docstring_example, evaluate, run, transform

WIDE = InputRange(-4.0, 4.0)
EVERY = {"fewest_macs": 1, "fewest_macs_per_input": 1}


def convolution(x: Array, w: Array, **attributes: Any) -> tvm.IRModule:
    """A module of one convolution, NHWC and HWIO."""
    layouts = {"data_layout": "NHWC", "kernel_layout": "HWIO"}
    return build(lambda v: relax.op.nn.conv2d(v, relax.const(w), **layouts, **attributes), [x])


def random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dtype", sorted(quantize.LIMITS))
@pytest.mark.parametrize("dilation", [[1, 1], [1, 2]])
def test_close_to_the_float_convolution(dtype: str, dilation: list[int]) -> None:
    """Every input is off by at most half a step, every weight by half of its own."""
    x, w = np.clip(random(2, 9, 10, 3), -4, 4), random(3, 2, 3, 8)
    w[..., 5] = 0
    module = convolution(x, w, padding=[1, 0, 2, 3], strides=[2, 1], dilation=dilation)
    (outcome,) = run(module, QuantizeConvs({0: WIDE}, dtype=dtype, **EVERY))
    (found,), (want,) = evaluate(outcome.module, x), evaluate(module, x)
    assert outcome.rewrites == 1
    products, input_step, weight_step = 3 * 2 * 3, 8 / 255, float(np.abs(w).max()) / 127
    bound = products * (0.5 * input_step * np.abs(w).max() + 0.5 * weight_step * 4 + input_step * weight_step)
    assert np.abs(found - want).max() <= bound
    # And typically much less: the errors of the products have both signs.
    assert np.abs(found - want).mean() <= bound / 8
    assert (found[..., 5] == 0).all()


def test_integers_are_those_of_numpy() -> None:
    x, w = random(1, 5, 6, 3), random(3, 3, 3, 4)
    module = transform(convolution(x, w, padding=[1, 1, 1, 1]), QuantizeConvs({0: WIDE}, dtype="uint8", **EVERY))
    (found,) = evaluate(module, x)
    inverse, zero = quantization(WIDE, "uint8")
    scales = np.abs(w).max(axis=(0, 1, 2)).astype(np.float64) / 127
    integers = np.rint(w / scales).astype(np.int8)
    bias = (-zero * integers.astype(np.int32).sum(axis=(0, 1, 2))).astype(np.int32)
    q = quantize.meaning(x, inverse_scale=float(inverse), zero_point=zero, pads=(1, 1, 1, 1), row_elements=28)
    sums = conv2d_int8.meaning(q, integers, bias, width=8)
    want = sums.astype(np.float32) * (scales / float(inverse)).astype(np.float32)
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize(
    ("x", "w", "attributes", "options", "reason"),
    [
        (random(1, 8, 8, 4), random(3, 3, 2, 8), {"groups": 2}, {}, "in 2 groups"),
        (random(1, 8, 8, 4), random(3, 3, 4, 8) * np.float32(np.inf), {}, {}, "not finite"),
        (random(1, 8, 8, 4), random(3, 3, 4, 8), {}, {"fewest_macs": 10**6}, "products, fewer than 1000000"),
        (random(1, 8, 8, 4), random(1, 1, 4, 4), {}, {"fewest_macs_per_input": 32}, "fewer than 32 each"),
        (random(1, 8, 8, 4), random(3, 3, 4, 8), {}, {"ranges": {}}, "range of its input is not known"),
        (random(1, 8, 8, 4), random(3, 3, 4, 8), {}, {"ranges": {0: InputRange(0.0, 0.0)}}, "was 0 in all samples"),
        (random(1, 8, 8, 4), random(3, 3, 4, 8), {}, {"dtype": ""}, "no instructions for 8-bit"),
        (random(1, 1, 1, 40000), random(1, 1, 40000, 8), {}, {}, "may not fit int32"),
    ],
)
def test_refused(x: Array, w: Array, attributes: Any, options: Any, reason: str) -> None:
    module = convolution(x, w, **attributes)
    step = QuantizeConvs(**({"ranges": {0: WIDE}, "dtype": "uint8", **EVERY} | options))
    (outcome,) = run(module, step)
    tvm.ir.assert_structural_equal(outcome.module["main"], module["main"], map_free_vars=True)
    assert outcome.rewrites == 0
    assert len(outcome.refused) == 1
    assert reason in outcome.refused[0]


@pytest.mark.parametrize("low", [-3.0, -1e-40, 0.0, 2.0])
@pytest.mark.parametrize("high", [0.0, 1e-40, 5.0, -1.0])
@pytest.mark.parametrize("dtype", sorted(quantize.LIMITS))
def test_zero_is_exact_and_ranges_are_covered(low: float, high: float, dtype: str) -> None:
    inverse, zero = quantization(InputRange(low, high), dtype)
    least, most = quantize.LIMITS[dtype]
    assert least <= zero <= most
    assert 0 < inverse < np.inf
    for value in (min(low, 0.0), max(high, 0.0)):
        assert least - 0.51 <= value * float(inverse) + zero <= most + 0.51


def test_watching_adds_the_inputs_of_convolutions_as_outputs() -> None:
    before, after = docstring_example(watch_convs)
    (outcome,) = run(before, WatchConvs())
    tvm.ir.assert_structural_equal(outcome.module, after, map_free_vars=True)
    assert outcome.rewrites == 1
    x, w = random(1, 4, 4, 8), random(1, 1, 8, 8)
    assert (evaluate(after, x, w)[1] == np.maximum(x, 0)).all()
