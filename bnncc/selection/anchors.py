"""For each operator that anchors a kernel: its extents, the order of its arguments, its constants as the kernel wants
them, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from tvm import relax, tirx

from bnncc.kernels import conv2d as conv2d_kernel
from bnncc.kernels import conv2d_int8 as conv2d_int8_kernel
from bnncc.kernels import dense as dense_kernel
from bnncc.kernels import depthwise as depthwise_kernel
from bnncc.kernels import elementwise as elementwise_kernel
from bnncc.kernels import global_pool as global_pool_kernel
from bnncc.kernels import or_pool2d as or_pool_kernel
from bnncc.kernels import pack as pack_kernel
from bnncc.kernels import pad_bits as pad_bits_kernel
from bnncc.kernels import pool2d as pool2d_kernel
from bnncc.kernels import quantize as quantize_kernel
from bnncc.kernels import xnor_conv2d as xnor_kernel
from bnncc.ops.conv2d_int8 import Conv2dInt8
from bnncc.ops.or_pool2d import OrPool2d
from bnncc.ops.pad_bits import PadBits
from bnncc.ops.quantize import Quantize
from bnncc.ops.xnor_conv2d import XnorConv2d
from bnncc.selection.steps import Bits, Source, bit_layout, packing_of
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep

FLOAT_WEIGHTS = "weights are float32, not packed signs"
INT8_WEIGHTS = "weights are int8, not packed signs"
NO_WEIGHTS = "has no weights"


class Network(Protocol):
    """What an anchor may ask about the values around it."""

    def resolve(self, expression: Any) -> Source:
        """The name of a value, or a constant."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The extents of a value."""

    def channels(self, name: str) -> int:
        """The channels that packed bits hold, without those that only fill up words."""

    def before_transpose(self, name: str) -> str | None:
        """The NCHW value that `name` is the NHWC transpose of, if it is one."""


@dataclass(frozen=True)
class Anchor:
    """One kernel before its epilogue is known.

    shape: the kernel's own Shape. result: the anchor's value as the epilogue sees it, 0, or bits. workspace: bytes lent
    to the call, the argument after `inputs`, which the kernel that `build_padding` makes fills. macs:
    multiply-accumulates of the source operator, binary or float. dtype: of the values that the epilogue starts from.
    """

    kind: str
    shape: Any
    build: Callable[[Any, ep.Epilogue, Target], tirx.PrimFunc]
    geometry: ep.Geometry
    inputs: tuple[Source, ...]
    macs: int = 0
    dtype: str = "float32"
    result: int | Bits = 0
    workspace: int = 0
    build_padding: Callable[[Any, Target], tirx.PrimFunc] | None = None
    binary: bool = False
    why_not: str = NO_WEIGHTS


def xnor_conv2d(call: Any, network: Network, target: Target) -> Anchor:
    """R.bnncc.xnor_conv2d(b, w, offset, row_class, col_class, ...)."""
    conv = XnorConv2d.of(call)
    window, groups = conv.window, conv.groups
    operands = (conv.bits, conv.weights, conv.offset, conv.row_class, conv.col_class)
    bits, weights, offset, rows, columns = (network.resolve(operand) for operand in operands)
    assert isinstance(bits, str)
    assert isinstance(weights, np.ndarray)
    assert isinstance(offset, np.ndarray)
    output = _geometry(call)
    _, in_rows, in_width, pixel_bytes = network.shape(bits)
    shape = xnor_kernel.Shape(
        output=output,
        in_rows=in_rows,
        in_width=in_width,
        group_bytes=pixel_bytes // groups,
        kernel=window.kernel,
        strides=window.strides,
        dilations=window.dilations,
        groups=groups,
        step=conv.bit_weight,
        classes=(offset.shape[0], offset.shape[1]),
    )
    packed = xnor_kernel.arrange_weights(weights.astype(np.uint8), shape, target)
    return Anchor(
        kind="xnor_conv2d",
        shape=shape,
        build=xnor_kernel.build,
        geometry=output,
        inputs=(bits, packed, offset, rows, columns),
        macs=_outputs(output) * weights.shape[1] * network.channels(bits) // groups,
        dtype="int32",
        binary=True,
        why_not="",
    )


