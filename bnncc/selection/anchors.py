"""For each operator that anchors a kernel: the kernel with its extents, and what it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict, cast

import numpy as np
from tvm import relax

from bnncc import bitpack
from bnncc.kernels.conv2d import Conv2d
from bnncc.kernels.conv2d_int8 import Conv2dInt8
from bnncc.kernels.dense import Dense
from bnncc.kernels.depthwise import DepthwiseConv2d
from bnncc.kernels.elementwise import Elementwise
from bnncc.kernels.global_pool import GlobalPool
from bnncc.kernels.interacted_conv2d import InteractedConv2d, capacity
from bnncc.kernels.kernel import Array, Kernel
from bnncc.kernels.or_pool2d import OrPool2d
from bnncc.kernels.pack import Pack
from bnncc.kernels.pad_bits import PadBits
from bnncc.kernels.pool2d import Pool2d
from bnncc.kernels.quantize import Quantize, interleaves
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.ops import circulant_expand, standard
from bnncc.ops.channel_interaction import ChannelInteraction
from bnncc.ops.conv2d_int8 import Conv2dInt8 as Conv2dInt8Call
from bnncc.ops.expressions import dtype, extents, operator
from bnncc.ops.or_pool2d import OrPool2d as OrPool2dCall
from bnncc.ops.pack import Pack as PackCall
from bnncc.ops.pad_bits import PadBits as PadBitsCall
from bnncc.ops.quantize import Quantize as QuantizeCall
from bnncc.ops.threshold import Threshold as ThresholdCall
from bnncc.ops.window import Window
from bnncc.ops.xnor_conv2d import XnorConv2d as XnorConv2dCall
from bnncc.selection import circulant
from bnncc.selection.steps import Bits, Source, bit_layout
from bnncc.targets.target import Target
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

    @property
    def target(self) -> Target:
        """What is compiled for."""

    def channels(self, name: str) -> int:
        """The channels that packed bits hold, without those that only fill up words."""

    def layout(self, name: str) -> ep.BitLayout | None:
        """How packed bits lie, as far as that is known."""

    def refuse(self, reason: str) -> None:
        """Note why the layer is not computed as one might expect."""

    def before_transpose(self, name: str) -> str | None:
        """The NCHW value that `name` is the NHWC transpose of, if it is one."""


@dataclass(frozen=True)
class Anchor:
    """One kernel before its epilogue is known.

    inputs: names of values, then constants as Relax has them, for the kernel's operands in order. dtype: of the values
    that the epilogue starts from. result: the anchor's value as the epilogue sees it, 0, or bits; where several calls
    are one kernel, they are values 0, 1, ... why_not: why it is no binary layer; "" if it is one. fused: source
    operators that the kernel does before its own. before: a kernel that runs first, on the same inputs, and its
    constants; `kernel` reads what it gives in their place.
    """

    kernel: Kernel
    inputs: tuple[str, ...]
    constants: tuple[Array, ...] = ()
    dtype: str = "float32"
    result: int | Bits = 0
    why_not: str = NO_WEIGHTS
    fused: tuple[str, ...] = ()
    before: tuple[Kernel, tuple[Array, ...]] | None = None


def xnor_conv2d(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.xnor_conv2d(b, w, offset, row_class, col_class, ...)."""
    conv, anchor = _xnor_conv2d(call, network)
    return _circulant(anchor, conv, network) or anchor


def _xnor_conv2d(call: relax.Call, network: Network) -> tuple[XnorConv2d, Anchor]:
    """Whatever its weights are."""
    conv = XnorConv2dCall.of(call)
    bits, window, groups = network.value(conv.bits), conv.window, conv.groups
    tables = (conv.weights, conv.offset, conv.row_class, conv.col_class)
    weights, offset, rows, columns = (network.constant(table) for table in tables)
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
        bit_weight=conv.bit_weight,
        classes=(offset.shape[0], offset.shape[1]),
    )
    return kernel, Anchor(kernel, (bits,), (weights, offset, rows, columns), dtype="int32", why_not="")


def _circulant(anchor: Anchor, conv: XnorConv2d, network: Network) -> Anchor | None:
    """The same convolution if its weights are circulant and a kernel computes that."""
    weights, *tables = anchor.constants
    base = circulant_expand.compress(bitpack.unpack(weights.astype(np.uint8), conv.in_channels))
    if base is None:
        return None
    try:
        if base.mixing == "oriented":
            oriented, filters = circulant.oriented(conv, base, network.target)
            return dataclasses.replace(
                anchor, kernel=oriented, constants=(filters, *tables), fused=("circulant_expand",)
            )
        offset, rows, columns = (table.astype(np.int32) for table in tables)
        layout = network.layout(anchor.inputs[0])
        counts, filters, total, constants = circulant.shared(
            conv, base, (offset, rows, columns), layout, network.target
        )
    except circulant.Refused as refused:
        network.refuse(f"circulant weights are stored expanded: {refused}")
        return None
    return dataclasses.replace(
        anchor, kernel=total, constants=constants, fused=("circulant_expand",), before=(counts, (filters,))
    )


