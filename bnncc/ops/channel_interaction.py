"""ChannelInteraction: each step adds a whole number to a student channel where a teacher channel reaches a threshold.

    y[s] = acc[s] + sum over up:   delta * (acc[t] >= threshold)
                  + sum over down: delta * (acc[t] <= threshold)

at every pixel. All comparisons read acc, never y (a snapshot), so the order of rows does not matter; several of these
operators in a row are sequential interactions. It is the interacted bitcount of CI-BCNN (Wang et al., CVPR 2019), with
the step functions written out as tables.

acc: float32 [N, C, ...] of whole numbers, what BinaryConv and BinaryGemm give; y has its shape. up, down: int32
[steps, 4], weights of the file; a row is (teacher t, student s, threshold, delta). No row may have t = s, either table
may have no rows, and `why_not` gives the bounds within which everything is exact in float32.

Relax: `R.bnncc.channel_interaction(acc, up, down)`, channels innermost, [..., C] of float32 or int32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments
from bnncc.ops.expressions import View, array, is_constant

if TYPE_CHECKING:
    import onnx
    import tvm
    from tvm import relax, te

    from bnncc.ops.arguments import Tensor

NAME = "ChannelInteraction"
RELAX = "relax.bnncc.channel_interaction"

COLUMNS = 4  # of a row: teacher, student, threshold, delta
MOST_STEPS = 1 << 16  # rows of one table
MOST_THRESHOLD = 1 << 24  # in magnitude; float32 holds all whole numbers up to it
MOST_CHANGE = 1 << 23  # sum of |delta| over all steps of one student


def meaning(acc: npt.NDArray[Any], up: npt.NDArray[np.int32], down: npt.NDArray[np.int32]) -> npt.NDArray[Any]:
    """The specification: float32 or int32 [N, C, ...], int32 [steps, 4], int32 [steps, 4] -> as acc."""
    change = np.zeros(acc.shape, np.int64)
    for teacher, student, threshold, delta in up:
        change[:, student] += delta * (acc[:, teacher] >= threshold)
    for teacher, student, threshold, delta in down:
        change[:, student] += delta * (acc[:, teacher] <= threshold)
    y: npt.NDArray[Any] = acc + change.astype(acc.dtype)
    return y


def why_not(up: npt.NDArray[Any], down: npt.NDArray[Any], channels: int) -> str:
    """What is wrong with two tables for so many channels, in one line; "" if nothing is."""
    for name, table in (("up", up), ("down", down)):
        if table.ndim != 2 or table.shape[1] != COLUMNS or table.dtype != np.int32:
            return f"{name} is {table.dtype} {table.shape}; it must be int32 (steps, {COLUMNS})"
        if len(table) > MOST_STEPS:
            return f"{name} has {len(table)} steps, allowed: {MOST_STEPS}"
        teacher, student, threshold, _ = table.T.astype(np.int64)
        for what, values, low, high in (
            ("teacher", teacher, 0, channels - 1),
            ("student", student, 0, channels - 1),
            ("threshold", threshold, -MOST_THRESHOLD, MOST_THRESHOLD),
        ):
            wrong = np.flatnonzero((values < low) | (values > high))
            if wrong.size:
                return f"row {wrong[0]} of {name} has {what} {values[wrong[0]]}, allowed: {low} to {high}"
        same = np.flatnonzero(teacher == student)
        if same.size:
            return f"row {same[0]} of {name} has channel {teacher[same[0]]} as its own teacher; drop it"
    change = changes(up, down, channels)
    if change.max(initial=0) > MOST_CHANGE:
        return f"the steps of student {change.argmax()} add up to {change.max()}, allowed: {MOST_CHANGE}"
    return ""


def changes(up: npt.NDArray[np.int32], down: npt.NDArray[np.int32], channels: int) -> npt.NDArray[np.int64]:
    """The most that each channel can change by, in magnitude: int64 [C]."""
    most = np.zeros(channels, np.int64)
    for table in (up, down):
        np.add.at(most, table[:, 1], np.abs(table[:, 3].astype(np.int64)))
    return most


def function() -> onnx.FunctionProto:
    """The ONNX body: comparisons of the gathered teachers, times a matrix [C, steps] that a runtime makes at load."""
    import onnx.parser

    return onnx.parser.parse_function(f"""
        <domain: "bnncc", opset_import: ["" : 18]>
        ChannelInteraction (acc, up, down) => (y)
        {{
            shape = Shape (acc)
            channels = Shape <start: int = 1, end: int = 2> (acc)
            rows = Constant <value_ints: ints = [0, 0, -1]> ()
            flat = Reshape (acc, rows)
            off_on = Constant <value = float[2] {{0.0, 1.0}}> ()
            last = Constant <value_ints: ints = [1]> ()
            one_more = Constant <value_ints: ints = [0, 0, 1, 0]> ()
            {_BODY_OF_A_TABLE.format(table="up", compare="GreaterOrEqual")}
            {_BODY_OF_A_TABLE.format(table="down", compare="LessOrEqual")}
            change = Add (up_change, down_change)
            sums = Add (flat, change)
            y = Reshape (sums, shape)
        }}
    """)


# A row of zeros more changes nothing, and no runtime has to multiply matrices of no columns.
_BODY_OF_A_TABLE = """
            {table}_rows = Pad ({table}, one_more)
            {table}_0 = Constant <value = int64 {{0}}> ()
            {table}_1 = Constant <value = int64 {{1}}> ()
            {table}_2 = Constant <value = int64 {{2}}> ()
            {table}_3 = Constant <value = int64 {{3}}> ()
            {table}_teacher = Gather <axis: int = 1> ({table}_rows, {table}_0)
            {table}_student = Gather <axis: int = 1> ({table}_rows, {table}_1)
            {table}_limit = Gather <axis: int = 1> ({table}_rows, {table}_2)
            {table}_delta = Gather <axis: int = 1> ({table}_rows, {table}_3)
            {table}_limits = Cast <to: int = 1> ({table}_limit)
            {table}_column = Unsqueeze ({table}_limits, last)
            {table}_read = Gather <axis: int = 1> (flat, {table}_teacher)
            {table}_reached = {compare} ({table}_read, {table}_column)
            {table}_steps = Cast <to: int = 1> ({table}_reached)
            {table}_students = Cast <to: int = 7> ({table}_student)
            {table}_of = OneHot <axis: int = 0> ({table}_students, channels, off_on)
            {table}_deltas = Cast <to: int = 1> ({table}_delta)
            {table}_matrix = Mul ({table}_of, {table}_deltas)
            {table}_change = MatMul ({table}_matrix, {table}_steps)
