"""What follows a convolution, pooling or dense layer while its values are still in registers.

An epilogue is a straight line of elementwise steps over one vector of channels of one output pixel, described by
plain data: parameters, steps, outputs. Any number of outputs is allowed, so one kernel can store the float32 residual
and the packed signs that the next binary layer reads. Tensors are NHWC.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from bnncc.ops.elementwise import OPERATIONS
from bnncc.tir.registers import Buffer, Expr, bits_of, load, ramp, splat, store


@dataclass(frozen=True)
class Param:
    """An operand in memory: "tensor" has the output's shape [N, H, W, C], "channel" is [C]."""

    kind: Literal["tensor", "channel"]
    dtype: str


@dataclass(frozen=True)
class Operand:
    """What a step reads: ("value", i) the i-th value (the accumulators, in most kernels one, then the results of the
    steps), ("param", i) the i-th parameter, or ("scalar", _, x) the constant x."""

    kind: Literal["value", "param", "scalar"]
    index: int = 0
    scalar: float = 0.0


@dataclass(frozen=True)
class Step:
    """One operation of the table in bnncc/ops/elementwise.py, or a comparison that gives bits."""

    op: str
    operands: tuple[Operand, ...]


@dataclass(frozen=True)
class BitLayout:
    """How packed bits lie in memory: [N, top + H + bottom, left + W + right, groups * group_bytes].

    pads: (top, left, bottom, right) border pixels, whose real channels all hold `pad_bit`.
    channels: channels of all groups together.
    """

    channels: int
    groups: int
    group_bytes: int
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    pad_bit: int = 0

    @property
    def pixel_bytes(self) -> int:
        return self.groups * self.group_bytes

    def border_pattern(self) -> bytes:
        """The bytes of one border pixel."""
        if not self.pad_bit:
            return bytes(self.pixel_bytes)
        ones = (1 << (self.channels // self.groups)) - 1
        return ones.to_bytes(self.group_bytes, "little") * self.groups


@dataclass(frozen=True)
class Output:
    """Store value number `value`: as it is (float32, int32), or packed when `bits` says how."""

    value: int
    dtype: str
    bits: BitLayout | None = None


@dataclass(frozen=True)
class Epilogue:
    """accumulators: values that it begins with."""

    params: tuple[Param, ...] = ()
    steps: tuple[Step, ...] = ()
    outputs: tuple[Output, ...] = (Output(0, "float32"),)
    accumulators: int = 1

    @property
    def layout(self) -> BitLayout:
        """Where the bits go, for kernels that write nothing else."""
        (output,) = self.outputs
        assert output.bits is not None
        return output.bits


@dataclass(frozen=True)
class Geometry:
    """Extents of the output [N, H, W, C]."""

    batch: int
    rows: int
    width: int
    channels: int


@dataclass(frozen=True)
class Pixel:
    """Output coordinates of one pixel, as expressions."""

    n: Expr
    y: Expr
    x: Expr


# What gives bits: compared in the type of the accumulator, a boolean for each lane until it is packed.
_COMPARISONS: dict[str, Callable[..., Expr]] = {
    "pack": lambda a, least: a >= least,
    "above": lambda a, limit: a > limit,
    "at_least": lambda a, least: a >= least,
    "threshold": lambda a, lo, hi: T.bitwise_and(a >= lo, a <= hi),
}


def _compute(step: Step, args: list[Expr], lanes: int) -> Expr:
    """The value of one step."""
    if step.op in _COMPARISONS:
        return _COMPARISONS[step.op](*args)
    operation = OPERATIONS[step.op]
    assert operation.emit is not None, f"no kernel computes {step.op}"
    return operation.emit(*args, lanes=lanes)


def load_channels(epilogue: Epilogue, params: list[Buffer], channel: Expr, lanes: int, valid: int) -> list[Expr]:
    """The per-channel parameters of one slice of channels, loaded once for all pixels of a tile."""
    return [
        load(buffer, channel, lanes, valid) if param.kind == "channel" else None
        for param, buffer in zip(epilogue.params, params, strict=True)
    ]


def emit(
    epilogue: Epilogue,
    geometry: Geometry,
    pixel: Pixel,
    channel: Expr,
    accumulators: Sequence[Expr],
    lanes: int,
    valid: int,
    params: list[Buffer],
    channel_values: list[Expr],
    outputs: list[Buffer],
) -> None:
    """Run the epilogue on `lanes` channels (the first `valid` exist) of one pixel, from `channel` on."""
    at = ((pixel.n * geometry.rows + pixel.y) * geometry.width + pixel.x) * geometry.channels + channel
    values = list(accumulators)
    assert len(values) == epilogue.accumulators
    tensors: dict[int, Expr] = {}

    def operand(source: Operand, dtype: str) -> Expr:
        if source.kind == "value":
            return values[source.index]
        if source.kind == "scalar":
            return splat(tirx.const(source.scalar, dtype), lanes)
        if epilogue.params[source.index].kind == "channel":
            return channel_values[source.index]
        if source.index not in tensors:
            tensors[source.index] = load(params[source.index], at, lanes, valid)
        return tensors[source.index]

    for step in epilogue.steps:
        dtype = "int32" if step.op in ("threshold", "at_least") else "float32"
        value = _compute(step, [operand(source, dtype) for source in step.operands], lanes)
        # TVM's analyzer cannot bind a vector of booleans; each is read once, so nothing is computed twice.
        values.append(value if step.op in _COMPARISONS else T.Bind(value))
    for output, buffer in zip(epilogue.outputs, outputs, strict=True):
        if output.bits is None:
            store(buffer, at, values[output.value], lanes, valid)
        else:
            _store_bits(output.bits, geometry, pixel, channel, values[output.value], lanes, valid, buffer)


def emit_pixels(
    epilogue: Epilogue,
    geometry: Geometry,
    pixels: list[Pixel],
    channel: Expr,
    accumulators: list[Expr],
    lanes: int,
    valid: int,
    params: list[Buffer],
    outputs: list[Buffer],
) -> None:
    """Run the epilogue on the same slice of channels of several pixels."""
    values = load_channels(epilogue, params, channel, lanes, valid)
    for pixel, accumulator in zip(pixels, accumulators, strict=True):
        emit(epilogue, geometry, pixel, channel, [accumulator], lanes, valid, params, values, outputs)


def _store_bits(
    layout: BitLayout,
    geometry: Geometry,
    pixel: Pixel,
    channel: Expr,
    positive: Expr,
    lanes: int,
    valid: int,
    buffer: Buffer,
) -> None:
    """Pack one slice of channels into its bytes. Slices start at multiples of 8 channels of a group."""
    top, left, bottom, right = layout.pads
    row = pixel.n * (geometry.rows + top + bottom) + pixel.y + top
    base = (row * (geometry.width + left + right) + pixel.x + left) * layout.pixel_bytes
    per_group = layout.channels // layout.groups
    bytes_used = -(-valid // 8)
    word = T.Bind(bits_of(positive, lanes, valid))

    def byte_of(here: Expr) -> Expr:
        if layout.groups == 1:
            return T.Bind(base + T.shift_right(here, 3))
        within = T.shift_right(T.floormod(here, per_group), 3)
        return T.Bind(base + T.floordiv(here, per_group) * layout.group_bytes + within)

    if lanes == 8:
        T.buffer_store(buffer, word, [byte_of(channel)])
    elif 8 * bytes_used == lanes and (layout.groups == 1 or per_group % lanes == 0):
        T.buffer_store(buffer, T.reinterpret(f"uint8x{lanes // 8}", word), [ramp(byte_of(channel), lanes // 8)])
    else:
        # The slice may cross into the next group, which starts elsewhere.
        for i in range(bytes_used):
            part = T.cast(T.shift_right(word, tirx.const(8 * i, f"uint{lanes}")), "uint8")
            T.buffer_store(buffer, part, [byte_of(channel + 8 * i)])


def can_pack(layout: BitLayout, groups: int) -> bool:
    """Whether a kernel whose output channels lie in `groups` groups can pack into `layout` from registers: every
    slice of 8 channels must start at a byte of the layout and stay inside one of its groups."""
    ours, theirs = layout.channels // groups, layout.channels // layout.groups
    return (groups == 1 or ours % 8 == 0) and (layout.groups == 1 or theirs % 8 == 0)


def emit_borders(epilogue: Epilogue, geometry: Geometry, outputs: list[Buffer]) -> None:
    """Fill what no slice writes: border pixels, and the whole bytes past the last channel of each pixel."""
    for output, buffer in zip(epilogue.outputs, outputs, strict=True):
        if output.bits is not None:
            fill_border(output.bits, geometry, buffer)
            _fill_tail(output.bits, geometry, buffer)


def fill_border(layout: BitLayout, geometry: Geometry, buffer: Buffer) -> None:
    """Fill the border pixels of an image whose inner extents are those of `geometry`."""
    top, left, bottom, right = layout.pads
    pattern, size = layout.border_pattern(), layout.pixel_bytes
    width, rows = geometry.width + left + right, geometry.rows + top + bottom

    def fill(first: Expr, pixels: int) -> None:
        """`pixels` border pixels from pixel `first` on."""
        if not pixels:
            return
        with T.serial(0, pixels) as i:
            for at, byte in enumerate(pattern):
                T.buffer_store(buffer, tirx.const(byte, "uint8"), [(first + i) * size + at])

    if top or bottom:
        with T.serial(0, geometry.batch) as n:
            fill(n * rows * width, top * width)
            fill((n * rows + top + geometry.rows) * width, bottom * width)
    if left or right:
        with T.serial(0, geometry.batch) as n, T.serial(0, geometry.rows) as y:
            fill((n * rows + top + y) * width, left)
            fill((n * rows + top + y) * width + left + geometry.width, right)


def _fill_tail(layout: BitLayout, geometry: Geometry, buffer: Buffer) -> None:
    """Bytes that hold no channel at all (words wider than the channels need) are 0 in every pixel."""
    used = -(-(layout.channels // layout.groups) // 8)
    if used == layout.group_bytes:
        return
    top, left, bottom, right = layout.pads
    width, rows = geometry.width + left + right, geometry.rows + top + bottom
    with T.serial(0, geometry.batch) as n, T.serial(0, geometry.rows) as y, T.serial(0, geometry.width) as x:
        base = T.Bind(((n * rows + top + y) * width + left + x) * layout.pixel_bytes)
        with T.serial(0, layout.groups) as group:
            for byte in range(used, layout.group_bytes):
                T.buffer_store(buffer, tirx.const(0, "uint8"), [base + group * layout.group_bytes + byte])
