"""What ONNX itself says about the outputs of a node: checked before a converter allocates, and compared with what it
made. A converter that overlooks an attribute gives another shape or type, and is caught here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from tvm import relax
from tvm.ir import GenericConst

from bnncc.frontend.node import dtype_of, shape_of
from bnncc.frontend.onnx_file import check_extents, check_type, first_line
from bnncc.runtime.errors import ModelError

if TYPE_CHECKING:
    import onnx

# With ceil_mode, ONNX's inference before opset 22 counts windows that begin past the image; its text and onnxruntime do
# not.
BY_OWN_WINDOWS = frozenset({"MaxPool", "AveragePool"})
# Constants with more elements than this cannot say a shape.
MOST_SHAPE_VALUES = 4096
# What a node of constants alone may give, if it is to be computed at once.
MOST_FOLDED = 2**26


class Kind(NamedTuple):
    """Type and extents of a tensor; None for what is not known."""

    dtype: str
    shape: tuple[int | None, ...] | None


def infer(node: onnx.NodeProto, opset: int, inputs: Mapping[str, relax.Expr]) -> tuple[Kind | None, ...]:
    """ONNX's inference for a standard node, one answer an output. ModelError where the node contradicts itself, or
    asks for more memory or another type than allowed."""
    import onnx
    from onnx import helper, numpy_helper, shape_inference

    types, data = {}, {}
    for name, value in inputs.items():
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype_of(value)))
        types[name] = helper.make_tensor_type_proto(element, shape_of(value))
        if isinstance(value, GenericConst) and np.prod(shape_of(value), dtype=np.int64) <= MOST_SHAPE_VALUES:
            data[name] = numpy_helper.from_array(value.value.numpy(), name)
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        found = shape_inference.infer_node_outputs(
            schema, node, types, data, opset_imports=[helper.make_opsetid("", opset)]
        )
    except Exception as error:
        text = first_line(error).removeprefix("[ShapeInferenceError]").removeprefix("[TypeInferenceError]").strip()
        raise ModelError(f"contradicts itself: {text}") from None
    kinds = tuple(_kind(found.get(name), f"its output {name!r}") for name in node.output)
    if node.op_type in BY_OWN_WINDOWS:
        return tuple(kind and Kind(kind.dtype, None) for kind in kinds)
    return kinds


def _kind(found: onnx.TypeProto | None, what: str) -> Kind | None:
    from onnx import helper

    if found is None or not found.HasField("tensor_type") or not found.tensor_type.elem_type:
        return None
    check_type(found.tensor_type.elem_type, what)
    dtype = helper.tensor_dtype_to_np_dtype(found.tensor_type.elem_type).name
    if not found.tensor_type.HasField("shape"):
        return Kind(dtype, None)
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in found.tensor_type.shape.dim)
    check_extents([1 if extent is None else extent for extent in shape], what, zero_allowed=True)
    return Kind(dtype, shape)


def check(value: relax.Expr, kind: Kind | None, what: str) -> None:
    """ModelError unless a converter's result is what ONNX says."""
    shape, dtype = shape_of(value), dtype_of(value)
    check_extents(shape, what, zero_allowed=False)
    if kind is None:
        return
    known = kind.shape if kind.shape is not None else shape
    if (
        dtype != kind.dtype
        or len(known) != len(shape)
        or any(k not in (None, e) for k, e in zip(known, shape, strict=True))
    ):
        raise ModelError(
            f"{what} would be {dtype} {shape} here, but is {kind.dtype} {known} by ONNX; this use of the operator "
            f"is not supported"
        )


def fold(
    node: onnx.NodeProto, opset: int, arrays: Mapping[str, npt.NDArray[np.generic]], kinds: Sequence[Kind | None]
) -> tuple[npt.NDArray[np.generic], ...] | None:
    """The outputs of a node whose inputs are all constants, as ONNX's reference implementation computes them; None
    where it cannot, or where they are large."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    for kind in kinds:
        if kind is None or kind.shape is None or any(extent is None for extent in kind.shape):
            return None
        if np.prod([extent or 0 for extent in kind.shape], dtype=np.int64) > MOST_FOLDED:
            return None
    graph = helper.make_graph(
        [node],
        "constants",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in arrays.items()
        ],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
    )
    try:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, dict(arrays))
    except Exception:
        return None  # the converters are asked then
    outputs = tuple(np.asarray(value) for value in found)
    named = [kind for name, kind in zip(node.output, kinds, strict=True) if name]
    same = len(outputs) == len(named) and all(
        kind is not None and array.shape == kind.shape and array.dtype.name == kind.dtype
        for array, kind in zip(outputs, named, strict=True)
    )
    return outputs if same else None
