"""Where a call comes from: the name of its ONNX node, kept as the source name of the call's span."""

from __future__ import annotations

from typing import Any


def named(name: str) -> Any:
    """A span that carries a name and no position."""
    import tvm

    return tvm.ir.Span(tvm.ir.SourceName(name), 0, 0, 0, 0)


def marked(call: Any, span: Any) -> Any:
    """The same call with that span."""
    from tvm import relax

    return relax.Call(call.op, call.args, call.attrs, call.ty_args, span)


def name_of(expression: Any) -> str:
    """The name that `expression` carries, "" for none."""
    span = getattr(expression, "span", None)
    return str(span.source_name.name) if span is not None else ""
