"""Drop a positive scale, or a zero bias, that feeds a sign.

sign(s * x) = sign(x) for s > 0, unless s * x underflows: a negative x with s * x = -0 would count as +1. So s must be
at least 1, or x an exact integer (a binary convolution), for which |s * x| >= s. sign(x + 0) = sign(x).

Before::

    @R.function
    def main(x: R.Tensor((1, 64), "float32")):
        with R.dataflow():
            y = R.multiply(x, R.const(2.0, "float32"))
            z = R.add(y, R.const(0.0, "float32"))
            w = R.bnncc.binarize(z, 0, 0.0)
            R.output(w)
        return w

After::

    @R.function
    def main(x: R.Tensor((1, 64), "float32")):
        with R.dataflow():
            w = R.bnncc.binarize(x, 0, 0.0)
            R.output(w)
        return w

Leaves alone: scales that are zero or negative (a sign flips), scales below 1 on real numbers, {0, 1} with a threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from bnncc.ops import arguments, binarize, spans
from bnncc.passes import dataflow

# Exact integers, and sums of them, whatever moves them.
INTEGER = frozenset({"bnncc.binary_conv2d", "bnncc.binarize"})
MOVING = frozenset({"nn.max_pool2d", "permute_dims", "reshape", "nn.relu"})


@relax.transform.function_pass(opt_level=0, name="bnncc.DropScaleBeforeSign")
class DropScaleBeforeSign(dataflow.LocalPass):
    def _visit(self, block: dataflow.Block, value: Any) -> Any:
        if not dataflow.is_call(value, "bnncc.binarize"):
            return None
        if binarize.parameters(value) != (False, 0.0) and binarize.parameters(value) != (True, 0.0):
            return None
        source, dropped = value.args[0], 0
        while (x := self._without_scale(block, source, spans.name_of(value))) is not None:
            source, dropped = x, dropped + 1
        if not dropped:
            return None
        self.rewrites += dropped
        return relax.Call(value.op, [source, *value.args[1:]], value.attrs, value.ty_args, value.span)

    def _without_scale(self, block: dataflow.Block, source: Any, place: str) -> Any:
        """The x of s * x or x + 0, where the sign does not change; else None."""
        call = block.value(source)
        if not dataflow.is_call(call, "multiply", "add"):
            return None
        constants = [argument for argument in call.args if dataflow.is_constant(argument)]
        others = [argument for argument in call.args if not dataflow.is_constant(argument)]
        if len(constants) != 1 or dataflow.shape(others[0]) != dataflow.shape(call):
            return None
        values = arguments.array(constants[0])
        if dataflow.is_call(call, "add"):
            return others[0] if (values == 0).all() else None
        if not (values > 0).all():
            self.skipped.append(f"{place}: {int((~(values > 0)).sum())} scales are not positive")
        elif not np.isfinite(values).all():
            self.skipped.append(f"{place}: an infinite scale, which makes NaN of 0")
        elif (values < 1).any() and not _is_integer(block, others[0]):
            self.skipped.append(f"{place}: a scale of {values.min()} on real numbers can underflow to zero")
        else:
            return others[0]
        return None


def _is_integer(block: dataflow.Block, source: Any) -> bool:
    """Whether every value is an integer, by where it comes from."""
    call = block.value(source)
    while dataflow.name(call) in MOVING:
        call = block.value(call.args[0])
    return dataflow.name(call) in INTEGER
