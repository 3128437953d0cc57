"""The sign of a sign is that sign.

binarize(binarize(x)) = binarize(x) for signs; for {0, 1} when the outer threshold lies in [0, 1).

Before::

    @R.function
    def main(x: R.Tensor((1, 4, 4, 8), "float32")):
        with R.dataflow():
            y = R.bnncc.binarize(x, 0, 0.0)
            z = R.bnncc.binarize(y, 0, 0.0)
            w = R.nn.relu(z)
            R.output(w)
        return w

After::

    @R.function
    def main(x: R.Tensor((1, 4, 4, 8), "float32")):
        with R.dataflow():
            y = R.bnncc.binarize(x, 0, 0.0)
            w = R.nn.relu(y)
            R.output(w)
        return w

Leaves alone: a sign of {0, 1} values or {0, 1} of signs: those are other values.
"""

from __future__ import annotations

from typing import Any

from tvm import relax

from bnncc.ops import binarize, spans
from bnncc.passes import dataflow


@relax.transform.function_pass(opt_level=0, name="bnncc.DropRepeatedSign")
class DropRepeatedSign(dataflow.LocalPass):
    def _visit(self, block: dataflow.Block, value: Any) -> Any:
        inner = block.call(value.args[0], "bnncc.binarize") if dataflow.is_call(value, "bnncc.binarize") else None
        if inner is None:
            return None
        outer_numbers, inner_numbers = binarize.parameters(value), binarize.parameters(inner)
        same_values = outer_numbers.unipolar == inner_numbers.unipolar
        if not same_values or (outer_numbers.unipolar and not 0 <= outer_numbers.threshold < 1):
            self.skipped.append(f"{spans.name_of(value)}: binarises binary values to other values")
            return None
        self.rewrites += 1
        return value.args[0]
