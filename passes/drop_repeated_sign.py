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

Refuses: a sign of {0, 1} values or {0, 1} of signs: those are other values.
"""

from __future__ import annotations

from tvm import relax

from bnncc.ops import spans
from bnncc.ops.binarize import Binarize
from bnncc.passes import dataflow


class DropRepeatedSign(dataflow.LocalPass):
    name = "bnncc.DropRepeatedSign"

    def visit(self, block: dataflow.Block, value: relax.Expr) -> relax.Expr | None:
        outer = Binarize.match(value)
        inner = Binarize.match(block.value(outer.x)) if outer else None
        if outer is None or inner is None:
            return None
        if outer.unipolar != inner.unipolar or (outer.unipolar and not 0 <= outer.threshold < 1):
            block.refused.append(f"{spans.name_of(value)}: binarises binary values to other values")
            return None
        block.rewrites += 1
        return outer.x