def interacted(call: relax.Call, interactions: Sequence[relax.Call], network: Network) -> Anchor:
    """R.bnncc.xnor_conv2d, and R.bnncc.channel_interaction of its accumulators, several in a row."""
    conv, anchor = _xnor_conv2d(call, network)
    calls = [ChannelInteraction.of(interaction) for interaction in interactions]
    tables = [network.constant(table).astype(np.int32) for each in calls for table in (each.up, each.down)]
    rounds = list(zip(tables[::2], tables[1::2], strict=True))
    room = capacity(rounds, anchor.constants[1], conv.bit_weight * 8 * conv.filter_bytes)
    fields = {field.name: getattr(conv, field.name) for field in dataclasses.fields(conv)}
    return dataclasses.replace(
        anchor, kernel=InteractedConv2d(**fields, capacity=room), constants=(*anchor.constants, *tables)
    )


def merged(calls: Sequence[relax.Call], network: Network) -> Anchor:
    """Several R.bnncc.xnor_conv2d of one input, window and extents, as one kernel."""
    parts = [_xnor_conv2d(call, network)[1] for call in calls]
    weights, offsets, _, _ = zip(*(part.constants for part in parts), strict=True)
    most = max(parts, key=lambda part: cast(XnorConv2d, part.kernel).classes)
    kernel = cast(XnorConv2d, most.kernel)
    # One without border classes has the same offsets in all of them.
    offset = np.concatenate([np.broadcast_to(o, (*kernel.classes, o.shape[2])) for o in offsets], axis=2)
    constants = (np.concatenate(weights), offset, *most.constants[2:])
    return dataclasses.replace(most, kernel=dataclasses.replace(kernel, parts=len(parts)), constants=constants)


def conv2d(call: relax.Call, network: Network) -> Anchor:
    """R.nn.conv2d(x, w), NHWC and HWIO. A network's NCHW input is read as it is, not transposed first."""
    conv = standard.Conv2d.of(call)
    data, weights = network.value(conv.x), network.constant(conv.weights)
    output, groups, in_channels = _geometry(call), conv.groups, network.shape(data)[3]
    kernel_size = (int(weights.shape[0]), int(weights.shape[1]))
    window = _window(conv.window, network.shape(data), kernel_size)
    if groups == in_channels == output.channels and groups > 1:
        return Anchor(DepthwiseConv2d(output, **window), (data,), (weights,), why_not=FLOAT_WEIGHTS)
    planes = network.before_transpose(data)
    kernel = Conv2d(output, in_channels=in_channels, groups=groups, nchw=planes is not None, **window)
    return Anchor(kernel, (planes or data,), (weights,), why_not=FLOAT_WEIGHTS)


