"""What holds for every pass of ours in the pipeline: its docstring, a second run changes nothing, and the values stay
what they were. After each the module is well formed for TVM."""

import sys
from types import ModuleType

import numpy as np
import pytest
import tvm

from bnncc.options import InputRange, Quantize, Watch
from bnncc.passes import Pass
from bnncc.passes.contract import FromTVM
from bnncc.passes.lower_to_xnor import LowerToXnor
from bnncc.passes.quantize_convs import QuantizeConvs
from bnncc.passes.watch_convs import WatchConvs
from tests.irtest import docstring_example, evaluate, parse, random_inputs, run, whole

# What a docstring's example was made with, where that is not what the pipeline gives the pass.
EXAMPLES: dict[type, Pass] = {
    LowerToXnor: LowerToXnor(word_bytes=1),
    QuantizeConvs: QuantizeConvs({0: InputRange(-128, 127)}, dtype="uint8", fewest_macs=1, fewest_macs_per_input=1),
}
PASSES = [
    EXAMPLES.get(type(each), each)
    for float_convs in (Quantize({}), Watch())
    for each in whole("x86", float_convs)
    if not isinstance(each, FromTVM) and (isinstance(each, WatchConvs) or float_convs == Quantize({}))
]
every_pass = pytest.mark.parametrize("each", PASSES, ids=[each.name for each in PASSES])


def module_of(each: Pass) -> ModuleType:
    return sys.modules[type(each).__module__]


@every_pass
def test_before_becomes_after(each: Pass) -> None:
    before, after = docstring_example(module_of(each))
    (outcome,) = run(before, each)
    tvm.ir.assert_structural_equal(outcome.module, after, map_free_vars=True)


@every_pass
def test_counts_and_second_run_changes_nothing(each: Pass) -> None:
    before, _ = docstring_example(module_of(each))
    untouched = before.script()
    (once,) = run(before, each)
    assert once.rewrites > 0
    assert before.script() == untouched
    if not isinstance(each, WatchConvs):  # which watches again
        (twice,) = run(once.module, each)
        tvm.ir.assert_structural_equal(twice.module, once.module, map_free_vars=True)


@every_pass
def test_values_stay(each: Pass) -> None:
    before, after = docstring_example(module_of(each))
    rng = np.random.default_rng(0)
    for _ in range(3):
        inputs = random_inputs(before, rng)
        # An output that a pass adds comes after the network's own.
        want, got = evaluate(before, *inputs), evaluate(after, *inputs)
        for one, other in zip(want, got, strict=not isinstance(each, WatchConvs)):
            np.testing.assert_array_equal(other, one)


@every_pass
def test_symbolic_batch_is_refused(each: Pass) -> None:
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
    (outcome,) = run(symbolic, each)
    tvm.ir.assert_structural_equal(outcome.module, symbolic, map_free_vars=True)
