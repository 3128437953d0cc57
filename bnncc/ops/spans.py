"""Where a call comes from: the name of its ONNX node, kept as the source name of the call's span."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bnncc.runtime.errors import printable

if TYPE_CHECKING:
    import tvm
    from tvm import relax


def named(name: str) -> tvm.ir.Span:
    """A span that carries a name, to be shown to people, and no position."""
    import tvm

    return tvm.ir.Span(tvm.ir.SourceName(printable(name)), 0, 0, 0, 0)


def marked(call: relax.Call, span: tvm.ir.Span | None) -> relax.Call:
    """The same call with that span."""
    from tvm import relax

    return relax.Call(call.op, call.args, call.attrs, call.ty_args, span)


def name_of(expression: relax.Expr) -> str:
    """The name that `expression` carries, "" for none."""
    span = getattr(expression, "span", None)
    return str(span.source_name.name) if span is not None else ""
