"""Other people's files, rewritten to our operators as ONNX, before import."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import onnx


class Record(NamedTuple):
    """What one dialect did: how many nodes it rewrote, and what it left alone and why."""

    name: str
    rewrites: int
    left: tuple[str, ...]


def apply(model: onnx.ModelProto) -> tuple[Record, ...]:
    """Rewrite the model in place."""
    return ()
