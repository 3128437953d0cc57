"""What holds for every pass: its docstring, a second run changes nothing, and the values stay what they were."""

from typing import Any

import numpy as np
import pytest
import tvm

from bnncc.options import InputRange, Quantize
from bnncc.passes import (
    dense_as_conv,
    drop_repeated_sign,
    drop_scale_before_sign,
    fold_batch_norm,
    fold_thresholds,
    fuse_epilogue,
    legalize_rest,
    lower_to_xnor,
    pipeline,
    quantize_convs,
    sign_before_max_pool,
    to_nhwc,
)
from bnncc.targets import find
from tests.irtest import docstring_example, evaluate, parse, random_inputs

EVERY = {"fewest_macs": 1, "fewest_macs_per_input": 1}
CALIBRATED = {0: InputRange(-128, 127)}
PASSES: list[tuple[Any, Any]] = [
    (fold_batch_norm, fold_batch_norm.FoldBatchNorm),
    (to_nhwc, to_nhwc.ToNHWC),
    (dense_as_conv, dense_as_conv.DenseAsConv),
    (drop_repeated_sign, drop_repeated_sign.DropRepeatedSign),
    (sign_before_max_pool, sign_before_max_pool.SignBeforeMaxPool),
    (drop_scale_before_sign, drop_scale_before_sign.DropScaleBeforeSign),
    (lower_to_xnor, lambda: lower_to_xnor.LowerToXnor(word_bytes=1)),
    (fold_thresholds, fold_thresholds.FoldThresholds),
    (quantize_convs, lambda: quantize_convs.QuantizeConvs(CALIBRATED, dtype="uint8", **EVERY)),
    (fuse_epilogue, fuse_epilogue.FuseEpilogue),
    (legalize_rest, legalize_rest.LegalizeRest),
]
every_pass = pytest.mark.parametrize(("module", "make"), PASSES, ids=[m.__name__.rpartition(".")[2] for m, _ in PASSES])


@every_pass
def test_before_becomes_after(module: Any, make: Any) -> None:
    before, after = docstring_example(module)
    found = make()(before)
    tvm.ir.assert_structural_equal(found, after, map_free_vars=True)


@every_pass
def test_counts_and_second_run_changes_nothing(module: Any, make: Any) -> None:
    before, _ = docstring_example(module)
    first, second = make(), make()
    once = first(before)
    assert first.rewrites > 0
    tvm.ir.assert_structural_equal(second(once), once, map_free_vars=True)


@every_pass
def test_values_stay(module: Any, make: Any) -> None:
    before, after = docstring_example(module)
    rng = np.random.default_rng(0)
    for _ in range(3):
        inputs = random_inputs(before, rng)
        for want, got in zip(evaluate(before, *inputs), evaluate(after, *inputs), strict=True):
            np.testing.assert_array_equal(got, want)


@every_pass
def test_symbolic_batch_is_left_alone(module: Any, make: Any) -> None:
    """The importer fixes every shape; a module that comes another way is not torn."""
    text = """
        @R.function
        def main(x: R.Tensor(("n", 3, 8, 8), "float32")):
            n = T.int64()
            with R.dataflow():
                y = R.nn.max_pool2d(x, pool_size=[2, 2], strides=[2, 2], padding=[0, 0, 0, 0], layout="NCHW")
                z = R.multiply(y, R.const(2.0, "float32"))
                w = R.bnncc.binarize(z, 0, 0.0)
                v = R.bnncc.binarize(w, 0, 0.0)
                R.output(v)
            return v
    """
    symbolic = parse(text)
    tvm.ir.assert_structural_equal(make()(symbolic), symbolic, map_free_vars=True)


def test_every_pass_of_the_pipeline_is_here() -> None:
    steps = pipeline(find("x86"), Quantize({}))
    ours = [p.info.name for p in steps if p.info.name.startswith("bnncc.")]
    assert ours == [make().info.name for _, make in PASSES]
