"""Every Relax operator computes its numpy meaning, through its own te.compute, and prints as it parses."""

from typing import Any

import numpy as np
import pytest

from bnncc.ops import (
    binarize,
    binary_conv2d,
    check_indices,
    conv2d_int8,
    or_pool2d,
    pack,
    pad_bits,
    quantize,
    threshold,
    xnor_conv2d,
)
from bnncc.ops.window import Window
from tests.irtest import build, evaluate, parse

BITS = np.random.default_rng(0)


def run(call: Any, *inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The value of `call(*parameters)` on the inputs."""
    (value,) = evaluate(build(call, inputs), *inputs)
    return value


@pytest.mark.parametrize("word_bytes", [1, 8])
@pytest.mark.parametrize(("channels", "groups"), [(10, 1), (24, 2)])
@pytest.mark.parametrize("strict", [False, True])
def test_pack(strict: bool, channels: int, groups: int, word_bytes: int) -> None:
    x = BITS.integers(-2, 3, (1, 3, 2, channels)).astype(np.float32)
    limit = BITS.integers(-1, 2, channels).astype(np.float32)
    got = run(lambda v: pack.call(v, limit, groups, word_bytes, int(strict)), x)
    assert (got == pack.meaning(x, limit, groups=groups, word_bytes=word_bytes, strict=strict)).all()


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize(("shape", "extents"), [((1,), (4,)), ((2, 3), (4,)), ((5, 3), (4, 2, 9))])
def test_check_indices(shape: tuple[int, ...], extents: tuple[int, ...], dtype: str) -> None:
    x = np.asarray(BITS.integers(-12, 12, shape)).astype(dtype)
    got = run(lambda v: check_indices.call(v, extents), x)
    assert got.dtype == dtype
    assert (got == check_indices.meaning(x, extents=extents)).all()


@pytest.mark.parametrize("word_bytes", [1, 8])
@pytest.mark.parametrize("pad_bit", [0, 1])
def test_pad_bits(pad_bit: int, word_bytes: int) -> None:
    b = pack.meaning(BITS.standard_normal((1, 3, 2, 20)).astype(np.float32), 0.0, groups=2, word_bytes=word_bytes)
    got = run(lambda v: pad_bits.call(v, (1, 0, 2, 3), pad_bit, 20, 2), b)
    assert (got == pad_bits.meaning(b, pads=(1, 0, 2, 3), pad_bit=pad_bit, channels=20, groups=2)).all()


def test_or_pool2d() -> None:
    b = BITS.integers(0, 256, (1, 7, 6, 3), dtype=np.uint8)
    got = run(lambda v: or_pool2d.call(v, (3, 2), (2, 2), (1, 0, 1, 1)), b)
    assert (got == or_pool2d.meaning(b, kernel=(3, 2), strides=(2, 2), pads=(1, 0, 1, 1))).all()


def test_threshold() -> None:
    accumulator = BITS.integers(-5, 6, (1, 3, 2, 12), dtype=np.int32)
    lo, hi = BITS.integers(-5, 6, (2, 12), dtype=np.int32)
    got = run(lambda v: threshold.call(v, lo, hi), accumulator)
    assert (got == threshold.meaning(accumulator, lo, hi)).all()


@pytest.mark.parametrize("bit_weight", [1, 2])
def test_xnor_conv2d(bit_weight: int) -> None:
    b = BITS.integers(0, 256, (2, 7, 6, 4), dtype=np.uint8)
    w = BITS.integers(0, 256, (6, 6, 2), dtype=np.uint8)
    window = Window(kernel=(3, 2), strides=(2, 1), dilations=(1, 2))
    rows, columns = window.output(7, 6)
    offset = BITS.integers(-9, 9, (2, 3, 6), dtype=np.int32)
    classes = BITS.integers(0, 2, rows, dtype=np.int32), BITS.integers(0, 3, columns, dtype=np.int32)
    got = run(lambda v: xnor_conv2d.call(v, w, offset, *classes, bit_weight, (3, 2), (2, 1), (1, 2), 2), b)
    want = xnor_conv2d.meaning(
        b, w, offset, *classes, bit_weight=bit_weight, kernel=(3, 2), strides=(2, 1), dilations=(1, 2), groups=2
    )
    assert (got == want).all()


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_binary_conv2d(pad_value: int) -> None:
    x = np.sign(BITS.standard_normal((2, 6, 5, 20))).astype(np.float32)
    w = BITS.integers(0, 4, (4, 6, 2), dtype=np.uint8)
    got = run(lambda v: binary_conv2d.call(v, w, (2, 3), (1, 2), (1, 0, 2, 1), (2, 1), 2, pad_value), x)
    want = binary_conv2d.meaning(
        x, w, kernel=(2, 3), strides=(1, 2), pads=(1, 0, 2, 1), dilations=(2, 1), groups=2, pad_value=pad_value
    )
    assert (got == want).all()


def test_operators_parse_as_they_print() -> None:
    module = parse("""
        @R.function
        def main(x: R.Tensor((1, 4, 4, 16), "float32"), w: R.Tensor((8, 9, 2), "uint8")):
            with R.dataflow():
                y = R.bnncc.binarize(x, 1, 0.5)
                z = R.bnncc.binary_conv2d(y, w, R.shape([3, 3]), R.shape([1, 1]), R.shape([1, 1, 1, 1]))
                R.output(z)
            return z
    """)
    again = parse(module["main"].script())
    assert again["main"].script() == module["main"].script()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: pack.call(x, 0.0, 3, 1), "16 channels in 3 groups"),
        (lambda x: pack.call(x, 0.0, 1, 3), "word_bytes is 3, allowed: 1, 2, 4, 8"),
        (lambda x: pack.call(x, np.zeros(4)), "threshold has shape"),
        (lambda x: pad_bits.call(x, (0, 0, 0, 0), 0, 16), "it must be uint8"),
        (lambda x: binary_conv2d.call(x, np.zeros((8, 9, 1)), (3, 3)), "w has 9 taps of 1 bytes"),
        (lambda x: binary_conv2d.call(x, np.zeros((8, 25, 2)), (5, 5)), "does not fit"),
    ],
)
def test_wrong_arguments_are_named(wrong: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(wrong, [np.zeros((1, 4, 4, 16), np.float32)])


@pytest.mark.parametrize(("unipolar", "threshold"), [(0, 0.0), (1, 0.0), (1, 0.5)])
def test_binarize(unipolar: int, threshold: float) -> None:
    x = np.array([[-1.0, -0.0, 0.0, 0.5, 1e-45, 2.0, np.nan]], np.float32)
    got = run(lambda v: binarize.call(v, unipolar, threshold), x)
    assert (got == binarize.meaning(x, unipolar=bool(unipolar), threshold=threshold)).all()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_quantize(dtype: str) -> None:
    x = (BITS.standard_normal((2, 3, 4, 3)) * 3).astype(np.float32)
    x[0, 0, 0] = (np.nan, np.inf, -np.inf)
    x[1] = np.round(x[1]) + np.float32(0.5)  # ties
    got = run(lambda v: quantize.call(v, 20.5, 7, (1, 2, 0, 1), 24, dtype), x)
    want = quantize.meaning(x, inverse_scale=20.5, zero_point=7, pads=(1, 2, 0, 1), row_elements=24, dtype=dtype)
    assert got.dtype == dtype
    assert (got == want).all()


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
def test_conv2d_int8(dtype: str) -> None:
    low, high = quantize.LIMITS[dtype]
    q = BITS.integers(low, high + 1, (2, 7, 20)).astype(dtype)
    w, bias = BITS.integers(-127, 128, (3, 2, 3, 5)).astype(np.int8), BITS.integers(-99, 99, 5, dtype=np.int32)
    got = run(lambda v: conv2d_int8.call(v, w, bias, 6, (2, 1), (1, 2)), q)
    assert (got == conv2d_int8.meaning(q, w, bias, width=6, strides=(2, 1), dilations=(1, 2))).all()
