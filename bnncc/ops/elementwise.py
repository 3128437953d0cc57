"""The one table of elementwise operations: what each means, and how it is computed.

Read by the layout pass (what follows an image), by the folding of thresholds (what it means), by the passes on signs
(whether it rises), by fusion and epilogues (how it is computed), and by the tests as numpy reference. Adding an
operation that TVM has is an entry here: without `meaning` it is not folded, without `emit` not fused.

Each operation is computed in float32, one rounding an operation, nothing contracted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from bnncc.ops import expressions
from bnncc.ops.binarize import Binarize
from bnncc.ops.standard import PRelu

if TYPE_CHECKING:
    from tvm import relax
    from tvm.tirx import Expr

Floats = npt.NDArray[np.float32]
# Of a call: a tensor, or a number that the call holds beside its tensors.
Operand: TypeAlias = "relax.Expr | float"


def _arguments(call: relax.Call) -> tuple[Operand, ...]:
    return tuple(call.args)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation. Functions take its operands in order, numbers as float32.

    operator: as in `R.<name>`. meaning: in numpy, on float32 tensors that broadcast. emit: as TIR, on vectors of
    `lanes` float32 in registers. operands: how they are read from a call; the first is a tensor. others: what operands
    after the first are: "numbers", "tensors" that broadcast as numpy's do, or one value for each "channel", along an
    axis that the call names. direction: of the operands after the first; for each channel +1 where the value never
    falls as the first operand rises, -1 where it never rises, 0 where it may do both; without it that is not known, or
    the value may be NaN where no operand is. turns: when direction is 0.
    """

    operator: str
    meaning: Callable[..., Floats] | None = None
    emit: Callable[..., Expr] | None = None
    operands: Callable[[relax.Call], tuple[Operand, ...]] = _arguments
    others: Literal["numbers", "tensors", "channel"] = "numbers"
    direction: Callable[..., Floats] | None = None
    turns: str = ""

    @property
    def name(self) -> str:
        """Without its dialect: the key in `OPERATIONS`, and what layers and steps of epilogues call it."""
        return self.operator.rpartition(".")[2]


def find(value: relax.Expr) -> Operation | None:
    """The operation that `value` is a call of, None where it is something else."""
    name = expressions.operator(value)
    found = OPERATIONS.get(name.rpartition(".")[2])
    return found if found is not None and found.operator == name else None


@dataclass(frozen=True)
class PerChannel:
    """A float32 call as a function of one tensor [..., C]; its other operands are constants, one value per channel."""

    call: relax.Call
    operation: Operation
    tensor: relax.Var
    _operands: tuple[Floats | None, ...]  # None stands for the tensor; others are [1] or [C]

    @classmethod
    def match(cls, value: relax.Expr) -> PerChannel | None:
        """`value` read so; None where it is something else."""
        from tvm import relax

        operation = find(value)
        if operation is None or expressions.dtype(value) != "float32":
            return None
        result = expressions.extents(value)
        tensors: list[relax.Var] = []
        operands: list[Floats | None] = []
        for operand in operation.operands(value):
            if isinstance(operand, float):
                operands.append(np.array([operand], np.float32))
            elif expressions.is_constant(operand):
                if not expressions.is_per_channel(operand, result):
                    return None
                operands.append(expressions.array(operand).reshape(-1))
            else:
                tensors.append(operand)
                operands.append(None)
        if len(tensors) != 1 or not isinstance(tensors[0], relax.Var) or not is_last_axis(value):
            return None
        if expressions.dtype(tensors[0]) != "float32" or expressions.extents(tensors[0]) != result:
            return None
        return cls(value, operation, tensors[0], tuple(operands))

    def evaluate(self, values: Floats) -> Floats:
        """What the call gives where its tensor holds `values` [V, C]. The operation must have a meaning."""
        assert self.operation.meaning is not None
        operands = [values if operand is None else operand for operand in self._operands]
        with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
            return np.asarray(self.operation.meaning(*operands), dtype=np.float32)

    def direction(self) -> Floats | None:
        """The operation's `direction`, float32 [1] or [C]; None where it has none or the tensor is not its first
        operand."""
        if self.operation.direction is None or self._operands[0] is not None:
            return None
        others = [operand for operand in self._operands[1:] if operand is not None]
        if not all(np.isfinite(operand).all() for operand in others):
            return None  # an infinity or NaN makes NaN of a number
        return self.operation.direction(*others)


