"""Other people's files, rewritten to our operators before import: ONNX to ONNX, one file a dialect.

The rewritten model is a valid ONNX model with the bodies of our operators in it, so that it can be looked at, and run
in onnxruntime beside the original. A dialect changes no value but where its docstring says so. What it recognises in
part and leaves alone it says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


@dataclass
class Record:
    """What one dialect did: how many layers it rewrote, and which nodes it left alone (by name) and why."""

    name: str
    rewrites: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def apply(model: onnx.ModelProto) -> tuple[Record, ...]:
    """Rewrite a checked model in place, dialect by dialect."""
    from bnncc.frontend.dialects import standard_sign
    from bnncc.ops import ONNX_DOMAIN, ONNX_VERSION
    from bnncc.ops.onnx import functions

    # In this order: a dialect may leave what a later one reads.
    dialects: tuple[Callable[[onnx.ModelProto], Record], ...] = (standard_sign.rewrite,)
    records = tuple(rewrite(model) for rewrite in dialects)
    if any(record.rewrites for record in records):
        if not any(entry.domain == ONNX_DOMAIN for entry in model.opset_import):
            model.opset_import.add(domain=ONNX_DOMAIN, version=ONNX_VERSION)
        known = {(function.domain, function.name) for function in model.functions}
        model.functions.extend(body for body in functions() if (body.domain, body.name) not in known)
    return records
