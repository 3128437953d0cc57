"""Relax to Relax: one file a pass, and the list of them in order."""

from __future__ import annotations

from typing import Any

from tvm import relax

from bnncc.ops.relax import register
from bnncc.options import KEEP, FloatConvs, Keep, Quantize, Watch
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


def pipeline(target: Target, float_convs: FloatConvs = KEEP) -> tuple[Any, ...]:
    """The passes for a target, fresh objects for one compilation, in the order in which they run.

    Ours count what they did in `rewrites` and say what they left and why in `skipped`; TVM's have neither.
    """
    register()
    return (
        FoldBatchNorm(),
        # Weights that a file computes (a scale times a weight) become constants before anything asks for constants.
        relax.transform.FoldConstant(),
        relax.transform.DeadCodeElimination(),
        # Before the passes on signs: afterwards signs and convolutions are neighbours, without permutations between.
        ToNHWC(),
        DenseAsConv(),
        DropRepeatedSign(),
        SignBeforeMaxPool(),
        # After SignBeforeMaxPool, which may bring scales next to a sign.
        DropScaleBeforeSign(),
        LowerToXnor(word_bytes=target.word_bytes),
        # After LowerToXnor: it needs the values that an accumulator can take.
        FoldThresholds(),
        # After all passes that look for neighbours of float convolutions.
        *_on_float_convs(float_convs, target),
        # The same permutation or copy written twice is computed once; last, so that it sees everything.
        relax.transform.EliminateCommonSubexpr(),
        relax.transform.CanonicalizeBindings(),
        relax.transform.DeadCodeElimination(),
        FuseEpilogue(),
        # What is left has no kernel of ours.
        LegalizeRest(),
    )


def _on_float_convs(choice: FloatConvs, target: Target) -> tuple[Any, ...]:
    match choice:
        case Keep():
            return ()
        case Watch():
            return (WatchConvs(),)
        case Quantize(ranges):
            return (QuantizeConvs(ranges, dtype=target.int8_inputs),)
