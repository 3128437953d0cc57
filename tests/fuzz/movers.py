"""Operators that move data, count it, or change its type."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fuzz.generate import FLOATS, INTEGERS, Graph, Maker, Tensor

ANY = (*FLOATS, *INTEGERS, "bool")


def _any(g: Graph, least: int = 1) -> Tensor | None:
    return g.find(*ANY, ranks=range(least, 7), wild=True)


def _ints(g: Graph, values: Any) -> Tensor:
    return g.constant(np.asarray(values, dtype=np.int64))


def reshape(g: Graph) -> bool:
    x = _any(g)
    if x is None:
        return False
    rest, target = int(np.prod(x.shape)), []
    for _ in range(g.number(0, 4)):
        target.append(g.pick([d for d in range(1, rest + 1) if rest % d == 0]))
        rest //= target[-1]
    target = [*target, rest]
    if g.chance(0.4):
        target[g.number(0, len(target) - 1)] = -1
    elif g.chance(0.2) and target[0] == x.shape[0]:
        target[0] = 0
    return g.add("Reshape", [x, _ints(g, target)], x.high, x.step)


def flatten(g: Graph) -> bool:
    x = _any(g)
    if x is None:
        return False
    axis = g.number(0 if g.opset < 11 else -len(x.shape), len(x.shape))
    return g.add("Flatten", [x], x.high, x.step, axis=axis)


def squeeze(g: Graph) -> bool:
    x = _any(g)
    if x is None:
        return False
    op, axes = "Squeeze", [i for i, e in enumerate(x.shape) if e == 1][:2]
    if not axes or (g.chance(0.5) and len(x.shape) < 5):
        op, axes = "Unsqueeze", sorted({g.number(0, len(x.shape)) for _ in range(2)})
    elif g.chance(0.3):
        return g.add("Squeeze", [x], x.high, x.step)
    if g.opset >= 13:
        return g.add(op, [x, _ints(g, axes)], x.high, x.step)
    return g.add(op, [x], x.high, x.step, axes=axes)


def transpose(g: Graph) -> bool:
    x = _any(g)
    if x is None:
        return False
    perm: dict[str, Any] = {} if g.chance(0.2) else {"perm": [int(a) for a in g.rng.permutation(len(x.shape))]}
    return g.add("Transpose", [x], x.high, x.step, **perm)


def concat(g: Graph) -> bool:
    x = _any(g)
    if x is None:
        return False
    axis = g.number(0, len(x.shape) - 1)
    parts = [x]
    for _ in range(g.number(0, 2)):
        same = [
            t for t in g.tensors
            if t.dtype == x.dtype and len(t.shape) == len(x.shape)
            and all(a == b for i, (a, b) in enumerate(zip(t.shape, x.shape, strict=True)) if i != axis)
        ]  # fmt: skip
        parts.append(g.pick(same) if g.chance(0.7) else g.constant(g.values(x.dtype, x.shape)))
    high, step = max(t.high for t in parts), min(t.step for t in parts)
    return g.add(
        "Concat", list(parts), high, step, axis=axis - (len(x.shape) if g.chance(0.2) and g.opset >= 11 else 0)
    )


def split(g: Graph) -> bool:
    x = _any(g)
    if x is None:
        return False
    axis = g.number(0, len(x.shape) - 1)
    parts = g.number(2, 3)
    extent = x.shape[axis]
    if extent < parts:
        return False
    sizes = [1] * (parts - 1)
    sizes.append(extent - sum(sizes))
    attributes: dict[str, Any] = {"axis": axis}
    inputs: list[Tensor | None] = [x]
    if extent % parts == 0 and g.chance(0.5):
        if g.opset >= 18:
            attributes["num_outputs"] = parts
    elif g.opset >= 13:
        inputs.append(_ints(g, sizes))
    else:
        attributes["split"] = sizes
    return g.add("Split", inputs, x.high, x.step, outputs=parts, **attributes)


def cut(g: Graph) -> bool:
    """Slice."""
    x = _any(g)
    if x is None:
        return False
    axes = sorted({g.number(0, len(x.shape) - 1) for _ in range(g.number(1, 2))})
    starts: list[int] = []
    ends: list[int] = []
    steps: list[int] = []
    for axis in axes:
        extent = x.shape[axis]
        first = g.number(0, extent - 1)
        last = g.number(first + 1, extent + 2)
        step = 1 if g.opset < 10 else g.pick([1, 1, 2, 3, -1, -2])
        start, end = (first, last) if step > 0 else (last, first - 1 if first else -extent - 1)
        if g.chance(0.2) and step > 0:
            start, end = start - extent, g.pick([end, 2**31 - 1, 2**63 - 1])
        for numbers, number in ((starts, start), (ends, end), (steps, step)):
            numbers.append(number)
    if g.opset < 10:
        return g.add("Slice", [x], x.high, x.step, starts=starts, ends=ends, axes=axes)
    kind = g.pick(["int64", "int32"]) if max(ends) < 2**31 else "int64"
    inputs: list[Tensor | None] = [x, *(g.constant(v, kind) for v in (starts, ends, axes))]
    if any(s != 1 for s in steps) or g.chance(0.3):
        inputs.append(g.constant(steps, kind))
    return g.add("Slice", inputs, x.high, x.step)


def gather(g: Graph) -> bool:
    x = _any(g)
    if x is None:
        return False
    axis = g.number(-len(x.shape), len(x.shape) - 1)
    extent, kind = x.shape[axis], g.pick(["int64", "int32"])
    low = 0 if g.opset < 11 else -extent
    op = g.pick(["Gather", "Gather"] + ["GatherElements"] * (g.opset >= 11) + ["GatherND"] * (g.opset >= 12))
    if op == "Gather":
        shape = g.pick([(), (1,), (3,), (2, 2)])
        return g.add(op, [x, g.constant(g.rng.integers(low, extent, shape), kind)], x.high, x.step, axis=axis)
    if op == "GatherElements":
        shape = tuple(e if i == axis % len(x.shape) or g.chance(0.5) else g.number(1, e) for i, e in enumerate(x.shape))
        return g.add(op, [x, g.constant(g.rng.integers(-extent, extent, shape), kind)], x.high, x.step, axis=axis)
    depth = g.number(1, len(x.shape))
    indices = np.stack([g.rng.integers(-x.shape[d], x.shape[d], (3,)) for d in range(depth)], axis=-1)
    return g.add(op, [x, _ints(g, indices)], x.high, x.step)


def gather_at_run_time(g: Graph) -> bool:
    """By indices that the graph computes, all inside."""
    x, i = _any(g), g.find("int64", "int32", ranks=range(3))
    if x is None or i is None:
        return False
    axis = g.number(0, len(x.shape) - 1)
    if i.high >= x.shape[axis]:
        return False
    if g.opset < 11 or not i.name.startswith("x"):
        return False
    return g.add("Gather", [x, i], x.high, x.step, axis=axis)


def pad(g: Graph) -> bool:
    x = g.find("float32", *(("float64", "int64", "int32") if g.opset >= 11 else ()), ranks=range(1, 6))
    if x is None:
        return False
    mode = g.pick(["constant", "edge", "reflect"] + ["wrap"] * (g.opset >= 19))
    rank = len(x.shape)
    axes = list(range(rank))
    if g.opset >= 18 and g.chance(0.3):
        axes = sorted({g.number(0, rank - 1) for _ in range(2)})
    pads = [g.number(-1 if x.shape[a] > 2 and g.chance(0.2) else 0, min(2, x.shape[a] - 1)) for a in axes * 2]
    if g.opset < 11:
        return g.add("Pad", [x], max(x.high, 3), min(x.step, 0.5), pads=pads, mode=mode, value=g.pick([0.0, 1.5]))
    inputs: list[Tensor | None] = [x, _ints(g, pads)]
    if (mode == "constant" and g.chance(0.5)) or len(axes) < rank:
        inputs.append(g.constant(g.pick([-1, 2]), x.dtype) if mode == "constant" else None)
    if len(axes) < rank:
        inputs.append(_ints(g, axes))
    return g.add("Pad", inputs, max(x.high, 3), min(x.step, 0.5), mode=mode)


def expand(g: Graph) -> bool:
    x = _any(g)
    if x is None or np.prod(x.shape) > 300:
        return False
    shape = [g.number(1, 3) if e == 1 else g.pick([1, e]) for e in x.shape]
    if g.chance(0.3) and len(x.shape) < 6:
        shape = [g.number(1, 3), *shape]
    if g.chance(0.3):
        return g.add("Tile", [x, _ints(g, [g.number(1, 3) for _ in x.shape])], x.high, x.step)
    return g.add("Expand", [x, _ints(g, shape)], x.high, x.step)


def resize(g: Graph) -> bool:
    x = g.find("float32", ranks=(3, 4))
    if x is None:
        return False
    mode = g.pick(["nearest", "nearest", "linear", "cubic"])
    scales = [1.0, 1.0, *(g.pick([1.0, 2.0, 3.0, 0.5, 1.5]) for _ in x.shape[2:])]
    exact = x.step if mode == "nearest" else 0.0
    if g.opset < 10:
        return mode != "cubic" and g.add("Upsample", [x, g.constant(scales, "float32")], x.high, exact, mode=mode)
    if g.opset == 10:
        return mode != "cubic" and g.add("Resize", [x, g.constant(scales, "float32")], x.high, exact, mode=mode)
    modes = ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]
    attributes: dict[str, Any] = {"coordinate_transformation_mode": g.pick(modes), "mode": mode}
    if mode == "nearest":
        attributes["nearest_mode"] = g.pick(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    empty = g.constant(np.zeros(0), "float32") if g.opset < 13 else None
    if g.chance(0.5):
        return g.add("Resize", [x, empty, g.constant(scales, "float32")], 2 * x.high, exact, **attributes)
    sizes = [*x.shape[:2], *(g.number(1, 2 * e + 1) for e in x.shape[2:])]
    no_scales = g.constant(np.zeros(0), "float32") if g.opset < 13 else None
    return g.add("Resize", [x, empty, no_scales, _ints(g, sizes)], 2 * x.high, exact, **attributes)


def blocks(g: Graph) -> bool:
    x = g.find("float32", ranks=(4,))
    if x is None:
        return False
    c, h, w = x.shape[1:]
    if c % 4 == 0 and g.chance(0.6):
        mode = {"mode": g.pick(["DCR", "CRD"])} if g.opset >= 11 else {}
        return g.add("DepthToSpace", [x], x.high, x.step, blocksize=2, **mode)
    return h % 2 == w % 2 == 0 and g.add("SpaceToDepth", [x], x.high, x.step, blocksize=2)


def cast(g: Graph) -> bool:
    x = g.find(*ANY, exact=True)
    if x is None:
        return False
    to = g.pick(["float32", "float32", "float64", "int64", "int32", "bool", "uint8", "int8"])
    if (to == "uint8" and x.dtype != "bool") or (to == "int8" and x.high > 127):
        return False
    if g.with_nan:
        return False
    step = 1.0 if to in (*INTEGERS, "bool") else x.step
    from onnx import helper

    element = helper.np_dtype_to_tensor_dtype(np.dtype(to))
    return g.add("Cast", [x], max(x.high, 1), step, to=int(element))


def one_hot(g: Graph) -> bool:
    x = g.find("int64", "int32", ranks=range(1, 4))
    if x is None or g.opset < 11 or x.high > 8:
        return False
    depth = g.constant(10, g.pick(["int64", "int32"]))
    values = g.constant([0, 3], g.pick(["float32", "int64", "int32"]))
    return g.add("OneHot", [x, depth, values], 3, 1, axis=g.number(-1, len(x.shape)))


def say_shape(g: Graph) -> bool:
    """A shape that is read: Reshape to another tensor's shape, or arithmetic on extents."""
    x = _any(g)
    if x is None:
        return False
    op = g.pick(["Shape", "Size"])
    attributes: dict[str, Any] = {}
    if op == "Shape" and g.opset >= 15 and g.chance(0.4):
        attributes = {"start": g.number(0, 1), "end": g.number(1, len(x.shape))}
    return g.add(op, [x], float(np.prod(x.shape)), 1, **attributes)


def triangle(g: Graph) -> bool:
    x = g.find("float32", "int64", ranks=range(2, 5))
    return x is not None and g.opset >= 14 and g.add("Trilu", [x], x.high, x.step, upper=g.number(0, 1))


def bits(g: Graph) -> bool:
    x = g.find("int64", "int32", "uint8", "int8")
    if x is None or g.opset < 18:
        return False
    op = g.pick(["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
    y = g.other(x)
    return g.add(op, [x, y], 2 * max(x.high, y.high) + 1, 1)


ALL: list[Maker] = [
    reshape, reshape, flatten, squeeze, transpose, transpose, concat, concat, split, cut, cut, gather, gather,
    gather_at_run_time, pad, pad, expand, resize, resize, blocks, cast, cast, one_hot, say_shape, triangle, bits,
]  # fmt: skip
