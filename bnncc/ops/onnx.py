"""The operators that ONNX files hold: which there are, and their bodies in standard operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bnncc.ops import binarize, binary_conv, binary_gemm, channel_interaction, circulant_expand

if TYPE_CHECKING:
    import onnx


class Operator(Protocol):
    """What a file of such an operator defines."""

    NAME: str

    def function(self) -> onnx.FunctionProto:
        """The body."""

    def schema(self) -> onnx.defs.OpSchema:
        """The signature."""


OPERATORS: tuple[Operator, ...] = (binarize, binary_conv, binary_gemm, channel_interaction, circulant_expand)

# Those that read packed weights as their second input, and signs or bits as their first.
LAYERS = frozenset({binary_conv.NAME, binary_gemm.NAME})


def functions() -> list[onnx.FunctionProto]:
    """Every body."""
    return [operator.function() for operator in OPERATORS]
