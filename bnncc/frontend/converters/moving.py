"""Standard operators that move data or say what is known of it."""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import GenericConst

from bnncc.frontend.node import Node
from bnncc.frontend.onnx_file import check_extents
from bnncc.ops import check_indices, spans
from bnncc.runtime.errors import ModelError


def identity(node: Node) -> relax.Expr:
    return node.x


def dropout(node: Node) -> relax.Expr:
    """Nothing, in a network that is not being trained."""
    trains = node.constant(2, "training_mode").any() if node.given(2) else False
    if node.outputs > 1 or trains:
        raise ModelError("a dropout that drops is not supported; export the network after model.eval()")
    return node.x


def constant(node: Node) -> relax.Expr:
    import onnx
    from onnx import numpy_helper

    (name, value), *more = node.attributes.items()
    kinds = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
    if more or name not in (*kinds, "value"):
        raise ModelError(f"a constant given as {name} is not supported; give a dense tensor")
    if isinstance(value, onnx.TensorProto):
        array = numpy_helper.to_array(value)
    else:
        array = np.asarray(value, dtype=kinds[name])
    return relax.const(array, str(array.dtype))


def shape(node: Node) -> relax.Expr:
    """Every shape is known here, so it is a constant."""
    extents = node.shape(0)
    start, end = node.integer("start", 0), node.integer("end", len(extents))
    return relax.const(np.asarray(extents[start:end], dtype=np.int64), "int64")


def size(node: Node) -> relax.Expr:
    return relax.const(np.prod(node.shape(0), dtype=np.int64), "int64")


def reshape(node: Node) -> relax.Expr:
    """Reshape, Flatten, Squeeze and Unsqueeze: the same values, in the shape that ONNX works out."""
    return relax.op.reshape(node.x, node.result_shape())


def expand(node: Node) -> relax.Expr:
    given, own = node.numbers(1, "shape"), node.shape(0)
    rank = max(len(given), len(own))
    pairs = zip((1,) * (rank - len(own)) + own, (1,) * (rank - len(given)) + given, strict=True)
    target = [wanted if extent == 1 else extent for extent, wanted in pairs]
    check_extents(target, "the expanded tensor")
    return relax.op.broadcast_to(node.x, target)


def transpose(node: Node) -> relax.Expr:
    rank = len(node.shape(0))
    axes = list(_ints(node, "perm")) if "perm" in node.attributes else list(reversed(range(rank)))
    return relax.op.permute_dims(node.x, axes) if rank > 1 else node.x


def concat(node: Node) -> relax.Expr:
    if len(node.inputs) == 1:
        return node.x
    return relax.op.concat(list(node.inputs), axis=node.axis(1))


def cut(node: Node) -> relax.Expr:
    """Slice. Its numbers mean what Python's slices mean; they are attributes before opset 10 and inputs since."""
    shape, rank = node.shape(0), len(node.shape(0))
    if node.opset < 10:
        starts, ends, steps = _ints(node, "starts"), _ints(node, "ends"), None
        axes = _ints(node, "axes") if "axes" in node.attributes else None
    else:
        starts, ends = node.numbers(1, "starts"), node.numbers(2, "ends")
        axes, steps = (node.numbers(i, name) if node.given(i) else None for i, name in ((3, "axes"), (4, "steps")))
    axes, steps = axes or tuple(range(len(starts))), steps or (1,) * len(starts)
    if (
        not len(starts) == len(ends) == len(axes) == len(steps)
        or any(not -rank <= a < rank for a in axes)
        or 0 in steps
    ):
        raise ModelError(f"starts {starts}, ends {ends}, axes {axes}, steps {steps} do not fit {rank} axes")
    x = node.x
    for start, end, given, step in zip(starts, ends, axes, steps, strict=True):
        axis = given % rank
        places = range(shape[axis])[start:end:step]
        if not places:
            raise ModelError(f"start {start}, end {end}, step {step} leave nothing of an axis of {shape[axis]}")
        if step == 1:
            x = node.emit(relax.op.strided_slice(x, [axis], [places[0]], [places[-1] + 1]))
        else:
            x = node.emit(relax.op.take(x, relax.const(np.asarray(places), "int64"), axis, mode="clip"))
    return x


def gather(node: Node) -> relax.Expr:
    axis = node.axis(0)
    return relax.op.take(node.x, _inside(node, (node.shape(0)[axis],)), axis, mode="clip")


def gather_elements(node: Node) -> relax.Expr:
    axis = node.axis(0)
    return relax.op.gather_elements(node.x, _inside(node, (node.shape(0)[axis],)), axis)


def gather_nd(node: Node) -> relax.Expr:
    batch = node.integer("batch_dims", 0)
    shape, places = node.shape(0), node.shape(1)[-1]
    if not 0 <= batch < min(len(shape), len(node.shape(1))) or batch + places > len(shape):
        raise ModelError(f"batch_dims is {batch} for indices {node.shape(1)} of a tensor {shape}")
    return relax.op.gather_nd(node.x, _inside(node, shape[batch : batch + places]), batch)


