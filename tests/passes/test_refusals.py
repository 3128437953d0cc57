"""What each pass must refuse, and the reason it gives."""

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from bnncc.ops import binarize, binary_conv2d, pack, pad_bits, xnor_conv2d
from bnncc.passes import Pass
from bnncc.passes.dataflow import attributes
from bnncc.passes.drop_repeated_sign import DropRepeatedSign
from bnncc.passes.drop_scale_before_sign import DropScaleBeforeSign
from bnncc.passes.fold_batch_norm import FoldBatchNorm
from bnncc.passes.fold_thresholds import FoldThresholds
from bnncc.passes.fuse_epilogue import FuseEpilogue
from bnncc.passes.lower_to_xnor import LowerToXnor
from bnncc.passes.sign_before_max_pool import SignBeforeMaxPool
from tests.irtest import build, evaluate, run, transform

RNG = np.random.default_rng(0)
IMAGE = np.zeros((1, 4, 4, 8), np.float32)


def chained(*steps: Any) -> Any:
    """A function of `x` that binds each step's result to a variable, so that the next step is given the variable."""

    def call(x: Any) -> Any:
        builder = relax.BlockBuilder.current()
        for step in steps[:-1]:
            x = builder.emit(step(x))
        return steps[-1](x)

    return call


def assert_refused(each: Pass, module: tvm.IRModule, reason: str) -> None:
    """The pass changes nothing and says why."""
    (outcome,) = run(module, each)
    tvm.ir.assert_structural_equal(outcome.module, module, map_free_vars=True)
    assert outcome.rewrites == 0
    assert any(reason in found for found in outcome.refused), outcome.refused


# --- signs ---


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        ([1.0, -1.0], "1 scales are not positive"),
        ([2.0, 0.0], "1 scales are not positive"),
        ([0.5, 2.0], "can underflow to zero"),
        ([np.nan, 1.0], "1 scales are not positive"),
    ],
)
def test_scale_before_sign(scale: list[float], reason: str) -> None:
    steps = lambda x: relax.op.multiply(x, relax.const(np.array(scale, np.float32))), binarize.call
    assert_refused(DropScaleBeforeSign(), build(chained(*steps), [np.zeros((3, 2), np.float32)]), reason)


def test_a_scale_below_one_would_flip_a_sign_by_underflow() -> None:
    """Why it is refused: -1e-45 * 0.5 is -0.0, whose sign is +1."""
    x = np.array([[-1e-45]], np.float32)
    steps = lambda v: relax.op.multiply(v, relax.const(0.5, "float32")), binarize.call
    module = build(chained(*steps), [x])
    assert (evaluate(module, x)[0] == 1).all()
    assert (evaluate(transform(module, DropScaleBeforeSign()), x)[0] == 1).all()


def test_scale_below_one_after_integers_is_dropped() -> None:
    w = RNG.integers(0, 256, (3, 1, 1), np.uint8)
    module = build(
        chained(
            lambda x: binary_conv2d.call(x, w, (1, 1)),
            lambda x: relax.op.multiply(x, relax.const(1e-20, "float32")),
            binarize.call,
        ),
        [IMAGE],
    )
    assert "multiply" not in transform(module, DropScaleBeforeSign()).script()


def test_sign_of_other_binary_values() -> None:
    module = build(chained(lambda x: binarize.call(x, 1), lambda x: binarize.call(x, 0)), [IMAGE])
    assert_refused(DropRepeatedSign(), module, "to other values")


# --- batch norm ---


def test_batch_norm_with_run_time_parameters() -> None:
    four = [np.ones(8, np.float32)] * 4

    def norm(x: Any, *parameters: Any) -> Any:
        builder = relax.BlockBuilder.current()
        return relax.TupleGetItem(builder.emit(relax.op.nn.batch_norm(x, *parameters, axis=3, training=False)), 0)

    assert_refused(FoldBatchNorm(), build(norm, [IMAGE, *four]), "computed at run time")


# --- max-pool ---


def pool(x: Any) -> Any:
    return relax.op.nn.max_pool2d(x, pool_size=(2, 2), strides=(2, 2), layout="NHWC")


def test_pool_with_another_reader() -> None:
    def both(x: Any) -> Any:
        builder = relax.BlockBuilder.current()
        pooled = builder.emit(pool(x))
        return relax.op.add(pooled, builder.emit(binarize.call(pooled)))

    assert_refused(SignBeforeMaxPool(), build(both, [IMAGE]), "another reader")


