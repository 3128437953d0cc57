"""TVM's operators as typed views: those that passes and kernel selection read. Numbers of elementwise operators are
read by their table, bnncc/ops/elementwise.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from bnncc.ops import expressions
from bnncc.ops.expressions import View, extents, ints, pads, pair
from bnncc.ops.window import Window

if TYPE_CHECKING:
    import tvm
    from tvm import relax

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)  # axes of permute_dims, from the other order


@dataclass(frozen=True, eq=False)
class Conv2d(View):
    """nn.conv2d. The window's kernel is read from the weights, which lie as `kernel_layout` says."""

    OPERATOR: ClassVar[str] = "nn.conv2d"

    x: relax.Expr
    weights: relax.Expr
    window: Window
    groups: int
    data_layout: str
    kernel_layout: str

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        attrs = call.attrs
        layout, shape = str(attrs.kernel_layout), extents(call.args[1])
        window = Window(
            kernel=(shape[layout.index("H")], shape[layout.index("W")]),
            strides=pair(attrs.strides),
            pads=pads(attrs.padding),
            dilations=pair(attrs.dilation),
        )
        return cls(call, call.args[0], call.args[1], window, int(attrs.groups), str(attrs.data_layout), layout)


@dataclass(frozen=True, eq=False)
class Pool2d(View):
    """What nn.max_pool2d and nn.avg_pool2d have in common."""

    x: relax.Expr
    window: Window
    layout: str
    ceil_mode: bool
    count_include_pad: bool

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        attrs = call.attrs
        window = Window(
            kernel=pair(attrs.pool_size),
            strides=pair(attrs.strides),
            pads=pads(attrs.padding),
            dilations=pair(attrs.dilation),
        )
        return cls(call, call.args[0], window, str(attrs.layout), bool(attrs.ceil_mode), bool(attrs.count_include_pad))


class MaxPool2d(Pool2d):
    """nn.max_pool2d."""

    OPERATOR: ClassVar[str] = "nn.max_pool2d"


class AvgPool2d(Pool2d):
    """nn.avg_pool2d."""

    OPERATOR: ClassVar[str] = "nn.avg_pool2d"


@dataclass(frozen=True, eq=False)
class Mean(View):
    """mean; no axes means all of them."""

    OPERATOR: ClassVar[str] = "mean"

    x: relax.Expr
    axes: tuple[int, ...]
    keepdims: bool

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        return cls(call, call.args[0], ints(call.attrs.axis), bool(call.attrs.keepdims))


@dataclass(frozen=True, eq=False)
class Matmul(View):
    """matmul: x [M, K], weights [K, N]."""

    OPERATOR: ClassVar[str] = "matmul"

    x: relax.Expr
    weights: relax.Expr

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        return cls(call, call.args[0], call.args[1])


@dataclass(frozen=True, eq=False)
class PermuteDims(View):
    """permute_dims; no axes means the reverse order."""

    OPERATOR: ClassVar[str] = "permute_dims"

    x: relax.Expr
    axes: tuple[int, ...]

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        return cls(call, call.args[0], ints(call.attrs.axes))


@dataclass(frozen=True, eq=False)
class Reshape(View):
    """reshape."""

    OPERATOR: ClassVar[str] = "reshape"

    x: relax.Expr
    shape: tuple[int, ...]

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        return cls(call, call.args[0], ints(call.args[1]))


@dataclass(frozen=True, eq=False)
class BatchNorm(View):
    """nn.batch_norm. `scale` and `center` say whether gamma and beta are used."""

    OPERATOR: ClassVar[str] = "nn.batch_norm"

    x: relax.Expr
    gamma: relax.Expr
    beta: relax.Expr
    mean: relax.Expr
    variance: relax.Expr
    axis: int
    epsilon: float
    scale: bool
    center: bool
    training: bool

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        attrs = call.attrs
        x, gamma, beta, mean, variance = call.args
        return cls(
            call,
            x,
            gamma,
            beta,
            mean,
            variance,
            axis=int(attrs.axis),
            epsilon=float(attrs.epsilon),
            scale=bool(attrs.scale),
            center=bool(attrs.center),
            training=bool(attrs.training),
        )


@dataclass(frozen=True, eq=False)
class Concat(View):
    """concat of a tuple's fields; none where the tuple is a variable. No axis means flattened."""

    OPERATOR: ClassVar[str] = "concat"

    fields: tuple[relax.Expr, ...]
    axis: int | None

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        axis = call.attrs.axis
        return cls(call, tuple(getattr(call.args[0], "fields", ())), None if axis is None else int(axis))


@dataclass(frozen=True, eq=False)
class Multiply(View):
    """multiply."""

    OPERATOR: ClassVar[str] = "multiply"

    a: relax.Expr
    b: relax.Expr

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        return cls(call, call.args[0], call.args[1])


class Add(Multiply):
    """add."""

    OPERATOR: ClassVar[str] = "add"


@dataclass(frozen=True, eq=False)
class PRelu(View):
    """nn.prelu: slope [C] along `axis`."""

    OPERATOR: ClassVar[str] = "nn.prelu"

    x: relax.Expr
    slope: relax.Expr
    axis: int

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        return cls(call, call.args[0], call.args[1], int(call.attrs.axis))


@dataclass(frozen=True, eq=False)
class Astype(View):
    """astype: from the type `source` to the type `target`."""

    OPERATOR: ClassVar[str] = "astype"

    x: relax.Expr
    source: str
    target: str

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        return cls(call, call.args[0], expressions.dtype(call.args[0]), str(call.attrs.dtype))


@dataclass(frozen=True, eq=False)
class CallTir(View):
    """call_tir: a function of the module on tensors, with the result's type given."""

    OPERATOR: ClassVar[str] = "call_tir"

    function: tvm.ir.GlobalVar
    tensors: tuple[relax.Expr, ...]

    @classmethod
    def of(cls, call: relax.Call) -> Self:
        return cls(call, call.args[0], tuple(call.args[1].fields))
