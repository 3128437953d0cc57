"""The layers that networks are made of, each as one kernel with arrays to run it on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tvm import tirx

from bnncc import bitpack
from bnncc.kernels.conv2d import Conv2d
from bnncc.kernels.dense import Dense
from bnncc.kernels.depthwise import DepthwiseConv2d
from bnncc.kernels.global_pool import GlobalPool
from bnncc.kernels.kernel import Argument, Kernel
from bnncc.kernels.pack import Pack
from bnncc.kernels.pool2d import Pool2d
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.runtime.array import Array
from bnncc.targets.target import Target
from bnncc.tir import epilogue as ep

# (input channels, output channels, output extent, stride) of the 3x3 layers; the first four are QuickNet's, too.
RESNET18 = ((64, 64, 56, 1), (128, 128, 28, 1), (256, 256, 14, 1), (512, 512, 7, 1))
RESNET18_HALVING = ((64, 128, 28, 2), (128, 256, 14, 2), (256, 512, 7, 2))
VGG_SMALL = ((128, 128, 32, 1), (128, 256, 16, 1), (256, 256, 16, 1), (256, 512, 8, 1), (512, 512, 8, 1))
DENSE = ((1024, 1024), (4096, 4096))


@dataclass(frozen=True)
class Case:
    """One layer for a target. `after` says that the epilogue's traffic comes after the products rather than under
    them."""

    name: str
    kernel: Kernel
    epilogue: ep.Epilogue
    target: Target
    schedule: Schedule
    after: bool = False

    @property
    def function(self) -> tirx.PrimFunc:
        """The kernel's code."""
        return self.kernel.build(self.epilogue, self.target, self.schedule)

    @property
    def filler(self) -> tirx.PrimFunc | None:
        """The code that fills the workspace, where there is one."""
        filler = self.kernel.filler()
        return filler.build(ep.Epilogue(), self.target, filler.default(self.target)) if filler else None

    @property
    def moved(self) -> int:
        """Bytes read and written, each once."""
        return sum(argument.nbytes for argument in self._arguments if argument.role != "workspace")

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Rubbish for every argument; classes of border pixels are what a border of one pixel has."""
        return tuple(map(_filled, self._arguments))

    @property
    def _arguments(self) -> tuple[Argument, ...]:
        return self.kernel.arguments(self.epilogue, self.target, self.schedule)


def cases(target: Target) -> Iterator[Case]:
    """All of them, for `target`."""
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
    yield _case("global average pool 512 @7", GlobalPool(ep.Geometry(1, 1, 1, 512), 7, 7), ep.Epilogue(), target)
    bias = ep.Epilogue((_CHANNEL,), (ep.Step("add", (_value(0), _param(0))),), (ep.Output(1, "float32"),))
    yield _case("float dense 512->1000: bias", Dense(ep.Geometry(1, 1, 1, 1000), 512), bias, target)


def binary_convolution(
    network: str, kernel: int, inputs: int, outputs: int, extent: int, stride: int, *, full: bool, target: Target
) -> Case:
    """Zero padding (so 9 border classes for 3x3), int32 out; or `full`: batch norm, residual, PReLU, and two outputs,
    float32 and packed with a border."""
    out, pad = ep.Geometry(1, extent, extent, outputs), kernel // 2
    rows, classes = (extent - 1) * stride + kernel, 1 + 2 * pad
    size = bitpack.packed_bytes(inputs, target.word_bytes)
    conv = XnorConv2d(out, rows, rows, inputs, size, (kernel, kernel), (stride, stride), classes=(classes, classes))
    what = "BN, add, PReLU, float32 + bits" if full else "int32"
    name = f"binary {kernel}x{kernel}{' s2' if stride == 2 else ''} {inputs}->{outputs} @{extent} {network}: {what}"
    return _case(name, conv, _residual(out, target) if full else _SUMS, target, after=full)


def binary_dense(inputs: int, outputs: int, target: Target) -> Case:
    """A matrix of bits by one vector of bits."""
    size = bitpack.packed_bytes(inputs, target.word_bytes)
    conv = XnorConv2d(ep.Geometry(1, 1, 1, outputs), 1, 1, inputs, size, (1, 1))
    return _case(f"binary dense {inputs}->{outputs}: int32", conv, _SUMS, target)


def packing(channels: int, extent: int, target: Target) -> Case:
    """Signs of floats, with a border of one pixel."""
    epilogue = ep.Epilogue(outputs=(ep.Output(0, "uint8", _bits(channels, target)),))
    return _case(f"pack {channels} @{extent}", Pack(ep.Geometry(1, extent, extent, channels)), epilogue, target)


def float_convolution(
    name: str, inputs: int, outputs: int, extent: int, kernel: int, stride: int, pad: int, nchw: bool, target: Target
) -> Case:
    """Input of `extent` rows and columns; scale, bias and float32 out."""
    size = (extent + 2 * pad - kernel) // stride + 1
    out, pads = ep.Geometry(1, size, size, outputs), (pad, pad, pad, pad)
    conv = Conv2d(out, extent, extent, inputs, (kernel, kernel), (stride, stride), pads, nchw=nchw)
    return _case(f"float {name} {inputs}->{outputs} @{size}: BN", conv, _AFFINE, target)


def depthwise_3x3(channels: int, extent: int, target: Target) -> Case:
    """Stride 2, padding 1, on an input of `extent` rows and columns."""
    size = (extent - 1) // 2 + 1
    conv = DepthwiseConv2d(ep.Geometry(1, size, size, channels), extent, extent, (3, 3), (2, 2), (1, 1, 1, 1))
    return _case(f"depthwise 3x3 s2 {channels} @{size}: BN", conv, _AFFINE, target)


def pooling(kind: str, channels: int, extent: int, kernel: int, stride: int, pad: int, target: Target) -> Case:
    """On an input of `extent` rows and columns."""
    size = (extent + 2 * pad - kernel) // stride + 1
    out, pads = ep.Geometry(1, size, size, channels), (pad, pad, pad, pad)
    what: Literal["max", "average"] = "max" if kind == "max" else "average"
    pool = Pool2d(out, extent, extent, (kernel, kernel), (stride, stride), pads, what=what)
    return _case(f"{kind} pool {kernel}x{kernel} s{stride} {channels} @{size}", pool, ep.Epilogue(), target)


def _case(name: str, kernel: Kernel, epilogue: ep.Epilogue, target: Target, *, after: bool = False) -> Case:
    return Case(name, kernel, epilogue, target, kernel.default(target), after)


def _value(number: int) -> ep.Operand:
    return ep.Operand("value", number)


def _param(number: int) -> ep.Operand:
    return ep.Operand("param", number)


_CHANNEL = ep.Param("channel", "float32")
_SUMS = ep.Epilogue(outputs=(ep.Output(0, "int32"),))
_AFFINE = ep.Epilogue(
    (_CHANNEL, _CHANNEL),
    (ep.Step("multiply", (_value(0), _param(0))), ep.Step("add", (_value(1), _param(1)))),
    (ep.Output(2, "float32"),),
)


def _residual(out: ep.Geometry, target: Target) -> ep.Epilogue:
    """Batch norm, + residual, PReLU; float32, and packed signs with a border of one pixel."""
    steps = (
        ep.Step("astype", (_value(0),)),
        ep.Step("multiply", (_value(1), _param(0))),
        ep.Step("add", (_value(2), _param(1))),
        ep.Step("add", (_value(3), _param(2))),
        ep.Step("prelu", (_value(4), _param(3))),
        ep.Step("pack", (_value(5), ep.Operand("scalar"))),
    )
    return ep.Epilogue(
        (_CHANNEL, _CHANNEL, ep.Param("tensor", "float32"), _CHANNEL),
        steps,
        (ep.Output(5, "float32"), ep.Output(6, "uint8", _bits(out.channels, target))),
    )


def _bits(channels: int, target: Target) -> ep.BitLayout:
    return ep.BitLayout(channels, 1, bitpack.packed_bytes(channels, target.word_bytes), (1, 1, 1, 1))


def _filled(argument: Argument) -> Array:
    random, dtype = np.random.default_rng(0), np.dtype(argument.dtype)
    if argument.name.endswith("_class"):
        places = np.zeros(argument.shape, dtype)
        if argument.shape[0] > 1:
            places[1:-1], places[-1] = 1, 2
        return places
    if argument.role in ("output", "workspace"):
        return np.zeros(argument.shape, dtype)
    if dtype.kind == "f":
        return random.standard_normal(argument.shape, np.float32)
    if dtype.kind == "u":
        return random.integers(0, np.iinfo(dtype).max, argument.shape, dtype, endpoint=True)
    return random.integers(0, 1000, argument.shape).astype(dtype)
