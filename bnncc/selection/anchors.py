"""For each operator that anchors a kernel: the kernel with its extents, and what it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

from tvm import relax

from bnncc.kernels.conv2d import Conv2d
from bnncc.kernels.conv2d_int8 import Conv2dInt8
from bnncc.kernels.dense import Dense
from bnncc.kernels.depthwise import DepthwiseConv2d
from bnncc.kernels.elementwise import Elementwise
from bnncc.kernels.global_pool import GlobalPool
from bnncc.kernels.kernel import Array, Kernel
from bnncc.kernels.or_pool2d import OrPool2d
from bnncc.kernels.pack import Pack
from bnncc.kernels.pad_bits import PadBits
from bnncc.kernels.pool2d import Pool2d
from bnncc.kernels.quantize import Quantize, interleaves
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.ops import conv2d_int8 as conv2d_int8_op
from bnncc.ops import or_pool2d as or_pool_op
from bnncc.ops import pad_bits as pad_bits_op
from bnncc.ops import quantize as quantize_op
from bnncc.ops import xnor_conv2d as xnor_op
from bnncc.selection.steps import Bits, Source, bit_layout
from bnncc.tir import epilogue as ep

FLOAT_WEIGHTS = "weights are float32, not packed signs"
INT8_WEIGHTS = "weights are int8, not packed signs"
NO_WEIGHTS = "has no weights"


class Network(Protocol):
    """What an anchor may ask about the values around it."""

    def resolve(self, expression: relax.Expr) -> Source:
        """The name of a value, or a constant."""

    def value(self, expression: relax.Expr) -> str:
        """The name of a value that is no constant."""

    def constant(self, expression: relax.Expr) -> Array:
        """The value of a constant."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The extents of a value."""

    def channels(self, name: str) -> int:
        """The channels that packed bits hold, without those that only fill up words."""

    def before_transpose(self, name: str) -> str | None:
        """The NCHW value that `name` is the NHWC transpose of, if it is one."""


@dataclass(frozen=True)
class Anchor:
    """One kernel before its epilogue is known.

    inputs: names of values, then constants as Relax has them, for the kernel's operands in order. dtype: of the values
    that the epilogue starts from. result: the anchor's value as the epilogue sees it, 0, or bits. why_not: why it is no
    binary layer; "" if it is one.
    """

    kernel: Kernel
    inputs: tuple[str, ...]
    constants: tuple[Array, ...] = ()
    dtype: str = "float32"
    result: int | Bits = 0
    why_not: str = NO_WEIGHTS


