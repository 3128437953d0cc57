"""Standard operators that compute element by element, and matrix products with weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from bnncc.frontend.node import Node
from bnncc.ops import spans
from bnncc.runtime.errors import ModelError


def gemm(node: Node) -> relax.Expr:
    a, w, kind = node.x, node.inputs[1], node.dtype(0)
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    if kind not in ("float32", "float64"):
        raise ModelError(f"input is {kind}; it must be float32 or float64")
    if node.integer("transA", 0):
        a = node.emit(relax.op.permute_dims(a, [1, 0]))
    if isinstance(w, GenericConst):
        value = node.array(1, "weight")
        w = relax.const(np.ascontiguousarray(value.T if node.integer("transB", 0) else value), kind)
    elif node.integer("transB", 0):
        w = node.emit(relax.op.permute_dims(w, [1, 0]))
    y = node.emit(spans.marked(relax.op.matmul(a, w), node.span))
    if alpha != 1.0:
        y = node.emit(relax.op.multiply(y, relax.const(alpha, kind)))
    if not node.given(2) or beta == 0.0:
        return y
    bias = node.inputs[2]
    if isinstance(bias, GenericConst):
        bias = relax.const(np.multiply(node.array(2, "bias"), beta, dtype=kind), kind)
    elif beta != 1.0:
        bias = node.emit(relax.op.multiply(bias, relax.const(beta, kind)))
    return relax.op.add(y, bias)


def relu(node: Node) -> relax.Expr:
    return relax.op.nn.relu(node.x)


def leaky_relu(node: Node) -> relax.Expr:
    return relax.op.nn.leakyrelu(node.x, node.real("alpha", 0.01))


def clip(node: Node) -> relax.Expr:
    """Bounds are attributes before opset 11 and inputs since; one that is not given is the type's, so that an infinity
    becomes the largest finite number. A NaN stays one."""
    result, kind = node.x, np.dtype(node.dtype(0))
    for index, name, op in ((1, "min", relax.op.maximum), (2, "max", relax.op.minimum)):
        if node.opset >= 11 and node.given(index):
            bound = node.constant(index, name).reshape(())
        elif node.opset < 11 and name in node.attributes:
            bound = np.asarray(node.real(name, 0.0), dtype=kind)
        elif kind.kind == "f":
            bound = np.asarray(np.finfo(kind).min if name == "min" else np.finfo(kind).max)
        else:
            continue
        if np.isnan(bound.astype(np.float64)):
            raise ModelError(f"{name} is NaN; it must be a number")
        if np.isinf(bound.astype(np.float64)) and (bound.astype(np.float64) < 0) == (name == "min"):
            continue  # no bound at all
        result = node.emit(op(result, relax.const(np.asarray(bound, dtype=kind), str(kind))))
    return result


def hard_sigmoid(node: Node) -> relax.Expr:
    """max(0, min(1, alpha * x + beta))."""
    return _hard_sigmoid(node, node.real("alpha", 0.2), node.real("beta", 0.5))


def hard_swish(node: Node) -> relax.Expr:
    """x * HardSigmoid(x) with alpha = 1/6 and beta = 1/2."""
    return relax.op.multiply(node.x, node.emit(_hard_sigmoid(node, 1 / 6, 0.5)))


def _hard_sigmoid(node: Node, alpha: float, beta: float) -> relax.Expr:
    kind = node.dtype(0)
    line = node.emit(relax.op.multiply(node.x, relax.const(alpha, kind)))
    line = node.emit(relax.op.add(line, relax.const(beta, kind)))
    return relax.op.maximum(node.emit(relax.op.minimum(line, relax.const(1.0, kind))), relax.const(0.0, kind))


def maximum(node: Node) -> relax.Expr:
    return _pairwise(node, relax.op.maximum)


def minimum(node: Node) -> relax.Expr:
    return _pairwise(node, relax.op.minimum)


def total(node: Node) -> relax.Expr:
    return _pairwise(node, relax.op.add)


def _pairwise(node: Node, op: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> relax.Expr:
    result = node.x
    for other in node.inputs[1:]:
        result = node.emit(op(result, other))
    return result


def sign(node: Node) -> relax.Expr:
    """ONNX's: Sign(0) = 0, Sign(NaN) = NaN."""
    if np.dtype(node.dtype(0)).kind != "f":
        return relax.op.sign(node.x)
    found = node.emit(relax.op.sign(node.x))
    return relax.op.where(node.emit(relax.op.equal(node.x, node.x)), found, node.x)


def cast(node: Node) -> relax.Expr:
    """Between numbers and truth values. Real numbers that an integer type cannot hold are the caller's affair, as in
    C and in ONNX."""
    target = node.kinds[0].dtype if node.kinds and node.kinds[0] is not None else ""
    source = node.dtype(0)
    if target == source:
        return node.x
    if target == "bool":
        return relax.op.not_equal(node.x, relax.const(0, source))
    if np.dtype(source).kind == "f" and target in ("uint8", "uint16", "uint32", "uint64", "int8", "int16"):
        # Through 64 bits, so that what does not fit wraps around instead of being undefined.
        return relax.op.astype(node.emit(relax.op.astype(node.x, "int64")), target)
    return relax.op.astype(node.x, target)


def mean(node: Node) -> relax.Expr:
    """Of the inputs, element by element."""
    return relax.op.divide(node.emit(total(node)), relax.const(float(len(node.inputs)), node.dtype(0)))


def mod(node: Node) -> relax.Expr:
    """With fmod = 0 the result has the divisor's sign, integers only; with 1 the dividend's."""
    kind = np.dtype(node.dtype(0)).kind
    if node.integer("fmod", 0):
        return relax.op.mod(node.x, node.inputs[1])
    if kind == "f":
        raise ModelError("fmod is 0 for real numbers; ONNX allows that for integers only")
    return relax.op.floor_mod(node.x, node.inputs[1])


def power(node: Node) -> relax.Expr:
    """The exponent in the base's type; whole numbers have no kernel."""
    base = node.dtype(0)
    if np.dtype(base).kind != "f":
        raise ModelError(f"base is {base}; it must be float32 or float64")
    exponent = node.inputs[1]
    if node.dtype(1) != base:
        exponent = node.emit(relax.op.astype(exponent, base))
    return relax.op.power(node.x, exponent)
