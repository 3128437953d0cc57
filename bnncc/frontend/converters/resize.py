"""Resize and Upsample, axis by axis: each output place along an axis is a sum of places of the input with constant
weights, in float32 arithmetic as onnxruntime's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from tvm import relax

from bnncc.frontend.node import Node
from bnncc.frontend.onnx_file import check_extents
from bnncc.runtime.errors import ModelError

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]

COORDINATES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric")
# What lies as near to the middle of two places counts as the middle, in onnxruntime 1.31 too: scales are rounded.
_HALF = 1e-6
# Relative: beside a whole number as far as three roundings to float32 can tell.
_WHOLE = 1e-5
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def resize(node: Node) -> relax.Expr:
    old = node.shape(0)
    for name, default in (("antialias", 0), ("exclude_outside", 0)):
        if node.integer(name, default) != default:
            raise ModelError(f"{name} is {node.integer(name, default)}; only {default} is supported")
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ModelError("keep_aspect_ratio_policy: only stretch is supported")
    # Until opset 10 there is no choice: coordinates o / scale, rounded down.
    is_old = node.opset < 11
    coordinates = "asymmetric" if is_old else node.text("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if is_old else node.text("nearest_mode", "round_prefer_floor")
    mode = node.text("mode", "nearest")
    if coordinates not in COORDINATES or rounding not in ROUNDINGS or mode not in ("nearest", "linear", "cubic"):
        raise ModelError(
            f"coordinate_transformation_mode {coordinates}, nearest_mode {rounding}, mode {mode}; allowed: "
            f"{', '.join(COORDINATES)}; {', '.join(ROUNDINGS)}; nearest, linear, cubic"
        )
    if mode != "nearest" and node.dtype(0) != "float32":
        raise ModelError(f"input is {node.dtype(0)}; mode {mode} needs float32")
    new, scales = _targets(node, old)
    check_extents(new, "the resized tensor")
    x = node.x
    if new == old:
        return x  # whatever the scales are, as onnxruntime does
    for axis, (size, scale) in enumerate(zip(new, scales, strict=True)):
        if size == old[axis] and scale == 1:
            continue
        at = _coordinates(coordinates, old[axis], size, np.float32(scale))
        if mode == "nearest":
            _check_nearest(coordinates, rounding, at, axis)
            x = _take(node, x, _nearest(at, rounding, old[axis]), axis)
        else:
            taps = _linear(at, old[axis]) if mode == "linear" else _cubic(node, at, old[axis])
            x = _weighted(node, x, taps, axis)
    return x


def _targets(node: Node, old: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """New extents, and the scale of each axis."""
    index = 2 if node.opset >= 11 else 1
    axes = node.attributes.get("axes", list(range(len(old))))
    if not isinstance(axes, list) or any(not -len(old) <= axis < len(old) for axis in axes):
        raise ModelError(f"axes is {axes}; allowed for {len(old)} axes: {-len(old)} to {len(old) - 1}")
    places = [axis % len(old) for axis in axes]
    new, scales = list(old), [1.0] * len(old)
    if node.given(index) and node.constant(index, "scales").size:
        given = [float(value) for value in node.constant(index, "scales").reshape(-1)]
        _check_count(given, places)
        for axis, scale in zip(places, given, strict=True):
            if not 0 < scale < float("inf"):
                raise ModelError(f"scales is {given}; each must be above 0")
            new[axis], scales[axis] = int(np.floor(np.float32(old[axis]) * np.float32(scale))), scale
    elif node.given(3):
        sizes = list(node.numbers(3, "sizes"))
        _check_count(sizes, places)
        for axis, size in zip(places, sizes, strict=True):
            new[axis], scales[axis] = size, float(np.float32(size) / np.float32(old[axis]))
    else:
        raise ModelError("neither scales nor sizes are given")
    return tuple(new), tuple(scales)


def _check_count(values: Sequence[float], places: Sequence[int]) -> None:
    if len(values) != len(places) or len(set(places)) != len(places):
        raise ModelError(f"{len(values)} scales or sizes for {len(places)} axes {list(places)}; one an axis is needed")


def _coordinates(mode: str, old: int, new: int, scale: np.float32) -> Floats:
    """Where each output place lies on the input axis."""
    place, half = np.arange(new, dtype=np.float32), np.float32(0.5)
    if mode == "asymmetric":
        return place / scale
    if mode == "align_corners":
        if new == 1:
            return np.zeros(1, np.float32)
        return place * np.float32(old - 1) / np.float32(new - 1)
    if mode == "pytorch_half_pixel" and new == 1:
        return np.zeros(1, np.float32)
    offset = np.float32(0)
    if mode == "half_pixel_symmetric":
        # The output, whose size was rounded, lies in the middle of the input.
        adjustment = np.float32(new) / (scale * np.float32(old))
        offset = np.float32(old) / np.float32(2) * (np.float32(1) - adjustment)
    at: Floats = offset + (place + half) / scale - half
    return at


def _check_nearest(coordinates: str, rounding: str, at: Floats, axis: int) -> None:
    """Centred places come from three roundings: those that fall beside a whole number may lie on either side of it."""
    if coordinates != "half_pixel_symmetric" or rounding.startswith("round"):
        return
    if (np.abs(at - np.rint(at)) < _WHOLE * np.maximum(np.abs(at), 1)).any():
        raise ModelError(
            f"half_pixel_symmetric with nearest_mode {rounding} on axis {axis}: a place falls on a whole number, where "
            "rounding decides; use half_pixel, or nearest_mode round_prefer_floor"
        )


def _nearest(at: Floats, rounding: str, old: int) -> Places:
    exact = at.astype(np.float64)
    if rounding == "floor":
        found = np.floor(exact)
    elif rounding == "ceil":
        found = np.ceil(exact)
    else:
        down = np.floor(exact)
        found = np.floor(exact + 0.5)
        is_half = np.abs(exact - down - 0.5) <= _HALF
        found = np.where(is_half, down if rounding == "round_prefer_floor" else down + 1, found)
    return found.astype(np.int64).clip(0, old - 1)


def _linear(at: Floats, old: int) -> list[tuple[Places, Floats]]:
    inside = at.clip(0, old - 1)
    low = np.floor(inside).astype(np.int64).clip(0, old - 1)
    high = (low + 1).clip(0, old - 1)
    share = (inside - low).astype(np.float32)
    return [(low, np.float32(1) - share), (high, share)]


def _cubic(node: Node, at: Floats, old: int) -> list[tuple[Places, Floats]]:
    """Keys' kernel over four places, those outside read at the edge."""
    a, low = node.real("cubic_coeff_a", -0.75), np.floor(at).astype(np.int64)
    s = (at - low).astype(np.float64)
    weights = (
        ((a * (s + 1) - 5 * a) * (s + 1) + 8 * a) * (s + 1) - 4 * a,
        ((a + 2) * s - (a + 3)) * s * s + 1,
        ((a + 2) * (1 - s) - (a + 3)) * (1 - s) * (1 - s) + 1,
        ((a * (2 - s) - 5 * a) * (2 - s) + 8 * a) * (2 - s) - 4 * a,
    )
    return [((low + tap - 1).clip(0, old - 1), w.astype(np.float32)) for tap, w in enumerate(weights)]


def _take(node: Node, x: relax.Expr, places: Places, axis: int) -> relax.Expr:
    return node.emit(relax.op.take(x, relax.const(places, "int64"), axis, mode="clip"))


def _weighted(node: Node, x: relax.Expr, taps: list[tuple[Places, Floats]], axis: int) -> relax.Expr:
    """The sum of the taps along an axis."""
    shape = [-1 if place == axis else 1 for place in range(len(x.ty.shape.values))]
    parts = [
        node.emit(relax.op.multiply(_take(node, x, places, axis), relax.const(weights.reshape(shape), "float32")))
        for places, weights in taps
    ]
    total = parts[0]
    for part in parts[1:]:
        total = node.emit(relax.op.add(total, part))
    return total