"""


def schema() -> onnx.defs.OpSchema:
    """The ONNX signature, for tools that know the operator itself."""
    from onnx import defs

    schema = defs.OpSchema(
        NAME,
        "bnncc",
        1,
        doc=__doc__ or "",
        inputs=[
            defs.OpSchema.FormalParameter("acc", "tensor(float)"),
            defs.OpSchema.FormalParameter("up", "tensor(int32)"),
            defs.OpSchema.FormalParameter("down", "tensor(int32)"),
        ],
        outputs=[defs.OpSchema.FormalParameter("y", "tensor(float)")],
    )
    schema.set_type_and_shape_inference_function(lambda ctx: ctx.set_output_type(0, ctx.get_input_type(0)))
    return schema


@dataclass(frozen=True, eq=False)
class ChannelInteraction(View):
    """One call."""

    OPERATOR: ClassVar[str] = "bnncc.channel_interaction"

    acc: relax.Expr
    up: relax.Expr
    down: relax.Expr

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        return cls(call, *call.args)


def call(acc: relax.Expr, up: Tensor, down: Tensor, span: tvm.ir.Span | None = None) -> relax.Call:
    """The Relax call; tables may be numpy's or Relax's."""
    tables = [arguments.constant(table, "int32") for table in (up, down)]
    return arguments.make(RELAX, [acc, *tables], span)


def infer(call: relax.Call, context: relax.BlockBuilder) -> relax.TensorType:
    """FInferType."""
    op = ChannelInteraction.of(call)
    kind = "int32" if str(getattr(op.acc.ty, "dtype", "")) == "int32" else "float32"
    shape = arguments.static_shape(RELAX, "acc", op.acc, None, kind)
    arguments.require(len(shape) > 1, RELAX, f"acc has shape {shape}; it must have channels behind another axis")
    for name, table in (("up", op.up), ("down", op.down)):
        found = arguments.static_shape(RELAX, name, table, 2, "int32")
        arguments.require(found[1] == COLUMNS, RELAX, f"{name} has shape {found}, needed: (steps, {COLUMNS})")
    if is_constant(op.up) and is_constant(op.down):
        reason = why_not(array(op.up), array(op.down), shape[-1])
        arguments.require(not reason, RELAX, reason)
    return arguments.tensor_type(shape, kind)


def lower(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """FLegalize."""
    from tvm import te, tirx

    op = ChannelInteraction.of(call)
    kind = str(op.acc.ty.dtype)

    def compute(acc: te.Tensor, up: te.Tensor, down: te.Tensor) -> te.Tensor:
        def change(table: te.Tensor, name: str) -> te.Tensor | None:
            if int(table.shape[0]) == 0:
                return None
            step = te.reduce_axis((0, table.shape[0]), name=f"{name}_step")

            def total(*at: tirx.Var) -> relax.Expr:
                value = acc(*at[:-1], table[step, 0])
                limit, delta = (table[step, column].astype(kind) for column in (2, 3))
                reached = value >= limit if name == "up" else value <= limit
                is_student = table[step, 1] == at[-1].astype("int32")
                return te.sum(tirx.Select(tirx.all(is_student, reached), delta, tirx.const(0, kind)), axis=step)

            return te.compute(acc.shape, total, name=name)

        found = [made for made in (change(up, "up"), change(down, "down")) if made is not None]
        return te.compute(acc.shape, lambda *at: sum((made(*at) for made in found), acc(*at)), name="interacted")

    return builder.call_te(compute, *call.args, primfunc_name_hint="channel_interaction")
