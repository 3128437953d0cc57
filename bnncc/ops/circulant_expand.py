"""CirculantExpand: packed base filters to the packed weights of a circulant convolution (CBCN, Liu et al., CVPR 2019).

An output of the convolution has M orientations of each base filter, its input M orientations of each base channel,
orientation-major: output channel k * O + o, input channel l * C + c. Orientation k of a filter is the filter turned
clockwise by k * 360 / M degrees:

    shared:    y[k * O + o, t, l * C + c] = w[o, turned_k(t), c]
    oriented:  y[k * O + o, t, l * C + c] = w[o, turned_k(t), ((l - k) mod M) * C + c]

turned_k(t) is the tap that a turn by k brings to tap t. "shared" filters meet every orientation of the input with the
same bits; "oriented" ones have M slices, one for each, which shift by k as the filter turns. The eight outer taps of a
3x3 kernel turn around its centre, one of them every 45 degrees; a kernel of one tap stays as it is.

w: uint8 [O, T, packed_bytes(slices * C)], slices being 1 or M and T the taps, 9 (3x3, row-major) or 1; y: uint8
[M * O, T, packed_bytes(M * C)], what BinaryConv reads (bnncc/bitpack.py fixes the bit order).

ONNX attributes: ``channels`` INT = C, ``orientations`` INT = M, 4 or 8, ``mixing`` STRING "shared" or "oriented".
"""

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from bnncc import bitpack
from bnncc.ops.unpack import UNPACK_BITS

if TYPE_CHECKING:
    import onnx

NAME = "CirculantExpand"

Mixing = Literal["shared", "oriented"]
MIXINGS: tuple[Mixing, ...] = ("shared", "oriented")
ORIENTATIONS = (4, 8)

RING = (0, 1, 2, 5, 8, 7, 6, 3)  # the outer taps of a 3x3 kernel, clockwise
T = TypeVar("T", bound=np.generic)


def turned(eighths: int, taps: int = 9) -> tuple[int, ...]:
    """For each tap the one that a clockwise turn by `eighths` * 45 degrees brings there. taps: 9 of a 3x3 kernel, or 1.

    ValueError for other kernels.
    """
    if taps == 1:
        return (0,)
    if taps != 9:
        raise ValueError(f"{taps} taps cannot be turned; allowed: 9 (3x3) and 1")
    source = list(range(9))
    for place, tap in enumerate(RING):
        source[tap] = RING[(place - eighths) % 8]
    return tuple(source)


def rotate(w: npt.NDArray[T], eighths: int) -> npt.NDArray[T]:
    """Any [..., T] with row-major taps last, turned clockwise by `eighths` * 45 degrees."""
    return w[..., list(turned(eighths, w.shape[-1]))]


def slices(orientations: int, mixing: str) -> int:
    """Slices of a base filter: 1 or M. ValueError for orientations or mixing that there are not."""
    if orientations not in ORIENTATIONS:
        raise ValueError(f"orientations is {orientations}, allowed: 4, 8")
    if mixing not in MIXINGS:
        raise ValueError(f"mixing is {mixing!r}, allowed: 'shared', 'oriented'")
    return 1 if mixing == "shared" else orientations


