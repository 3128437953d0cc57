"""Makes the operators known to TVM and to TVMScript.

Each file of this package that has a Relax part defines, under the same names: `RELAX` (the operator's name), `infer`
(its type), `call` (builds a call) and `lower` (te.compute that TVM runs without our kernels: slow and exact, the
witness of every pass and kernel). Importing those files does not import TVM; `register` does.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol

from bnncc.ops import (
    binarize,
    binary_conv2d,
    channel_interaction,
    check_indices,
    conv2d_int8,
    or_pool2d,
    pack,
    pad_bits,
    prelu,
    quantize,
    threshold,
    xnor_conv2d,
)
from bnncc.runtime.errors import ModelError

if TYPE_CHECKING:
    from tvm import relax


class Operator(Protocol):
    """What a file of an operator defines."""

    RELAX: str

    @property
    def call(self) -> Callable[..., relax.Call]:
        """Builds a call."""

    def infer(self, call: relax.Call, context: relax.BlockBuilder) -> relax.TensorType:
        """The type of a call."""

    def lower(self, builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        """The call as te.compute."""


_ABOVE_TVM = 11  # what TVM registers itself has level 10
OPS: tuple[Operator, ...] = (
    binarize,
    binary_conv2d,
    channel_interaction,
    pack,
    pad_bits,
    xnor_conv2d,
    threshold,
    or_pool2d,
    quantize,
    conv2d_int8,
    check_indices,
)


def register() -> None:
    """Register every operator with TVM, make `R.bnncc.<name>` parse, and give PReLU the source model's meaning.
    Calling it again does nothing."""
    import tvm
    import tvm.relax.script.parser
    import tvm.script
    import tvm_ffi

    # An error of ours that is raised inside a pass comes out of TVM as what it was.
    tvm_ffi.register_error(ModelError)
    known = set(tvm.ir.Op.list_op_names())
    if OPS[0].RELAX not in known:
        for name, lower in (("relax.nn.prelu", prelu.lower_prelu), ("relax.nn.leakyrelu", prelu.lower_leakyrelu)):
            tvm.ir.register_op_attr(name, "FLegalize", lower, level=_ABOVE_TVM)
    for op in OPS:
        if op.RELAX in known:
            continue
        tvm.ir._ffi_api.RegisterOp(op.RELAX, op.__doc__)
        tvm.ir.register_op_attr(op.RELAX, "FInferType", op.infer)
        tvm.ir.register_op_attr(op.RELAX, "FPurity", True)
        tvm.ir.register_op_attr(op.RELAX, "FLegalize", op.lower)
    calls = SimpleNamespace(**{op.RELAX.rpartition(".")[2]: op.call for op in OPS})
    tvm.script.relax.bnncc = calls
    tvm.relax.script.parser.bnncc = calls
