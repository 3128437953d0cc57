"""Every kernel becomes an object for 64-bit ARM, with the instructions that its speed depends on."""

import re
from collections.abc import Callable

import pytest
from tvm import tirx

from benchmarks import hot_loop
from bnncc.codegen import peak
from bnncc.codegen.llvm import compile_object
from bnncc.kernels import (
    conv2d,
    dense,
    depthwise,
    elementwise,
    global_pool,
    or_pool2d,
    pack,
    pad_bits,
    pool2d,
    transpose,
    xnor_conv2d,
)
from bnncc.targets import TARGETS
from bnncc.targets.target import Work
from bnncc.tir import epilogue as ep
from tests.kernels.epilogues import param, scalar, value

ARM = TARGETS["arm"]
IMAGE = ep.Geometry(1, 6, 6, 40)
PIXEL = ep.Geometry(2, 1, 1, 40)
BITS = ep.BitLayout(40, 1, 5, (1, 1, 1, 1), 1)
DUAL = ep.Epilogue(
    (ep.Param("channel", "float32"), ep.Param("tensor", "float32")),
    (
        ep.Step("multiply", (value(0), param(0))),
        ep.Step("add", (value(1), param(1))),
        ep.Step("pack", (value(2), scalar(0.0))),
    ),
    (ep.Output(2, "float32"), ep.Output(3, "uint8", BITS)),
)
THRESHOLD = ep.Epilogue(
    (ep.Param("channel", "int32"), ep.Param("channel", "int32")),
    (ep.Step("threshold", (value(0), param(0), param(1))),),
    (ep.Output(1, "uint8", BITS),),
)
XNOR = xnor_conv2d.Shape(IMAGE, 8, 8, 16, (3, 3), (1, 1), (1, 1), 1, 2, (3, 3))

# A kernel and the instructions expected in it; a byte of signs is and + addv.
KERNELS: dict[str, tuple[Callable[[], tirx.PrimFunc], tuple[str, ...]]] = {
    "conv2d": (
        lambda: conv2d.build(conv2d.Shape(IMAGE, 6, 6, 8, (3, 3), pads=(1, 1, 1, 1)), DUAL, ARM),
        ("fmla", "addv"),
    ),
    "depthwise": (lambda: depthwise.build(depthwise.Shape(IMAGE, 8, 8, (3, 3)), DUAL, ARM), ("fmla", "addv")),
    "pool2d": (lambda: pool2d.build(pool2d.Shape(IMAGE, 12, 12, (2, 2), (2, 2)), DUAL, ARM), ("fcmgt|fmax", "addv")),
    "global_pool": (lambda: global_pool.build(global_pool.Shape(PIXEL, 7, 7), DUAL, ARM), ("fadd", "addv")),
    "dense": (lambda: dense.build(dense.Shape(PIXEL, 30), DUAL, ARM), ("fmla", "addv")),
    "elementwise": (lambda: elementwise.build(elementwise.Shape(IMAGE), DUAL, ARM), ("addv",)),
    "pack": (lambda: pack.build(pack.Shape(IMAGE, BITS), ARM), ("addv",)),
    "pad_bits": (lambda: pad_bits.build(pad_bits.Shape(IMAGE, BITS), ARM), ()),
    "or_pool2d": (lambda: or_pool2d.build(or_pool2d.Shape(IMAGE, 12, 12, (2, 2), (2, 2), bits=BITS), ARM), ("orr",)),
    "transpose": (lambda: transpose.build(transpose.Shape(1, 3, 64), ARM), ()),
    "peak": (lambda: peak.build(ARM), ("cnt", "fmla")),
    "xnor_conv2d": (lambda: xnor_conv2d.build(XNOR, THRESHOLD, ARM), ("cnt", "addv")),
}


@pytest.mark.parametrize("name", KERNELS)
def test_compiles(name: str) -> None:
    build, instructions = KERNELS[name]
    kernel = build()
    assert compile_object({"kernel": kernel}, ARM)[:4] == b"\x7fELF"
    text = compile_object({"kernel": kernel}, ARM, "s").decode()
    for instruction in instructions:
        assert re.search(rf"^\s({instruction})\s", text, re.MULTILINE), instruction


@pytest.mark.parametrize("name", ["arm", "rpi3"])
def test_tiles_of_two_rows_stay_in_registers(name: str) -> None:
    """The 3x3 convolution of 64 channels at 56x56: nothing of a tile is spilled where it executes most."""
    target = TARGETS[name]
    out = ep.Geometry(1, 56, 56, 64)
    kernel = xnor_conv2d.build(
        xnor_conv2d.Shape(out, 58, 58, 8, (3, 3), (1, 1), (1, 1), 1, 2, (3, 3)),
        ep.Epilogue(outputs=(ep.Output(0, "int32"),)),
        target,
    )
    loop = hot_loop.find(compile_object({"kernel": kernel}, target, "s").decode())
    assert loop.macs == 9 * 2 * 2 * 64 * 8  # taps, rows, pixels, channels, one byte
    assert loop.spills == 0


@pytest.mark.parametrize("name", ["arm", "rpi3"])
def test_lanes_that_are_bytes_need_no_broadcasts(name: str) -> None:
    """The 3x3 convolution of 512 channels at 7x7, whose pixels are whole vectors."""
    target, out = TARGETS[name], ep.Geometry(1, 7, 7, 512)
    shape = xnor_conv2d.Shape(out, 9, 9, 64, (3, 3), (1, 1), (1, 1), 1, 2, (3, 3))
    assert shape.tile(target).lanes == "bytes"
    kernel = xnor_conv2d.build(shape, ep.Epilogue(outputs=(ep.Output(0, "int32"),)), target)
    text = compile_object({"kernel": kernel}, target, "s").decode()
    loop = hot_loop.find(text)
    assert loop.macs >= 3 * 7 * 2 * 128  # taps, pixels, channels, one vector
    assert loop.spills == 0
    assert not [line for line in loop.instructions if re.match(r"\s(ld1r|dup)\s", line)]
    assert re.search(r"^\suadalp|^\suaddlp", text, re.MULTILINE)
    assert re.search(r"^\saddp\s", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("channels", "pixel_bytes", "lanes"),
    [(128, 16, "bytes"), (64, 8, "channels"), (136, 17, "channels"), (9088, 1136, "channels")],
    ids=["whole vectors", "half a vector", "a broken vector", "more than 16 bits"],
)
def test_what_lanes_are(channels: int, pixel_bytes: int, lanes: str) -> None:
    assert ARM.tile(Work("xnor_conv2d", 28, channels, 9 * pixel_bytes, 3, 3, 28)).lanes == lanes


@pytest.mark.parametrize(
    ("work", "rows"),
    [
        (Work("xnor_conv2d", 14, 64, 72, 3, 3, 14), 2),
        (Work("xnor_conv2d", 7, 64, 72, 3, 3, 7), 1),
        (Work("xnor_conv2d", 14, 64, 200, 5, 5, 14), 1),
        (Work("xnor_conv2d", 14, 256, 32, 1, 1, 14), 1),
    ],
    ids=["3x3", "an odd height", "a large window", "no shared rows"],
)
def test_rows_of_tiles(work: Work, rows: int) -> None:
    assert ARM.tile(work).rows == rows