def is_last_axis(call: relax.Call) -> bool:
    """Whether values per channel, where the call has such, are those of its last axis."""
    prelu = PRelu.match(call)
    return prelu is None or prelu.axis % len(expressions.extents(call)) == len(expressions.extents(call)) - 1


# Meanings ---------------------------------------------------------------------------------------------------------


def _prelu(x: Floats, slope: Floats) -> Floats:
    """As ONNX's PRelu and LeakyRelu, onnxruntime's too: 0, -0 and NaN stay what they are."""
    return np.where(x < 0, x * slope, x)


def _binarize(x: Floats, limit: Floats, otherwise: Floats) -> Floats:
    return np.where(np.where(otherwise == 0, x > limit, x >= limit), np.float32(1), otherwise)


# Operands ---------------------------------------------------------------------------------------------------------


def _binarize_operands(call: relax.Call) -> tuple[Operand, ...]:
    """x, a limit, and what is not 1: 0 for bits, which are 1 strictly above the limit, -1 for signs, 1 from it on."""
    sign = Binarize.of(call)
    return (sign.x, sign.threshold, 0.0) if sign.unipolar else (sign.x, 0.0, -1.0)


def _clip_operands(call: relax.Call) -> tuple[Operand, ...]:
    return call.args[0], *(float(limit.value) for limit in call.args[1:3])


# Directions -------------------------------------------------------------------------------------------------------


def _rising(*others: Floats) -> Floats:
    return np.ones(1, np.float32)


def _falling(*others: Floats) -> Floats:
    return -np.ones(1, np.float32)


def _as_sign(factor: Floats) -> Floats:
    return np.where(factor < 0, np.float32(-1), np.float32(1))


def _as_divisor(divisor: Floats) -> Floats:
    return np.where(divisor == 0, np.float32(0), _as_sign(divisor))


def _as_slope(slope: Floats) -> Floats:
    return np.where(slope >= 0, np.float32(1), np.float32(0))


# Emitted as TIR ---------------------------------------------------------------------------------------------------


def _number(value: float, lanes: int) -> Expr:
    from tvm import tirx
    from tvm.tirx.script.builder import ir as T

    number = tirx.const(value, "float32")
    return T.broadcast(number, lanes) if lanes > 1 else number


def _vector(lanes: int) -> str:
    return "float32" if lanes == 1 else f"float32x{lanes}"


def _fence(value: Expr, lanes: int) -> Expr:
    """The value, which nothing is simplified or contracted with."""
    from tvm.tirx.script.builder import ir as T

    return T.call_llvm_pure_intrin(_vector(lanes), "llvm.arithmetic.fence", value)


def _constant(value: Expr) -> float | None:
    """The number in all lanes, None for what is not known before run time."""
    from tvm import tirx

    scalar = value.value if isinstance(value, tirx.Broadcast) else value
    return float(scalar.value) if isinstance(scalar, tirx.FloatImm) else None


def _emit_product(a: Expr, b: Expr, lanes: int) -> Expr:
    """a * b, rounded by itself. Contracted with a following addition it would be rounded once: where the source gives
    exactly 0, the rounding error would decide the sign."""
    if 0 in (_constant(a), _constant(b)):  # TVM takes x * 0 for 0, which it is not for NaN
        a, b = _fence(a, lanes), _fence(b, lanes)
    return _fence(a * b, lanes)


def _emit_difference(a: Expr, b: Expr, lanes: int) -> Expr:
    """TVM takes x - x for 0, which it is not for NaN, and knows many ways to write x."""
    return (a if _constant(a) is not None or _constant(b) is not None else _fence(a, lanes)) - b


def _emit_quotient(a: Expr, b: Expr, lanes: int) -> Expr:
    """TVM takes 0 / x for 0, which it is not for NaN and 0."""
    return (_fence(a, lanes) if _constant(a) == 0 else a) / b


def _emit_maximum(a: Expr, b: Expr, lanes: int) -> Expr:
    from tvm.tirx.script.builder import ir as T

    return _extreme(T.max, a, b, lanes)


def _emit_minimum(a: Expr, b: Expr, lanes: int) -> Expr:
    from tvm.tirx.script.builder import ir as T

    return _extreme(T.min, a, b, lanes)


