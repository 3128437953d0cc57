"""Relax to Relax: one file a pass, and the list of them in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tvm import relax

from bnncc.ops.relax import register
from bnncc.options import KEEP, FloatConvs, Keep, Quantize, Watch
from bnncc.passes.contract import FromTVM, Outcome, Pass
from bnncc.passes.dense_as_conv import DenseAsConv
from bnncc.passes.drop_repeated_sign import DropRepeatedSign
from bnncc.passes.drop_scale_before_sign import DropScaleBeforeSign
from bnncc.passes.fold_batch_norm import FoldBatchNorm
from bnncc.passes.fold_thresholds import FoldThresholds
from bnncc.passes.fuse_epilogue import FuseEpilogue
from bnncc.passes.legalize_rest import LegalizeRest
from bnncc.passes.lower_to_xnor import LowerToXnor
from bnncc.passes.quantize_convs import QuantizeConvs
from bnncc.passes.sign_before_max_pool import SignBeforeMaxPool
from bnncc.passes.to_nhwc import ToNHWC
from bnncc.passes.watch_convs import WatchConvs
from bnncc.targets.target import Target

__all__ = ["Outcome", "Pass", "Phase", "Step", "pipeline", "steps"]


class Phase(NamedTuple):
    """Passes with one aim."""

    name: str
    passes: tuple[Pass, ...]


class Step(NamedTuple):
    """One pass of the pipeline, and the name of its phase."""

    phase: str
    run: Pass


def pipeline(target: Target, float_convs: FloatConvs = KEEP) -> tuple[Phase, ...]:
    """The passes for a target, in the order in which they run."""
    register()
    return (
        Phase(
            "simplify",
            (
                FoldBatchNorm(),
                # Weights that a file computes (a scale times a weight) become constants before anything asks for them.
                FromTVM(relax.transform.FoldConstant()),
                FromTVM(relax.transform.DeadCodeElimination()),
            ),
        ),
        # Before the passes on signs: afterwards signs and convolutions are neighbours, without permutations between.
        Phase("layout", (ToNHWC(), DenseAsConv())),
        Phase(
            "signs",
            (
                DropRepeatedSign(),
                SignBeforeMaxPool(),
                # After SignBeforeMaxPool, which may bring scales next to a sign.
                DropScaleBeforeSign(),
            ),
        ),
        Phase(
            "bits",
            (
                LowerToXnor(word_bytes=target.word_bytes),
                # After LowerToXnor: it needs the values that an accumulator can take.
                FoldThresholds(),
            ),
        ),
        # After all passes that look for neighbours of float convolutions.
        Phase("floats", _on_float_convs(float_convs, target)),
        # The same permutation or copy written twice is computed once; after everything that may write it twice.
        Phase(
            "tidy",
            (
                FromTVM(relax.transform.EliminateCommonSubexpr()),
                FromTVM(relax.transform.CanonicalizeBindings()),
                FromTVM(relax.transform.DeadCodeElimination()),
            ),
        ),
        Phase(
            "fuse",
            (
                FuseEpilogue(lanes=target.popcount_lanes),
                # What is left has no kernel of ours.
                LegalizeRest(),
            ),
        ),
    )


def steps(phases: tuple[Phase, ...]) -> Iterator[Step]:
    """Every pass of the pipeline, in order."""
    for phase in phases:
        for each in phase.passes:
            yield Step(phase.name, each)


def _on_float_convs(choice: FloatConvs, target: Target) -> tuple[Pass, ...]:
    match choice:
        case Keep():
            return ()
        case Watch():
            return (WatchConvs(),)
        case Quantize(ranges):
            return (QuantizeConvs(ranges, dtype=target.int8_inputs),)