def expand(w: npt.NDArray[T], orientations: int, mixing: str) -> npt.NDArray[T]:
    """Unpacked: any [O, T, slices * C] -> [M * O, T, M * C]."""
    count = slices(orientations, mixing)
    base = w.reshape(*w.shape[:2], count, -1)
    filters = []
    for k in range(orientations):
        taps = list(turned(k * (8 // orientations), w.shape[1]))
        filters.append(np.concatenate([base[:, taps, (n - k) % count] for n in range(orientations)], axis=2))
    return np.concatenate(filters)


def meaning(w: npt.NDArray[np.uint8], *, channels: int, orientations: int, mixing: str) -> npt.NDArray[np.uint8]:
    """The specification: shapes and dtypes as in the module's docstring."""
    bits = bitpack.unpack(w, slices(orientations, mixing) * channels)
    return bitpack.pack(expand(bits, orientations, mixing))


class Base(NamedTuple):
    """What circulant weights are made of: bool [O, T, slices * C], and the attributes."""

    bits: npt.NDArray[np.bool_]
    orientations: int
    mixing: Mixing


def compress(bits: npt.NDArray[np.bool_]) -> Base | None:
    """The inverse of `expand`, of most orientations and fewest bits: bool [M * O, T, M * C] -> its base filters; None
    for weights that are not circulant."""
    filters, taps, width = bits.shape
    for orientations in reversed(ORIENTATIONS):
        if taps not in (1, 9) or filters % orientations or width % orientations:
            continue
        for mixing in MIXINGS:
            base = bits[: filters // orientations, :, : width // orientations * slices(orientations, mixing)]
            first = bits[:: filters // orientations]  # of one base filter, which mostly decides
            alike = np.array_equal(expand(base[:1], orientations, mixing), first)
            if alike and np.array_equal(expand(base, orientations, mixing), bits):
                return Base(base, orientations, mixing)
    return None


def function() -> "onnx.FunctionProto":
    """The ONNX body, which a runtime folds at load. There is no comparison of strings in this version of ONNX: two of
    them are the same if there is one value among them."""
    import onnx.parser

    turns = [tap for eighths in range(8) for tap in turned(eighths)]
    return onnx.parser.parse_function(f"""
        <domain: "bnncc", opset_import: ["" : 18]>
        CirculantExpand <channels, orientations, mixing> (w) => (y)
        {{
            last = Constant <value_ints: ints = [-1]> ()
            first = Constant <value_int: int = 0> ()
            unit = Constant <value_int: int = 1> ()
            m = Constant <value_int: int = @orientations> ()
            c = Constant <value_int: int = @channels> ()

            found = Constant <value_string: string = @mixing> ()
            found_list = Unsqueeze (found, last)
            shared = Constant <value_strings: strings = ["shared"]> ()
            both = Concat <axis: int = 0> (found_list, shared)
            distinct = Unique (both)
            kinds = Size (distinct)
            oriented = Sub (kinds, unit)
            others = Sub (m, unit)
            more = Mul (oriented, others)
            slices = Add (unit, more)

            stored = Mul (slices, c)
            end = Reshape (stored, last)
            {UNPACK_BITS}
            keep = Constant <value_ints: ints = [0]> ()
            c_list = Reshape (c, last)
            by_slice = Concat <axis: int = 0> (keep, last, c_list)
            base = Reshape (real_bits, by_slice)

            table = Constant <value = int64[8, 9] {{{", ".join(map(str, turns))}}}> ()
            eight = Constant <value_int: int = 8> ()
            step = Div (eight, m)
            orientation = Range (first, m, unit)
            eighths = Mul (orientation, step)
            turned = Gather (table, eighths)
            taps = Shape <start: int = 1, end: int = 2> (w)
            within = Mod (turned, taps)
            tap_axis = Constant <value_ints: ints = [1]> ()
            real_taps = Slice (within, zero, taps, tap_axis)
            of_tap = Unsqueeze (real_taps, last)
            first_slice = Mul (of_tap, slices)
            outer_axes = Constant <value_ints: ints = [1, 2]> ()
            out_orientation = Unsqueeze (orientation, outer_axes)
            shift = Sub (orientation, out_orientation)
            slice = Mod (shift, slices)
            index = Add (first_slice, slice)
            copies = Gather <axis: int = 1> (base, index)
            by_orientation = Transpose <perm: ints = [1, 0, 2, 3, 4]> (copies)
            width = Mul (m, c)
            width_list = Reshape (width, last)
            shape = Concat <axis: int = 0> (last, taps, width_list)
            expanded = Reshape (by_orientation, shape)

            negative = Neg (width_list)
            missing = Mod (negative, eight)
            none = Constant <value_ints: ints = [0, 0, 0, 0, 0]> ()
            pads = Concat <axis: int = 0> (none, missing)
            whole = Pad (expanded, pads)
            by_byte = Constant <value_ints: ints = [0, 0, -1, 8]> ()
            bytes = Reshape (whole, by_byte)
            placed = Mul (bytes, place)
            sums = ReduceSum <keepdims: int = 0> (placed, last)
            y = Cast <to: int = 2> (sums)
        }}
    """)


def schema() -> "onnx.defs.OpSchema":
    """The ONNX signature with shape inference, for tools that know the operator itself."""
    from onnx import defs

    attribute, kind = defs.OpSchema.Attribute, defs.OpSchema.AttrType
    schema = defs.OpSchema(
        NAME,
        "bnncc",
        1,
        doc=__doc__ or "",
        inputs=[defs.OpSchema.FormalParameter("w", "tensor(uint8)")],
        outputs=[defs.OpSchema.FormalParameter("y", "tensor(uint8)")],
        attributes=[
            attribute("channels", kind.INT, required=True),
            attribute("orientations", kind.INT, required=True),
            attribute("mixing", kind.STRING, required=True),
        ],
    )
    schema.set_type_and_shape_inference_function(_infer_onnx)
    return schema


def _infer_onnx(ctx: "onnx.shape_inference.InferenceContext") -> None:
    from onnx import TensorProto, helper

    w = ctx.get_input_type(0).tensor_type
    m, channels = (ctx.get_attribute(name).i for name in ("orientations", "channels"))
    known = [d.dim_value if d.HasField("dim_value") else None for d in w.shape.dim] if w.HasField("shape") else []
    filters, taps = known[:2] if len(known) == 3 else (None, None)
    shape = [m * filters if filters is not None else None, taps, bitpack.packed_bytes(m * channels)]
    ctx.set_output_type(0, helper.make_tensor_type_proto(TensorProto.UINT8, shape))
