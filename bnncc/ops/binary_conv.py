"""BinaryConv: exact correlation of binarised activations with packed binary weights.

    y[n, o, p] = sum over taps t and channels c of the group of o:  X[n, c, p * stride + t * dilation] * W[o, t, c]

X is x with a border of ``pad_value`` around it (after binarisation: 0 is exact zero padding, +-1 a border of that
sign). W is +1 where the weight's bit is set, else -1. x holds {-1, +1} or {0, 1}, so y holds exact integers.

x: float32 [N, C, L] or [N, C, H, W]; w: uint8 [O, T, packed_bytes(C / group)] with the T = prod(kernel_shape) taps
row-major (bnncc/bitpack.py fixes the bit order); y: float32 [N, O, OL] or [N, O, OH, OW].

ONNX attributes, as in Conv: ``kernel_shape``, ``strides``, ``pads`` (begins, then ends), ``dilations`` INTS and
``group`` INT (default 1); besides ``channels`` INT = C / group, and ``pad_value`` FLOAT in {-1, 0, +1} (default 0).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bnncc import bitpack
from bnncc.ops.unpack import UNPACK_SIGNS

if TYPE_CHECKING:
    import onnx

NAME = "BinaryConv"


def meaning(
    x: npt.NDArray[np.float32],
    w: npt.NDArray[np.uint8],
    *,
    channels: int,
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int = 1,
    pad_value: float = 0.0,
) -> npt.NDArray[np.float32]:
    """The specification, tap by tap: shapes and dtypes as in the module's docstring.

    Sums in float64, whose 53 bits hold every integer a convolution of +-1 can reach.
    """
    spatial = len(kernel_shape)
    border = [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)]
    padded = np.pad(x.astype(np.float64), border, constant_values=pad_value)
    signs = np.where(bitpack.unpack(w, channels), 1.0, -1.0)  # [O, T, Cg]
    size = output_shape(x.shape[2:], kernel_shape, strides, pads, dilations)
    out_per_group = w.shape[0] // group
    y = np.zeros((x.shape[0], w.shape[0], *size))
    for t, tap in enumerate(np.ndindex(*kernel_shape)):
        window = tuple(
            slice(k * d, k * d + (n - 1) * s + 1, s) for k, d, n, s in zip(tap, dilations, size, strides, strict=True)
        )
        for g in range(group):
            inputs = padded[(slice(None), slice(g * channels, (g + 1) * channels), *window)]
            rows = slice(g * out_per_group, (g + 1) * out_per_group)
            y[:, rows] += np.moveaxis(np.tensordot(signs[rows, t], inputs, axes=(1, 1)), 0, 1)
    return y.astype(np.float32)


def output_shape(
    size: Sequence[int],
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
) -> tuple[int, ...]:
    """Output extents of the spatial axes: floor((size + pads - dilated kernel) / stride) + 1."""
    n = len(kernel_shape)
    return tuple(
        (size[i] + pads[i] + pads[i + n] - dilations[i] * (kernel_shape[i] - 1) - 1) // strides[i] + 1 for i in range(n)
    )


def function() -> "onnx.FunctionProto":
    """The ONNX body, for any number of spatial axes. A runtime folds the weights at load; a Conv and a Round remain.

    The Round changes no integer. It keeps a runtime from multiplying a following BatchNorm or scale into the weights
    (onnxruntime does), after which the sums are no longer exact and signs of sums that are 0 come out wrong.
    """
    import onnx.parser

    return onnx.parser.parse_function(f"""
        <domain: "bnncc", opset_import: ["" : 18]>
        BinaryConv <channels, kernel_shape, strides, pads, dilations, group: int = 1, pad_value: float = 0.0>
            (x, w) => (y)
        {{
            {UNPACK_SIGNS}
            channels_first = Transpose <perm: ints = [0, 2, 1]> (signs)
            kernel = Constant <value_ints: ints = @kernel_shape> ()
            keep = Constant <value_ints: ints = [0, 0]> ()
            weight_shape = Concat <axis: int = 0> (keep, kernel)
            weight = Reshape (channels_first, weight_shape)
            first = Constant <value_int: int = 2> ()
            step = Constant <value_int: int = 1> ()
            rank = Size (kernel)
            stop = Add (first, rank)
            spatial = Range (first, stop, step)
            border = Constant <value_ints: ints = @pads> ()
            value = Constant <value_float: float = @pad_value> ()
            padded = Pad (x, border, value, spatial)
            sums = Conv <kernel_shape: ints = @kernel_shape, strides: ints = @strides, dilations: ints = @dilations,
                      group: int = @group> (padded, weight)
            y = Round (sums)
        }}
    """)


def schema() -> "onnx.defs.OpSchema":
    """The ONNX signature with shape inference, for tools that know the operator itself."""
    from onnx import defs, helper

    def ints(name: str) -> "onnx.defs.OpSchema.Attribute":
        return defs.OpSchema.Attribute(name, defs.OpSchema.AttrType.INTS, required=True)

    schema = defs.OpSchema(
        NAME,
        "bnncc",
        1,
        doc=__doc__ or "",
        inputs=[
            defs.OpSchema.FormalParameter("x", "tensor(float)"),
            defs.OpSchema.FormalParameter("w", "tensor(uint8)"),
        ],
        outputs=[defs.OpSchema.FormalParameter("y", "tensor(float)")],
        attributes=[
            defs.OpSchema.Attribute("channels", defs.OpSchema.AttrType.INT, required=True),
            ints("kernel_shape"),
            ints("strides"),
            ints("pads"),
            ints("dilations"),
            defs.OpSchema.Attribute("group", helper.make_attribute("group", 1)),
            defs.OpSchema.Attribute("pad_value", helper.make_attribute("pad_value", 0.0)),
        ],
    )
    schema.set_type_and_shape_inference_function(_infer_onnx)
    return schema


def _infer_onnx(ctx: "onnx.shape_inference.InferenceContext") -> None:
    from onnx import TensorProto, helper

    x, w = (ctx.get_input_type(i).tensor_type for i in range(2))
    if not x.HasField("shape") or not w.HasField("shape"):
        ctx.set_output_type(0, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
        return
    known = [d.dim_value if d.HasField("dim_value") else None for d in x.shape.dim]
    kernel, strides, pads, dilations = (
        list(ctx.get_attribute(name).ints) for name in ("kernel_shape", "strides", "pads", "dilations")
    )
    filled = output_shape([d or 0 for d in known[2:]], kernel, strides, pads, dilations)
    spatial = [n if d is not None else None for n, d in zip(filled, known[2:], strict=True)]
    filters = w.shape.dim[0].dim_value if w.shape.dim[0].HasField("dim_value") else None
    ctx.set_output_type(0, helper.make_tensor_type_proto(TensorProto.FLOAT, [known[0], filters, *spatial]))