def _inside(node: Node, extents: tuple[int, ...]) -> relax.Expr:
    """The second input, indices along axes of these extents (one for all, or one for each place of its last axis),
    counted from the front. Constant ones are checked here, others in each run."""
    indices = node.inputs[1]
    assert indices is not None
    if isinstance(indices, GenericConst):
        values = indices.value.numpy()
        limits = np.broadcast_to(extents[0] if len(extents) == 1 else extents, values.shape)
        wrong = (values < -limits) | (values >= limits)
        if wrong.any():
            index, extent = values[wrong][0], limits[wrong][0]
            raise ModelError(f"index {index} is outside an axis of {extent}; allowed: {-extent} to {extent - 1}")
        return relax.const(check_indices.meaning(values, extents=extents), str(values.dtype))
    return node.emit(check_indices.call(indices, extents, span=spans.named(node.names[1])))


def _from_front(node: Node, indices: relax.Expr, extent: int) -> relax.Expr:
    """Negative indices count from the end."""
    kind = str(indices.ty.dtype)
    if kind.startswith("uint"):
        return indices
    negative = node.emit(relax.op.less(indices, relax.const(0, kind)))
    shifted = node.emit(relax.op.add(indices, relax.const(extent, kind)))
    return node.emit(relax.op.where(negative, shifted, indices))


def one_hot(node: Node) -> relax.Expr:
    """Indices count from the front, or from the end where negative; one that is outside marks nothing."""
    (depth,), values = node.numbers(1, "depth"), node.constant(2, "values")
    indices, kind, rank = node.x, node.dtype(0), len(node.shape(0))
    if np.dtype(kind).kind not in "iu" or not 0 < depth <= np.iinfo(kind).max:
        raise ModelError(f"indices are {kind}, depth is {depth}; indices must be integers, and depth one of theirs")
    axis = node.axis(-1, rank + 1)
    check_extents([*node.shape(0), depth], "the result")
    places = relax.const(np.arange(depth).reshape([-1 if a == axis else 1 for a in range(rank + 1)]).astype(kind), kind)
    counted = node.emit(relax.op.expand_dims(_from_front(node, indices, depth), axis))
    off, on = (relax.const(value, str(values.dtype)) for value in values.reshape(-1))
    return relax.op.where(node.emit(relax.op.equal(counted, places)), on, off)


def pad(node: Node) -> relax.Expr:
    """Negative pads cut off; modes copy from what is left."""
    shape, rank = node.shape(0), len(node.shape(0))
    if node.opset >= 11:
        numbers = node.numbers(1, "pads")
        axes = node.numbers(3, "axes") if node.given(3) else tuple(range(rank))
    else:
        numbers, axes = _ints(node, "pads"), tuple(range(rank))
    mode, value = node.text("mode", "constant"), _pad_value(node)
    if len(numbers) != 2 * len(axes) or len({axis % rank for axis in axes}) != len(axes):
        raise ModelError(f"pads is {numbers} for axes {axes}; it must be two numbers an axis")
    grown = list(shape)
    for place, axis in enumerate(axes):
        grown[axis % rank] += max(0, numbers[place]) + max(0, numbers[place + len(axes)])
    check_extents(grown, "the padded tensor")
    x = node.x
    for place, given in enumerate(axes):
        before, after, axis = numbers[place], numbers[place + len(axes)], given % rank
        x = _padded(node, x, axis, shape[axis], before, after, mode, value)
    return x


def _ints(node: Node, name: str) -> tuple[int, ...]:
    found = node.attributes.get(name)
    if not isinstance(found, list | tuple) or not all(isinstance(value, int) for value in found):
        raise ModelError(f"{name} is {found}; it must be whole numbers")
    return tuple(found)


def _pad_value(node: Node) -> np.generic:
    value = node.constant(2, "constant_value").item() if node.given(2) else node.real("value", 0.0)
    found: np.generic = np.dtype(node.dtype(0)).type(value)
    return found


def _padded(
    node: Node, x: relax.Expr, axis: int, extent: int, before: int, after: int, mode: str, value: np.generic
) -> relax.Expr:
    """One axis. What is copied is found by an index each place."""
    if not before and not after:
        return x
    first, last = max(0, -before), extent - max(0, -after)
    kept, left, right = last - first, max(0, before), max(0, after)
    if kept < 1:
        raise ModelError(f"pads {before} and {after} leave nothing of an axis of {extent}")
    places = np.arange(-left, kept + right)
    if mode == "wrap":
        places %= kept
    elif mode == "edge":
        places = places.clip(0, kept - 1)
    elif mode == "reflect" and max(left, right) < kept:
        places = np.abs(places)
        places = np.where(places >= kept, 2 * (kept - 1) - places, places)
    elif mode != "constant":
        raise ModelError(f"mode is {mode}, pads {before} and {after} on an axis of {extent}: not supported")
    if mode == "constant":
        parts = [_filled(node, x, axis, left, value)] if left else []
        inner = x if kept == extent else node.emit(relax.op.strided_slice(x, [axis], [first], [last]))
        parts += [inner, *([_filled(node, x, axis, right, value)] if right else [])]
        return inner if len(parts) == 1 else node.emit(relax.op.concat(parts, axis=axis))
    return node.emit(relax.op.take(x, relax.const(places + first, "int64"), axis, mode="clip"))


def _filled(node: Node, x: relax.Expr, axis: int, extent: int, value: np.generic) -> relax.Expr:
    shape = [extent if place == axis else int(e) for place, e in enumerate(x.ty.shape.values)]
    return relax.const(np.full(shape, value), str(x.ty.dtype))