def quantize(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.quantize(x, ...). A network's NCHW input is read as it is where the kernel can."""
    op = QuantizeCall.of(call)
    data = network.value(op.x)
    batch, rows, width, channels = network.shape(data)
    planes = network.before_transpose(data) if interleaves(channels) else None
    output, nchw = ep.Geometry(batch, rows, width, channels), planes is not None
    kernel = Quantize(output, op.pads, op.row_elements, op.inverse_scale, op.zero_point, op.dtype, nchw)
    return Anchor(kernel, (planes or data,), dtype=op.dtype)


def conv2d_int8(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.conv2d_int8(q, w, bias, ...)."""
    conv = Conv2dInt8Call.of(call)
    data, weights, window = network.value(conv.integers), network.constant(conv.weights), conv.window
    _, in_rows, row_elements = network.shape(data)
    channels = int(weights.shape[2])
    kernel = Conv2dInt8(
        _geometry(call), in_rows, row_elements, channels, window.kernel, window.strides, window.dilations
    )
    constants = (weights, network.constant(conv.bias))
    return Anchor(kernel, (data,), constants, dtype="int32", why_not=INT8_WEIGHTS)


def max_pool2d(call: relax.Call, network: Network) -> Anchor:
    """R.nn.max_pool2d, NHWC."""
    pool = standard.MaxPool2d.of(call)
    data = network.value(pool.x)
    window = _window(pool.window, network.shape(data), pool.window.kernel)
    return Anchor(Pool2d(_geometry(call), what="max", **window), (data,))


def avg_pool2d(call: relax.Call, network: Network) -> Anchor:
    """R.nn.avg_pool2d, NHWC."""
    pool = standard.AvgPool2d.of(call)
    data = network.value(pool.x)
    window = _window(pool.window, network.shape(data), pool.window.kernel)
    what: Literal["average", "average_with_pads"] = "average_with_pads" if pool.count_include_pad else "average"
    return Anchor(Pool2d(_geometry(call), what=what, **window), (data,))


def mean(call: relax.Call, network: Network) -> Anchor:
    """R.mean over rows and columns, kept as extents of 1."""
    data = network.value(standard.Mean.of(call).x)
    _, in_rows, in_width, _ = network.shape(data)
    return Anchor(GlobalPool(_geometry(call), in_rows, in_width), (data,))


def matmul(call: relax.Call, network: Network) -> Anchor:
    """R.matmul(x [M, K], w [K, N]) of constant weights."""
    product = standard.Matmul.of(call)
    data, weights = network.value(product.x), network.constant(product.weights)
    return Anchor(Dense(_geometry(call), int(weights.shape[0])), (data,), (weights,), why_not=FLOAT_WEIGHTS)


def loaded(first: relax.Call, network: Network) -> relax.Var:
    """The operand of an elementwise call that is loaded from memory: its first that is no constant."""
    operands = (argument for argument in first.args if isinstance(argument, relax.Var))
    return next(operand for operand in operands if isinstance(network.resolve(operand), str))


def elementwise(start: relax.Var, network: Network) -> Anchor:
    """A tensor loaded from memory, which the steps of an epilogue start from."""
    return Anchor(Elementwise(_geometry(start), _start(start)), (network.value(start),), dtype=_start(start))


def pack(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.pack into a layout that no epilogue can pack into."""
    packing = PackCall.of(call)
    output, limit = _geometry(packing.values), network.constant(packing.threshold)
    scalar, limits = (float(limit.reshape(())), ()) if limit.size == 1 else (None, (limit,))
    result = Bits(0, bit_layout(packing, output.channels))
    data = network.value(packing.values)
    return Anchor(Pack(output, "float32", scalar, packing.strict), (data,), limits, dtype="uint8", result=result)


def threshold(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.threshold into a layout that no epilogue can pack into."""
    packing = ThresholdCall.of(call)
    output, limits = _geometry(packing.values), (network.constant(packing.lo), network.constant(packing.hi))
    result = Bits(0, bit_layout(packing, output.channels))
    data = network.value(packing.values)
    return Anchor(Pack(output, "int32", None), (data,), limits, dtype="uint8", result=result)


def or_pool2d(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.or_pool2d(b): the maximum of signs."""
    pool = OrPool2dCall.of(call)
    data, window, output = network.value(pool.bits), pool.window, _geometry(call)
    _, in_rows, in_width, _ = network.shape(data)
    layout = ep.BitLayout(network.channels(data), 1, output.channels)
    kernel = OrPool2d(output, in_rows, in_width, window.kernel, window.strides, window.pads, window.dilations)
    return Anchor(kernel, (data,), dtype="uint8", result=Bits(0, layout))


def pad_bits(call: relax.Call, network: Network) -> Anchor:
    """R.bnncc.pad_bits(b) of bits that their kernel could not write with a border."""
    op = PadBitsCall.of(call)
    output = _geometry(op.bits)
    layout = ep.BitLayout(op.channels, op.groups, output.channels // op.groups, op.pads, op.pad_bit)
    return Anchor(PadBits(output), (network.value(op.bits),), dtype="uint8", result=Bits(0, layout))


def _geometry(tensor: relax.Expr) -> ep.Geometry:
    """The extents of a tensor of rank 4 (NHWC) or 2 ([N, C])."""
    shape = extents(tensor)
    if len(shape) == 4:
        return ep.Geometry(*shape)
    assert len(shape) == 2, f"kernels take tensors of rank 2 and 4, this is {shape}"
    return ep.Geometry(shape[0], 1, 1, shape[1])


def _start(tensor: relax.Expr) -> Literal["float32", "int32"]:
    """The type of what an epilogue starts from."""
    return "int32" if dtype(tensor) == "int32" else "float32"


class _Window(TypedDict):
    in_rows: int
    in_width: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]


def _window(window: Window, data: tuple[int, ...], kernel: tuple[int, int]) -> _Window:
    """The extents that windows of all kinds have, on an input [N, H, W, C]."""
    return {
        "in_rows": data[1],
        "in_width": data[2],
        "kernel": kernel,
        "strides": window.strides,
        "pads": window.pads,
        "dilations": window.dilations,
    }


# By operator. A function that begins with none of these is `elementwise`; one that begins with pack or threshold as
# well, where an epilogue can pack into their layout.
ANCHORS: dict[str, Callable[[relax.Call, Network], Anchor]] = {
    XnorConv2dCall.OPERATOR: xnor_conv2d,
    standard.Conv2d.OPERATOR: conv2d,
    QuantizeCall.OPERATOR: quantize,
    Conv2dInt8Call.OPERATOR: conv2d_int8,
    standard.MaxPool2d.OPERATOR: max_pool2d,
    standard.AvgPool2d.OPERATOR: avg_pool2d,
    standard.Mean.OPERATOR: mean,
    standard.Matmul.OPERATOR: matmul,
    OrPool2dCall.OPERATOR: or_pool2d,
    PadBitsCall.OPERATOR: pad_bits,
    PackCall.OPERATOR: pack,
    ThresholdCall.OPERATOR: threshold,
}


def find(first: relax.Call) -> Callable[[relax.Call, Network], Anchor] | None:
    """What a fused function that begins with this call is anchored by; None where it is elementwise from the start."""
    packing = PackCall.match(first) or ThresholdCall.match(first)
    if packing is not None and ep.can_pack(bit_layout(packing, extents(packing.values)[-1]), 1):
        return None
    return ANCHORS.get(operator(first))