def test_negative_slope_between_pool_and_sign() -> None:
    w, slope = RNG.integers(0, 256, (3, 1, 1), np.uint8), np.array([0.5, -0.5, 0.1], np.float32)
    module = build(
        chained(
            lambda x: binary_conv2d.call(x, w, (1, 1)),
            pool,
            lambda x: relax.op.nn.prelu(x, relax.const(slope), axis=3),
            binarize.call,
        ),
        [IMAGE],
    )
    assert_refused(SignBeforeMaxPool(), module, "a negative slope")


# --- lowering ---


def test_convolution_of_unknown_values() -> None:
    w = RNG.integers(0, 256, (3, 1, 1), np.uint8)
    module = build(lambda x: binary_conv2d.call(x, w, (1, 1)), [IMAGE])
    assert_refused(LowerToXnor(word_bytes=8), module, "does not come from a Binarize")


def test_convolution_with_run_time_weights() -> None:
    def call(x: Any, w: Any) -> Any:
        signs = relax.BlockBuilder.current().emit(binarize.call(x))
        return binary_conv2d.call(signs, w, (1, 1))

    module = build(call, [IMAGE, np.zeros((3, 1, 1), np.uint8)])
    assert_refused(LowerToXnor(word_bytes=8), module, "weights are computed at run time")


# --- thresholds ---


def accumulator(b: Any) -> Any:
    """int32 [1, 2, 2, 4] of 16 channels, values -16 to 16 in steps of 2."""
    w = np.random.default_rng(1).integers(0, 256, (4, 1, 2), np.uint8)
    offset, zeros = np.full((1, 1, 4), 16), np.zeros(2)
    return xnor_conv2d.call(b, w, offset, zeros, zeros, 2, (1, 1))


BITS = RNG.integers(0, 256, (1, 2, 2, 2), np.uint8)


def as_float(x: Any) -> Any:
    return relax.op.astype(x, "float32")


def row(*values: float) -> Any:
    return relax.const(np.array(values, np.float32).reshape(1, 1, 1, -1))


def test_expression_that_rises_and_falls() -> None:
    module = build(
        chained(
            accumulator,
            as_float,
            lambda x: relax.op.nn.prelu(x, relax.const(np.full(4, -1, np.float32)), axis=3),
            lambda x: relax.op.subtract(row(7, 7, 7, 7), x),
            lambda x: relax.op.multiply(x, row(-1, -1, -1, -1)),
            pack.call,
        ),
        [BITS],
    )
    assert_refused(FoldThresholds(), module, "changes more than once")


def test_hump_whose_ones_are_an_interval_is_folded() -> None:
    module = build(
        chained(
            accumulator,
            as_float,
            lambda x: relax.op.nn.prelu(x, relax.const(np.full(4, -1, np.float32)), axis=3),
            lambda x: relax.op.subtract(row(7, 8, 9, -1), x),
            pack.call,
        ),
        [BITS],
    )
    folded = transform(module, FoldThresholds())
    assert "threshold" in folded.script()
    assert (evaluate(folded, BITS)[0] == evaluate(module, BITS)[0]).all()


def test_floats_with_another_reader() -> None:
    def both(b: Any) -> Any:
        builder = relax.BlockBuilder.current()
        floats = builder.emit(as_float(builder.emit(accumulator(b))))
        bits = builder.emit(pack.call(floats))
        return relax.Tuple([floats, bits])

    assert_refused(FoldThresholds(), build(both, [BITS]), "another reader")


def test_residual_before_the_sign_is_left() -> None:
    def call(b: Any, residual: Any) -> Any:
        builder = relax.BlockBuilder.current()
        floats = builder.emit(as_float(builder.emit(accumulator(b))))
        return pack.call(builder.emit(relax.op.add(floats, residual)))

    module = build(call, [BITS, np.zeros((1, 2, 2, 4), np.float32)])
    assert "threshold" not in transform(module, FoldThresholds()).script()


@pytest.mark.parametrize("scale", [1.0, -1.0, 0.1, -0.1, 0.0, 1e-30, 3e38])
@pytest.mark.parametrize("bias", [0.0, -0.0, 4.0, -4.0, 0.4, 1e-30])
def test_ties_are_exact(scale: float, bias: float) -> None:
    """Every accumulator, with values that read exactly 0: the interval is the source's own expression."""
    values = np.arange(-16, 17, 2)
    with np.errstate(over="ignore"):
        ones = np.float32(scale) * values.astype(np.float32) + np.float32(bias) >= 0
    module = build(
        chained(
            accumulator,
            as_float,
            lambda x: relax.op.multiply(x, row(*[scale] * 4)),
            lambda x: relax.op.add(x, row(*[bias] * 4)),
            pack.call,
        ),
        [BITS],
    )
    folded = transform(module, FoldThresholds())
    call = next(b.value for b in folded["main"].body.blocks[0].bindings if "threshold" in str(b.value))
    lo, hi = (int(call.args[i].value.numpy()[0]) for i in (1, 2))
    assert (((lo <= values) & (values <= hi)) == ones).all()