def conv2d(call: Any, network: Network, target: Target) -> Anchor:
    """R.nn.conv2d(x, w), NHWC and HWIO. A network's NCHW input is read as it is, not transposed first."""
    data, weights = network.resolve(call.args[0]), network.resolve(call.args[1])
    assert isinstance(data, str)
    assert isinstance(weights, np.ndarray)
    output = _geometry(call)
    in_channels, groups = network.shape(data)[3], int(call.attrs.groups)
    window = _window(call, network.shape(data), (int(weights.shape[0]), int(weights.shape[1])))
    macs = _outputs(output) * int(np.prod(weights.shape[:3]))
    if groups == in_channels == output.channels and groups > 1:
        return Anchor(
            kind="depthwise_conv2d",
            shape=depthwise_kernel.Shape(output=output, **window),
            build=depthwise_kernel.build,
            geometry=output,
            inputs=(data, depthwise_kernel.arrange_weights(weights.astype(np.float32), target)),
            macs=macs,
            why_not=FLOAT_WEIGHTS,
        )
    planes = network.before_transpose(data)
    shape = conv2d_kernel.Shape(
        output=output, in_channels=in_channels, groups=groups, nchw=planes is not None, **window
    )
    return Anchor(
        kind="conv2d",
        shape=shape,
        build=conv2d_kernel.build,
        geometry=output,
        inputs=(planes or data, conv2d_kernel.arrange_weights(weights.astype(np.float32), groups, target)),
        macs=macs,
        workspace=conv2d_kernel.workspace_bytes(shape, target),
        build_padding=conv2d_kernel.build_padding,
        why_not=FLOAT_WEIGHTS,
    )


def quantize(call: Any, network: Network, target: Target) -> Anchor:
    """R.bnncc.quantize(x, ...). A network's NCHW input is read as it is where the kernel can."""
    data = network.resolve(call.args[0])
    assert isinstance(data, str)
    op = Quantize.of(call)
    dtype = op.dtype
    batch, rows, width, channels = network.shape(data)
    planes = network.before_transpose(data) if quantize_kernel.interleaves(channels) else None
    shape = quantize_kernel.Shape(
        batch,
        rows,
        width,
        channels,
        op.pads,
        op.row_elements,
        op.inverse_scale,
        op.zero_point,
        dtype,
        nchw=planes is not None,
    )
    output = ep.Geometry(batch, rows, width, channels)
    return Anchor(
        kind="quantize",
        shape=shape,
        build=lambda shape, _, target: quantize_kernel.build(shape, target),
        geometry=output,
        inputs=(planes or data,),
        dtype=dtype,
    )


def conv2d_int8(call: Any, network: Network, target: Target) -> Anchor:
    """R.bnncc.conv2d_int8(q, w, bias, ...)."""
    data, weights, bias = (network.resolve(argument) for argument in call.args[:3])
    assert isinstance(data, str)
    assert isinstance(weights, np.ndarray)
    assert isinstance(bias, np.ndarray)
    window = Conv2dInt8.of(call).window
    output, (_, in_rows, row) = _geometry(call), network.shape(data)
    shape = conv2d_int8_kernel.Shape(
        output, in_rows, row, int(weights.shape[2]), window.kernel, window.strides, window.dilations
    )
    arranged = conv2d_int8_kernel.arrange_weights(weights.astype(np.int8), bias.astype(np.int32), shape, target)
    return Anchor(
        kind="conv2d_int8",
        shape=shape,
        build=conv2d_int8_kernel.build,
        geometry=output,
        inputs=(data, *arranged),
        macs=_outputs(output) * int(np.prod(weights.shape[:3])),
        dtype="int32",
        why_not=INT8_WEIGHTS,
    )


def pool2d(call: Any, network: Network, target: Target) -> Anchor:
    """R.nn.max_pool2d and R.nn.avg_pool2d, NHWC."""
    data = network.resolve(call.args[0])
    assert isinstance(data, str)
    output = _geometry(call)
    kind = "max"
    if call.op.name == "relax.nn.avg_pool2d":
        kind = "average_with_pads" if call.attrs.count_include_pad else "average"
    window = _window(call, network.shape(data), _pair(call.attrs.pool_size))
    shape = pool2d_kernel.Shape(output=output, kind=kind, **window)
    name = call.op.name.removeprefix("relax.nn.")
    return Anchor(kind=name, shape=shape, build=pool2d_kernel.build, geometry=output, inputs=(data,))


def mean(call: Any, network: Network, target: Target) -> Anchor:
    """R.mean over rows and columns, kept as extents of 1."""
    data = network.resolve(call.args[0])
    assert isinstance(data, str)
    output = _geometry(call)
    _, in_rows, in_width, _ = network.shape(data)
    shape = global_pool_kernel.Shape(output, in_rows, in_width)
    return Anchor(kind="mean", shape=shape, build=global_pool_kernel.build, geometry=output, inputs=(data,))


def matmul(call: Any, network: Network, target: Target) -> Anchor:
    """R.matmul(x [M, K], w [K, N]) of constant weights."""
    data, weights = network.resolve(call.args[0]), network.resolve(call.args[1])
    assert isinstance(data, str)
    assert isinstance(weights, np.ndarray)
    output = _geometry(call)
    return Anchor(
        kind="dense",
        shape=dense_kernel.Shape(output, int(weights.shape[0])),
        build=dense_kernel.build,
        geometry=output,
        inputs=(data, dense_kernel.arrange_weights(weights.astype(np.float32), target)),
        macs=output.batch * int(np.prod(weights.shape)),
        why_not=FLOAT_WEIGHTS,
    )


