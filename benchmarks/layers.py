"""The layers that networks are made of, each as one compiled kernel with arrays to run it on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from benchmarks.native import Array
from bnncc.kernels import conv2d, dense, depthwise, global_pool, pack, pool2d, xnor_conv2d
from bnncc.ops import bitpack
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep

# (input channels, output channels, output extent, stride) of the 3x3 layers; the first four are QuickNet's, too.
RESNET18 = ((64, 64, 56, 1), (128, 128, 28, 1), (256, 256, 14, 1), (512, 512, 7, 1))
RESNET18_HALVING = ((64, 128, 28, 2), (128, 256, 14, 2), (256, 512, 7, 2))
VGG_SMALL = ((128, 128, 32, 1), (128, 256, 16, 1), (256, 256, 16, 1), (256, 512, 8, 1), (512, 512, 8, 1))
DENSE = ((1024, 1024), (4096, 4096))


@dataclass(frozen=True)
class Case:
    """One layer. `arithmetic` is "binary" or "float32", or "" without products. `moved` are the bytes read and written
    (each once); `after` says that the epilogue's traffic comes after the products rather than under them. `padding`
    fills the workspace of a convolution."""

    name: str
    arithmetic: str
    macs: int
    moved: int
    after: bool
    kernel: tirx.PrimFunc
    arrays: tuple[Array, ...]
    padding: tirx.PrimFunc | None = None


def cases(target: Target) -> Iterator[Case]:
    """All of them, compiled for `target` when their turn comes."""
    for full in (False, True):
        for group, shapes in (("ResNet-18", RESNET18), ("ResNet-18", RESNET18_HALVING), ("VGG-Small", VGG_SMALL)):
            for shape in shapes:
                yield binary_convolution(group, 3, *shape, full=full, target=target)
        for channels, _, extent, _ in RESNET18:
            yield binary_convolution("ResNet-18", 1, channels, channels, extent, 1, full=full, target=target)
    for inputs, outputs in DENSE:
        yield binary_dense(inputs, outputs, target)
    for channels, _, extent, _ in RESNET18:
        yield packing(channels, extent, target)
    yield float_convolution("stem 7x7 s2", 3, 64, 224, 7, 2, 3, True, target)
    yield float_convolution("stem 3x3 s2", 3, 16, 224, 3, 2, 1, True, target)
    yield float_convolution("stem 3x3", 3, 128, 32, 3, 1, 1, True, target)
    for inputs, outputs, extent in ((16, 64, 56), (64, 128, 28), (128, 256, 14), (256, 512, 7)):
        yield float_convolution("1x1", inputs, outputs, extent, 1, 1, 0, False, target)
    for channels, extent in ((16, 112), (64, 55), (128, 27), (256, 13)):
        yield depthwise_3x3(channels, extent, target)
    for channels, extent, kernel, stride, pad in ((64, 112, 3, 2, 1), (64, 56, 2, 1, 0), (128, 32, 2, 2, 0)):
        yield pooling("max", channels, extent, kernel, stride, pad, target)
    for channels, extent in ((64, 56), (128, 28), (256, 14)):
        yield pooling("average", channels, extent, 2, 2, 0, target)
    yield global_average(512, 7, target)
    yield float_dense(512, 1000, target)


def binary_convolution(
    network: str, kernel: int, inputs: int, outputs: int, extent: int, stride: int, *, full: bool, target: Target
) -> Case:
    """Zero padding (so 9 border classes for 3x3), int32 out; or `full`: batch norm, residual, PReLU, and two outputs,
    float32 and packed with a border."""
    out, pad = ep.Geometry(1, extent, extent, outputs), kernel // 2
    rows = (extent - 1) * stride + kernel
    size, classes = bitpack.packed_bytes(inputs, target.word_bytes), 1 + 2 * pad
    shape = xnor_conv2d.Shape(
        out, rows, rows, size, (kernel, kernel), (stride, stride), (1, 1), 1, 2, (classes, classes)
    )
    random = np.random.default_rng(0)
    bits = random.integers(0, 256, (1, rows, rows, size), np.uint8)
    weights = random.integers(0, 256, (outputs, kernel * kernel, size), np.uint8)
    offset = random.integers(0, 1000, (classes, classes, outputs)).astype(np.int32)
    places = np.clip(np.arange(extent), 0, 0).astype(np.int32)
    if pad:
        places = np.ones(extent, np.int32)
        places[0], places[-1] = 0, 2
    epilogue, params = _residual(out, target) if full else (ep.Epilogue(outputs=(ep.Output(0, "int32"),)), ())
    inputs_of = (bits, xnor_conv2d.arrange_weights(weights, shape, target), offset, places, places, *params)
    outputs_of = _outputs(out, epilogue)
    what = "BN, add, PReLU, float32 + bits" if full else "int32"
    return Case(
        f"binary {kernel}x{kernel}{' s2' if stride == 2 else ''} {inputs}->{outputs} @{extent} {network}: {what}",
        "binary",
        outputs * inputs * kernel * kernel * extent * extent,
        _traffic((*inputs_of, *outputs_of)),
        full,
        xnor_conv2d.build(shape, epilogue, target),
        (*inputs_of, *outputs_of),
    )


def _residual(out: ep.Geometry, target: Target) -> tuple[ep.Epilogue, tuple[Array, ...]]:
    """Batch norm, + residual, PReLU; float32, and packed signs with a border of one pixel."""

    def value(i: int) -> ep.Operand:
        return ep.Operand("value", i)

    def param(i: int) -> ep.Operand:
        return ep.Operand("param", i)

    channel = ep.Param("channel", "float32")
    steps = (
        ep.Step("astype", (value(0),)),
        ep.Step("multiply", (value(1), param(0))),
        ep.Step("add", (value(2), param(1))),
        ep.Step("add", (value(3), param(2))),
        ep.Step("prelu", (value(4), param(3))),
        ep.Step("pack", (value(5), ep.Operand("scalar"))),
    )
    bits = ep.BitLayout(out.channels, 1, bitpack.packed_bytes(out.channels, target.word_bytes), (1, 1, 1, 1))
    epilogue = ep.Epilogue(
        (channel, channel, ep.Param("tensor", "float32"), channel),
        steps,
        (ep.Output(5, "float32"), ep.Output(6, "uint8", bits)),
    )
    random = np.random.default_rng(1)
    tensor = (out.batch, out.rows, out.width, out.channels)
    return epilogue, tuple(
        random.standard_normal(shape).astype(np.float32)
        for shape in ((out.channels,), (out.channels,), tensor, (out.channels,))
    )


def binary_dense(inputs: int, outputs: int, target: Target) -> Case:
    """A matrix of bits by one vector of bits."""
    out, size = ep.Geometry(1, 1, 1, outputs), bitpack.packed_bytes(inputs, target.word_bytes)
    shape = xnor_conv2d.Shape(out, 1, 1, size, (1, 1), (1, 1), (1, 1), 1, 2, (1, 1))
    random = np.random.default_rng(0)
    weights = random.integers(0, 256, (outputs, 1, size), np.uint8)
    place = np.zeros(1, np.int32)
    arrays = (
        random.integers(0, 256, (1, 1, 1, size), np.uint8),
        xnor_conv2d.arrange_weights(weights, shape, target),
        np.full(outputs, inputs, np.int32),
        place,
        place,
    )
    epilogue = ep.Epilogue(outputs=(ep.Output(0, "int32"),))
    return _case(
        f"binary dense {inputs}->{outputs}: int32", inputs * outputs, out, epilogue, arrays,
        xnor_conv2d.build(shape, epilogue, target), "binary",
    )  # fmt: skip


def packing(channels: int, extent: int, target: Target) -> Case:
    """Signs of floats, with a border of one pixel."""
    out = ep.Geometry(1, extent, extent, channels)
    bits = ep.BitLayout(channels, 1, bitpack.packed_bytes(channels, target.word_bytes), (1, 1, 1, 1))
    epilogue = ep.Epilogue(outputs=(ep.Output(0, "uint8", bits),))
    kernel = pack.build(pack.Shape(out, bits), target)
    return _case(f"pack {channels} @{extent}", 0, out, epilogue, (_floats(1, extent, extent, channels),), kernel)


def float_convolution(
    name: str, inputs: int, outputs: int, extent: int, kernel: int, stride: int, pad: int, nchw: bool, target: Target
) -> Case:
    """Input of `extent` rows and columns; scale, bias and float32 out."""
    size = (extent + 2 * pad - kernel) // stride + 1
    out = ep.Geometry(1, size, size, outputs)
    shape = conv2d.Shape(
        out, extent, extent, inputs, (kernel, kernel), (stride, stride), (pad, pad, pad, pad), nchw=nchw
    )
    epilogue, params = _affine(out)
    workspace = conv2d.workspace_bytes(shape, target)
    arrays: tuple[Array, ...] = (
        _floats(1, inputs, extent, extent) if nchw else _floats(1, extent, extent, inputs),
        conv2d.arrange_weights(_floats(kernel, kernel, inputs, outputs), 1, target),
        *([np.zeros(workspace, np.uint8)] if workspace else []),
        *params,
    )
    macs = size * size * outputs * inputs * kernel * kernel
    built = conv2d.build(shape, epilogue, target)
    padding = conv2d.build_padding(shape, target) if workspace else None
    return _case(
        f"float {name} {inputs}->{outputs} @{size}: BN", macs, out, epilogue, arrays, built, "float32", workspace,
        padding,
    )  # fmt: skip


def depthwise_3x3(channels: int, extent: int, target: Target) -> Case:
    """Stride 2, padding 1, on an input of `extent` rows and columns."""
    size = (extent - 1) // 2 + 1
    out = ep.Geometry(1, size, size, channels)
    shape = depthwise.Shape(out, extent, extent, (3, 3), (2, 2), (1, 1, 1, 1))
    epilogue, params = _affine(out)
    weights = depthwise.arrange_weights(_floats(3, 3, 1, channels), target)
    arrays = (_floats(1, extent, extent, channels), weights, *params)
    macs = 9 * size * size * channels
    kernel = depthwise.build(shape, epilogue, target)
    return _case(f"depthwise 3x3 s2 {channels} @{size}: BN", macs, out, epilogue, arrays, kernel, "float32")


def pooling(kind: str, channels: int, extent: int, kernel: int, stride: int, pad: int, target: Target) -> Case:
    """On an input of `extent` rows and columns."""
    size = (extent + 2 * pad - kernel) // stride + 1
    out = ep.Geometry(1, size, size, channels)
    shape = pool2d.Shape(out, extent, extent, (kernel, kernel), (stride, stride), (pad, pad, pad, pad), kind=kind)
    name = f"{kind} pool {kernel}x{kernel} s{stride} {channels} @{size}"
    built = pool2d.build(shape, ep.Epilogue(), target)
    return _case(name, 0, out, ep.Epilogue(), (_floats(1, extent, extent, channels),), built)


def global_average(channels: int, extent: int, target: Target) -> Case:
    """The mean of every channel."""
    out = ep.Geometry(1, 1, 1, channels)
    built = global_pool.build(global_pool.Shape(out, extent, extent), ep.Epilogue(), target)
    arrays = (_floats(1, extent, extent, channels),)
    return _case(f"global average pool {channels} @{extent}", 0, out, ep.Epilogue(), arrays, built)


def float_dense(inputs: int, outputs: int, target: Target) -> Case:
    """A matrix by one vector, plus a bias."""
    out = ep.Geometry(1, 1, 1, outputs)
    epilogue = ep.Epilogue(
        (ep.Param("channel", "float32"),),
        (ep.Step("add", (ep.Operand("value", 0), ep.Operand("param", 0))),),
        (ep.Output(1, "float32"),),
    )
    arrays = (_floats(1, inputs), dense.arrange_weights(_floats(inputs, outputs), target), _floats(outputs))
    built = dense.build(dense.Shape(out, inputs), epilogue, target)
    return _case(f"float dense {inputs}->{outputs}: bias", inputs * outputs, out, epilogue, arrays, built, "float32")


def _affine(out: ep.Geometry) -> tuple[ep.Epilogue, tuple[Array, ...]]:
    channel = ep.Param("channel", "float32")
    steps = (
        ep.Step("multiply", (ep.Operand("value", 0), ep.Operand("param", 0))),
        ep.Step("add", (ep.Operand("value", 1), ep.Operand("param", 1))),
    )
    return ep.Epilogue((channel, channel), steps, (ep.Output(2, "float32"),)), (
        _floats(out.channels),
        _floats(out.channels),
    )


def _case(
    name: str,
    macs: int,
    out: ep.Geometry,
    epilogue: ep.Epilogue,
    inputs: tuple[Array, ...],
    kernel: tirx.PrimFunc,
    arithmetic: str = "",
    workspace: int = 0,
    padding: tirx.PrimFunc | None = None,
) -> Case:
    outputs = _outputs(out, epilogue)
    moved = _traffic((*inputs, *outputs)) - workspace
    return Case(name, arithmetic, macs, moved, False, kernel, (*inputs, *outputs), padding)


def _traffic(arrays: tuple[Array, ...]) -> int:
    """Bytes of all arrays."""
    return sum(array.nbytes for array in arrays)


def _outputs(out: ep.Geometry, epilogue: ep.Epilogue) -> tuple[Array, ...]:
    """Zeros for every output."""
    shapes: list[Any] = []
    for output in epilogue.outputs:
        if output.bits is None:
            shapes.append((out.batch, out.rows, out.width, out.channels))
        else:
            top, left, bottom, right = output.bits.pads
            shapes.append((out.batch, top + out.rows + bottom, left + out.width + right, output.bits.pixel_bytes))
    return tuple(np.zeros(shape, output.dtype) for shape, output in zip(shapes, epilogue.outputs, strict=True))


def _floats(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, np.float32)
