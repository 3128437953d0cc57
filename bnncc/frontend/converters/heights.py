"""Sequences [N, C, L] as images of height 1, which is what passes and kernels know."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

from bnncc.frontend.node import shape_of


def with_height(x: relax.Expr, emit: Callable[[relax.Expr], relax.Expr]) -> relax.Expr:
    """[N, C, L] -> [N, C, 1, L]."""
    n, channels, length = shape_of(x)
    return emit(relax.op.reshape(x, (n, channels, 1, length)))


def without_height(x: relax.Expr, emit: Callable[[relax.Expr], relax.Expr]) -> relax.Expr:
    """[N, C, 1, L] -> [N, C, L]."""
    n, channels, _, length = shape_of(x)
    return emit(relax.op.reshape(x, (n, channels, length)))