def elementwise(call: Any, network: Network, target: Target) -> Anchor:
    """The first operand of the first step, loaded from memory."""
    data = network.resolve(call.args[0])
    assert isinstance(data, str)
    dtype = str(call.args[0].ty.dtype)
    output = _geometry(call.args[0])
    shape = elementwise_kernel.Shape(output, dtype)
    return Anchor(
        kind="elementwise", shape=shape, build=elementwise_kernel.build, geometry=output, inputs=(data,), dtype=dtype
    )


def packing(call: Any, network: Network, target: Target) -> Anchor:
    """R.bnncc.pack or R.bnncc.threshold into a layout that no epilogue can pack into."""
    data, *limits = (network.resolve(argument) for argument in call.args if isinstance(argument.ty, relax.TensorType))
    assert isinstance(data, str)
    output, dtype = _geometry(call.args[0]), str(call.args[0].ty.dtype)
    scalar, limit = None, limits[0]
    if dtype == "float32" and isinstance(limit, np.ndarray) and limit.size == 1:
        scalar, limits = float(limit.reshape(())), []
    packing = packing_of(call)
    assert packing is not None
    layout = bit_layout(packing, output.channels)
    return Anchor(
        kind="pack",
        shape=pack_kernel.Shape(output, layout, dtype, scalar),
        build=_build_bits(pack_kernel),
        geometry=output,
        inputs=(data, *limits),
        dtype="uint8",
        result=Bits(0, layout),
    )


def or_pool2d(call: Any, network: Network, target: Target) -> Anchor:
    """R.bnncc.or_pool2d(b): the maximum of signs."""
    data = network.resolve(call.args[0])
    assert isinstance(data, str)
    window, output, shape = OrPool2d.of(call).window, _geometry(call), network.shape(data)
    layout = ep.BitLayout(network.channels(data), 1, output.channels)
    return Anchor(
        kind="or_pool2d",
        shape=or_pool_kernel.Shape(
            output=output,
            in_rows=shape[1],
            in_width=shape[2],
            kernel=window.kernel,
            strides=window.strides,
            pads=window.pads,
            dilations=window.dilations,
            bits=layout,
        ),
        build=_build_bits(or_pool_kernel),
        geometry=output,
        inputs=(data,),
        dtype="uint8",
        result=Bits(0, layout),
    )


def pad_bits(call: Any, network: Network, target: Target) -> Anchor:
    """R.bnncc.pad_bits(b) of bits that their kernel could not write with a border."""
    data = network.resolve(call.args[0])
    assert isinstance(data, str)
    op = PadBits.of(call)
    groups = op.groups
    output = _geometry(call.args[0])
    layout = ep.BitLayout(op.channels, groups, output.channels // groups, op.pads, op.pad_bit)
    return Anchor(
        kind="pad_bits",
        shape=pad_bits_kernel.Shape(output, layout),
        build=_build_bits(pad_bits_kernel),
        geometry=output,
        inputs=(data,),
        dtype="uint8",
        result=Bits(0, layout),
    )


def _build_bits(kernel: Any) -> Callable[[Any, ep.Epilogue, Target], tirx.PrimFunc]:
    """For kernels of bits alone: all they have to know of the epilogue is where the bits go."""
    return lambda shape, epilogue, target: kernel.build(replace(shape, bits=epilogue.outputs[0].bits), target)


def _geometry(tensor: Any) -> ep.Geometry:
    """The extents of a tensor of rank 4 (NHWC) or 2 ([N, C])."""
    shape = [int(extent) for extent in tensor.ty.shape.values]
    if len(shape) == 4:
        return ep.Geometry(*shape)
    assert len(shape) == 2, f"kernels take tensors of rank 2 and 4, this is {shape}"
    return ep.Geometry(shape[0], 1, 1, shape[1])


def _outputs(output: ep.Geometry) -> int:
    return output.batch * output.rows * output.width * output.channels


def _window(call: Any, data: tuple[int, ...], kernel: tuple[int, int]) -> dict[str, Any]:
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


def _pair(values: Any) -> tuple[int, int]:
    first, second = (int(value) for value in values)
    return first, second


# By Relax name. Functions without an anchor are "elementwise", or "packing" where an epilogue cannot pack.
ANCHORS: dict[str, Callable[[Any, Network, Target], Anchor]] = {
    "relax.bnncc.xnor_conv2d": xnor_conv2d,
    "relax.nn.conv2d": conv2d,
    "relax.bnncc.quantize": quantize,
    "relax.bnncc.conv2d_int8": conv2d_int8,
    "relax.nn.max_pool2d": pool2d,
    "relax.nn.avg_pool2d": pool2d,
    "relax.mean": mean,
    "relax.matmul": matmul,
    "relax.bnncc.or_pool2d": or_pool2d,
    "relax.bnncc.pad_bits": pad_bits,
    "packing": packing,
    "elementwise": elementwise,
}