def xnor_conv2d(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.xnor_conv2d(b, w, offset, row_class, col_class, ...)."""
    per_bit, window, groups = xnor_op.parameters(call)
    bits = network.value(call.args[0])
    weights, offset, rows, columns = (network.constant(argument) for argument in call.args[1:5])
    _, in_rows, in_width, pixel_bytes = network.shape(bits)
    kernel = XnorConv2d(
        _geometry(call),
        in_rows=in_rows,
        in_width=in_width,
        in_channels=network.channels(bits) // groups,
        group_bytes=pixel_bytes // groups,
        kernel=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
        groups=groups,
        per_bit=per_bit,
        classes=(offset.shape[0], offset.shape[1]),
    )
    return Anchor(kernel, (bits,), (weights, offset, rows, columns), dtype="int32", why_not="")


def conv2d(call: relax.Call, network: Network) -> Anchor:
    """R.nn.conv2d(x, w), NHWC and HWIO. A network's NCHW input is read as it is, not transposed first."""
    data, weights = network.value(call.args[0]), network.constant(call.args[1])
    output = _geometry(call)
    in_channels, groups = network.shape(data)[3], int(call.attrs.groups)
    window = _window(call, network.shape(data), (int(weights.shape[0]), int(weights.shape[1])))
    if groups == in_channels == output.channels and groups > 1:
        return Anchor(DepthwiseConv2d(output, **window), (data,), (weights,), why_not=FLOAT_WEIGHTS)
    planes = network.before_transpose(data)
    kernel = Conv2d(output, in_channels=in_channels, groups=groups, nchw=planes is not None, **window)
    return Anchor(kernel, (planes or data,), (weights,), why_not=FLOAT_WEIGHTS)


def quantize(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.quantize(x, ...). A network's NCHW input is read as it is where the kernel can."""
    data = network.value(call.args[0])
    inverse_scale, zero_point, pads, row, dtype = quantize_op.parameters(call)
    batch, rows, width, channels = network.shape(data)
    planes = network.before_transpose(data) if interleaves(channels) else None
    output = ep.Geometry(batch, rows, width, channels)
    kernel = Quantize(output, pads, row, inverse_scale, zero_point, dtype, nchw=planes is not None)
    return Anchor(kernel, (planes or data,), dtype=dtype)


def conv2d_int8(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.conv2d_int8(q, w, bias, ...)."""
    data, weights, bias = network.value(call.args[0]), network.constant(call.args[1]), network.constant(call.args[2])
    _, window = conv2d_int8_op.parameters(call)
    _, in_rows, row = network.shape(data)
    channels = int(weights.shape[2])
    kernel = Conv2dInt8(_geometry(call), in_rows, row, channels, window.kernel, window.strides, window.dilations)
    return Anchor(kernel, (data,), (weights, bias), dtype="int32", why_not=INT8_WEIGHTS)


def max_pool2d(call: relax.Call, network: Network) -> Anchor:
    """R.nn.max_pool2d, NHWC."""
    data = network.value(call.args[0])
    window = _window(call, network.shape(data), _pair(call.attrs.pool_size))
    return Anchor(Pool2d(_geometry(call), what="max", **window), (data,))


def avg_pool2d(call: relax.Call, network: Network) -> Anchor:
    """R.nn.avg_pool2d, NHWC."""
    data = network.value(call.args[0])
    window = _window(call, network.shape(data), _pair(call.attrs.pool_size))
    if call.attrs.count_include_pad:
        return Anchor(Pool2d(_geometry(call), what="average_with_pads", **window), (data,))
    return Anchor(Pool2d(_geometry(call), what="average", **window), (data,))


def mean(call: relax.Call, network: Network) -> Anchor:
    """R.mean over rows and columns, kept as extents of 1."""
    data = network.value(call.args[0])
    _, in_rows, in_width, _ = network.shape(data)
    return Anchor(GlobalPool(_geometry(call), in_rows, in_width), (data,))


def matmul(call: relax.Call, network: Network) -> Anchor:
    """R.matmul(x [M, K], w [K, N]) of constant weights."""
    data, weights = network.value(call.args[0]), network.constant(call.args[1])
    return Anchor(Dense(_geometry(call), int(weights.shape[0])), (data,), (weights,), why_not=FLOAT_WEIGHTS)


def elementwise(call: relax.Call, network: Network) -> Anchor:
    """The first operand of the first step, loaded from memory."""
    dtype = _dtype(call.args[0])
    return Anchor(Elementwise(_geometry(call.args[0]), dtype), (network.value(call.args[0]),), dtype=dtype)


def packing(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.pack or R.bnncc.threshold into a layout that no epilogue can pack into."""
    data, *tensors = (argument for argument in call.args if isinstance(argument.ty, relax.TensorType))
    limits = tuple(network.constant(argument) for argument in tensors)
    output, dtype = _geometry(data), _dtype(data)
    scalar = None
    if dtype == "float32" and limits[0].size == 1:
        scalar, limits = float(limits[0].reshape(())), ()
    layout = bit_layout(call, output.channels)
    kernel = Pack(output, dtype, scalar)
    return Anchor(kernel, (network.value(data),), limits, dtype="uint8", result=Bits(0, layout))


def or_pool2d(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.or_pool2d(b): the maximum of signs."""
    data = network.value(call.args[0])
    window, output, (_, in_rows, in_width, _) = or_pool_op.parameters(call), _geometry(call), network.shape(data)
    layout = ep.BitLayout(network.channels(data), 1, output.channels)
    kernel = OrPool2d(output, in_rows, in_width, window.kernel, window.strides, window.pads, window.dilations)
    return Anchor(kernel, (data,), dtype="uint8", result=Bits(0, layout))


def pad_bits(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.pad_bits(b) of bits that their kernel could not write with a border."""
    data = network.value(call.args[0])
    pads, pad_bit, channels, groups = pad_bits_op.parameters(call)
    output = _geometry(call.args[0])
    layout = ep.BitLayout(channels, groups, output.channels // groups, pads, pad_bit)
    return Anchor(PadBits(output), (data,), dtype="uint8", result=Bits(0, layout))


def _geometry(tensor: relax.Expr) -> ep.Geometry:
    """The extents of a tensor of rank 4 (NHWC) or 2 ([N, C])."""
    shape = [int(extent) for extent in tensor.ty.shape.values]
    if len(shape) == 4:
        return ep.Geometry(*shape)
    assert len(shape) == 2, f"kernels take tensors of rank 2 and 4, this is {shape}"
    return ep.Geometry(shape[0], 1, 1, shape[1])


def _dtype(tensor: relax.Expr) -> Literal["float32", "int32"]:
    """The type of what an epilogue starts from."""
    return "int32" if str(tensor.ty.dtype) == "int32" else "float32"


class _Window(TypedDict):
    in_rows: int
    in_width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]


def _window(call: relax.Call, data: tuple[int, ...], kernel: tuple[int, int]) -> _Window:
    """The extents that windows of all kinds have, from a call's attributes and its input [N, H, W, C]."""
    top, left, bottom, right = (int(value) for value in call.attrs.padding)
    return {
        "in_rows": data[1],
        "in_width": data[2],
        "kernel": kernel,
        "strides": _pair(call.attrs.strides),
        "pads": (top, left, bottom, right),
        "dilations": _pair(call.attrs.dilation),
    }


def _pair(values: relax.Expr) -> tuple[int, int]:
    first, second = (int(value) for value in values)
    return first, second


# By Relax name. Functions without an anchor are "elementwise", or "packing" where an epilogue cannot pack.
ANCHORS: dict[str, Callable[[relax.Call, Network], Anchor]] = {
    "relax.bnncc.xnor_conv2d": xnor_conv2d,
    "relax.nn.conv2d": conv2d,
    "relax.bnncc.quantize": quantize,
    "relax.bnncc.conv2d_int8": conv2d_int8,
    "relax.nn.max_pool2d": max_pool2d,
    "relax.nn.avg_pool2d": avg_pool2d,
    "relax.mean": mean,
    "relax.matmul": matmul,
    "relax.bnncc.or_pool2d": or_pool2d,
    "relax.bnncc.pad_bits": pad_bits,
    "packing": packing,
    "elementwise": elementwise,
}