def _extreme(op: Callable[[Expr, Expr], Expr], a: Expr, b: Expr, lanes: int) -> Expr:
    """The larger or smaller of two, NaN where one is NaN. T.max and T.min give their second operand where the two do
    not compare, so a number comes first; of two tensors the first is looked at."""
    from tvm.tirx.script.builder import ir as T

    for number, other in ((a, b), (b, a)):
        value = _constant(number)
        if value is not None and value == value:
            return op(number, other)
    return T.Select(a == _fence(a, lanes), op(a, b), a)


def _emit_clip(a: Expr, least: Expr, most: Expr, lanes: int) -> Expr:
    return _emit_minimum(_emit_maximum(a, least, lanes), most, lanes)


def _emit_negative(a: Expr, lanes: int) -> Expr:
    return a * _number(-1.0, lanes)


def _emit_abs(a: Expr, lanes: int) -> Expr:
    from tvm.tirx.script.builder import ir as T

    return T.Select(a < _number(0.0, lanes), _emit_negative(a, lanes), a)


def _emit_prelu(a: Expr, slope: Expr, lanes: int) -> Expr:
    from tvm.tirx.script.builder import ir as T

    # Select, not max + min: it keeps a NaN and the sign of zero as the source does.
    return T.Select(a < _number(0.0, lanes), _emit_product(a, slope, lanes), a)


def _emit_binarize(a: Expr, limit: Expr, otherwise: Expr, lanes: int) -> Expr:
    from tvm.tirx.script.builder import ir as T

    return T.Select(a > limit if _constant(otherwise) == 0 else a >= limit, _number(1.0, lanes), otherwise)


def _emit_cast(a: Expr, lanes: int) -> Expr:
    from tvm.tirx.script.builder import ir as T

    return T.cast(a, _vector(lanes))


_COMPUTED = (
    Operation(
        operator="add",
        others="tensors",
        meaning=np.add,
        emit=lambda a, b, lanes: a + b,
        direction=_rising,
    ),
    Operation(
        operator="subtract",
        others="tensors",
        meaning=np.subtract,
        emit=_emit_difference,
        direction=_rising,
    ),
    Operation(operator="multiply", others="tensors", meaning=np.multiply, emit=_emit_product, direction=_as_sign),
    Operation(
        operator="divide",
        others="tensors",
        meaning=np.divide,
        emit=_emit_quotient,
        direction=_as_divisor,
        turns="a division by zero",
    ),
    Operation(operator="maximum", others="tensors", meaning=np.maximum, emit=_emit_maximum, direction=_rising),
    Operation(operator="minimum", others="tensors", meaning=np.minimum, emit=_emit_minimum, direction=_rising),
    Operation(operator="negative", meaning=np.negative, emit=_emit_negative, direction=_falling),
    Operation(operator="abs", meaning=np.abs, emit=_emit_abs),
    Operation(
        operator="nn.relu",
        meaning=lambda x: np.maximum(x, np.float32(0)),
        emit=lambda a, lanes: _emit_maximum(a, _number(0.0, lanes), lanes),
        direction=_rising,
    ),
    Operation(operator="clip", operands=_clip_operands, meaning=np.clip, emit=_emit_clip, direction=_rising),
    Operation(
        operator="nn.prelu",
        others="channel",
        meaning=_prelu,
        emit=_emit_prelu,
        direction=_as_slope,
        turns="a negative slope",
    ),
    Operation(
        operator="nn.leakyrelu",
        operands=lambda call: (call.args[0], float(call.attrs.alpha)),
        meaning=_prelu,
        emit=_emit_prelu,
        direction=_as_slope,
        turns="a negative slope",
    ),
    Operation(
        operator="bnncc.binarize",
        operands=_binarize_operands,
        meaning=_binarize,
        emit=_emit_binarize,
        direction=_rising,
    ),
    # To float32. Of integers it is exact up to 2**24, which accumulators stay below.
    Operation(operator="astype", meaning=lambda x: x.astype(np.float32), emit=_emit_cast, direction=_rising),
)
# Computed by what TVM makes of them; images keep their layout through them.
_FOLLOWED = (
    *(Operation(operator=name) for name in ("nn.gelu", "nn.silu", "sigmoid", "tanh", "exp", "log", "sqrt", "rsqrt")),
    *(Operation(operator=name) for name in ("floor", "ceil", "round", "sign", "erf")),
    *(
        Operation(operator=name, others="tensors")
        for name in ("power", "greater", "greater_equal", "less", "less_equal")
    ),
)
OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in (*_COMPUTED, *_FOLLOWED)}