# --- groups ---


def names(module: tvm.IRModule) -> list[str]:
    return sorted(g.name_hint for g, f in module.functions.items() if "Primitive" in attributes(f))


def test_unknown_operators_stay_outside() -> None:
    module = build(chained(relax.op.nn.relu, relax.op.nn.softmax, relax.op.nn.relu), [IMAGE])
    fused = transform(module, FuseEpilogue(lanes=8))
    assert names(fused) == ["fused_relu"]
    assert "R.nn.softmax" in fused["main"].script()


def test_operand_that_broadcasts_over_pixels() -> None:
    def gate(x: Any, g: Any) -> Any:
        return relax.op.multiply(x, g)

    module = build(gate, [IMAGE, np.zeros((1, 1, 1, 8), np.float32)])
    assert_refused(FuseEpilogue(lanes=8), module, "broadcasts over pixels")


@pytest.mark.parametrize("shape", [(4,), (1, 4, 4), (1, 2, 3, 4, 5)])
def test_tensor_of_a_rank_without_kernels(shape: tuple[int, ...]) -> None:
    module = build(relax.op.nn.relu, [np.zeros(shape, np.float32)])
    assert_refused(FuseEpilogue(lanes=8), module, f"on a tensor of {len(shape)} dimensions")


def test_slopes_along_another_axis_than_the_last() -> None:
    """As many rows as channels: the slopes fit both."""
    slope = relax.const(np.linspace(-1, 1, 4).astype(np.float32))
    module = build(lambda x: relax.op.nn.prelu(x, slope, axis=1), [np.zeros((1, 4, 4, 4), np.float32)])
    assert_refused(FuseEpilogue(lanes=8), module, "not one value per channel")


def test_sum_of_two_branches_belongs_to_the_later() -> None:
    def branches(x: Any) -> Any:
        builder = relax.BlockBuilder.current()
        first = builder.emit(pool(x))
        second = builder.emit(relax.op.nn.avg_pool2d(x, pool_size=(2, 2), strides=(2, 2), layout="NHWC"))
        return relax.op.add(first, second)

    fused = transform(build(branches, [IMAGE]), FuseEpilogue(lanes=8))
    assert names(fused) == ["fused_avg_pool2d_add", "fused_max_pool2d"]


def test_operand_that_needs_the_group_is_not_taken_in() -> None:
    """relu(pool) + softmax(relu(pool)): the sum cannot run with the pool, whose result the softmax waits for."""

    def loop(x: Any) -> Any:
        builder = relax.BlockBuilder.current()
        pooled = builder.emit(relax.op.nn.relu(builder.emit(pool(x))))
        other = builder.emit(relax.op.nn.softmax(pooled))
        return relax.op.add(pooled, other)

    module = build(loop, [IMAGE])
    fused = transform(module, FuseEpilogue(lanes=8))
    assert names(fused) == ["fused_add", "fused_max_pool2d_relu"]
    x = RNG.standard_normal(IMAGE.shape).astype(np.float32)
    assert (evaluate(fused, x)[0] == evaluate(module, x)[0]).all()


def test_bits_read_with_and_without_border() -> None:
    def call(x: Any) -> Any:
        builder = relax.BlockBuilder.current()
        bits = builder.emit(pack.call(x))
        return relax.Tuple([bits, builder.emit(pad_bits.call(bits, (1, 1, 1, 1), 0, 8))])

    assert names(transform(build(call, [IMAGE]), FuseEpilogue(lanes=8))) == ["fused_pack", "fused_pad_bits"]


def test_equal_layers_share_one_function() -> None:
    steps = [step for s in (1.0, 2.0, 3.0) for step in (pool_same, lambda x, s=s: relax.op.multiply(x, row(*[s] * 8)))]
    fused = transform(build(chained(*steps), [IMAGE]), FuseEpilogue(lanes=8))
    assert names(fused) == ["fused_max_pool2d_multiply"]


def pool_same(x: Any) -> Any:
    return relax.op.nn.max_pool2d(x, pool_size=(3, 3), padding=(1, 1, 1, 1), layout="NHWC")
