"""BinaryGemm: exact product of binarised activations with a packed binary matrix.

    y[m, n] = sum over k:  x[m, k] * W[n, k]

W is +1 where the weight's bit is set, else -1. x holds {-1, +1} or {0, 1}, so y holds exact integers.

x: float32 [M, K]; w: uint8 [N, packed_bytes(K)] (bnncc/bitpack.py fixes the bit order); y: float32 [M, N].
ONNX attribute: ``channels`` INT = K.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bnncc import bitpack
from bnncc.ops.unpack import UNPACK_SIGNS

if TYPE_CHECKING:
    import onnx

NAME = "BinaryGemm"


def meaning(x: npt.NDArray[np.float32], w: npt.NDArray[np.uint8], *, channels: int) -> npt.NDArray[np.float32]:
    """The specification: shapes and dtypes as in the module's docstring. Sums in float64, which is exact here."""
    signs = np.where(bitpack.unpack(w, channels), 1.0, -1.0)
    y: npt.NDArray[np.float32] = (x.astype(np.float64) @ signs.T).astype(np.float32)
    return y


def function() -> "onnx.FunctionProto":
    """The ONNX body. A runtime folds the weights at load; a Gemm and a Round remain (why: see BinaryConv)."""
    import onnx.parser

    return onnx.parser.parse_function(f"""
        <domain: "bnncc", opset_import: ["" : 18]>
        BinaryGemm <channels> (x, packed) => (y)
        {{
            tap = Constant <value_ints: ints = [1]> ()
            w = Unsqueeze (packed, tap)
            {UNPACK_SIGNS}
            weight = Squeeze (signs, tap)
            sums = Gemm <transB: int = 1> (x, weight)
            y = Round (sums)
        }}
    """)


def schema() -> "onnx.defs.OpSchema":
    """The ONNX signature with shape inference, for tools that know the operator itself."""
    from onnx import defs

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
        attributes=[defs.OpSchema.Attribute("channels", defs.OpSchema.AttrType.INT, required=True)],
    )
    schema.set_type_and_shape_inference_function(_infer_onnx)
    return schema


def _infer_onnx(ctx: "onnx.shape_inference.InferenceContext") -> None:
    from onnx import TensorProto, helper

    sides = [ctx.get_input_type(i).tensor_type for i in range(2)]
    rows = [
        t.shape.dim[0].dim_value if t.HasField("shape") and t.shape.dim[0].HasField("dim_value") else None
        for t in sides
    ]
    ctx.set_output_type(0, helper.make_tensor_type_proto(TensorProto.FLOAT, rows))
