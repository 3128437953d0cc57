"""Vectors in TIR: the few words every kernel is written in.

Buffers are flat. Local buffers of one vector each become registers, because LLVM splits and promotes them; one large
local array would not always be.
"""

import numpy as np
from tvm import tirx
from tvm.tirx import Buffer as Buffer
from tvm.tirx import Expr as Expr  # a Python number where TIR takes one, too
from tvm.tirx.script.builder import ir as T

_LINE = 64  # bytes of a cache line


def ramp(index: Expr, lanes: int) -> Expr:
    """Indices index, index + 1, ..., index + lanes - 1."""
    return tirx.Ramp(index, tirx.IntImm("int32", 1), lanes) if lanes > 1 else index


def splat(value: Expr, lanes: int) -> Expr:
    """`value` in every lane."""
    return T.broadcast(value, lanes) if lanes > 1 else value


def cast(value: Expr, dtype: str, lanes: int) -> Expr:
    """`value` (of `lanes` lanes) as `dtype`."""
    return T.cast(value, f"{dtype}x{lanes}" if lanes > 1 else dtype)


def local(dtype: str, lanes: int) -> Buffer:
    """A vector that lives in a register (or, when registers run out, on the stack)."""
    return T.alloc_buffer((lanes,), dtype, scope="local")


def stack(dtype: str, count: int) -> tuple[Buffer, Expr]:
    """Room for `count` values on the stack, and where to begin: at a cache line. Stacks are aligned to 16 bytes, and a
    wider vector that lies in two lines takes two loads."""
    size, address = np.dtype(dtype).itemsize, "int64"
    room = T.alloc_buffer((count + _LINE // size,), dtype, scope="local")
    past = T.bitwise_and(-T.reinterpret(address, T.address_of(room[0])), tirx.const(_LINE - 1, address))
    return room, T.Bind(T.cast(T.shift_right(past, tirx.const(size.bit_length() - 1, address)), "int32"))


def zeros(count: int, dtype: str, lanes: int) -> list[Buffer]:
    """So many vectors of `local`, all 0: accumulators."""
    made = [local(dtype, lanes) for _ in range(count)]
    for one in made:
        T.buffer_store(one, splat(tirx.const(0, dtype), lanes), [ramp(0, lanes)])
    return made


def load(buffer: Buffer, index: Expr, lanes: int, valid: int | None = None) -> Expr:
    """`lanes` values from `index` on. With `valid` < lanes only the first `valid` are read, the others are 0."""
    if valid is None or valid >= lanes:
        return T.Bind(buffer[ramp(index, lanes)])
    part = local(buffer.dtype, lanes)
    T.buffer_store(part, splat(tirx.const(0, buffer.dtype), lanes), [ramp(0, lanes)])
    for lane in range(valid):
        T.buffer_store(part, buffer[index + lane], [lane])
    return T.Bind(part[ramp(0, lanes)])


def store(buffer: Buffer, index: Expr, value: Expr, lanes: int, valid: int | None = None) -> None:
    """Write `value` from `index` on; with `valid` < lanes only its first `valid` lanes."""
    if valid is None or valid >= lanes:
        T.buffer_store(buffer, value, [ramp(index, lanes)])
        return
    part = local(buffer.dtype, lanes)
    T.buffer_store(part, value, [ramp(0, lanes)])
    for lane in range(valid):
        T.buffer_store(buffer, part[lane], [index + lane])


def bits_of(positive: Expr, lanes: int, valid: int | None = None) -> Expr:
    """Bit i of an unsigned integer of `lanes` bits is lane i of the boolean vector `positive`; bits from `valid` on
    are 0.

    A vector of 1-bit integers read as one integer is a mask move (kmov, movmskps) on x86 and `and` + `addv` on AArch64.
    """
    dtype = f"uint{lanes}"
    # Select, not a cast: TVM's analyzer cannot look into a cast of a vector of booleans.
    one, zero = (splat(tirx.const(bit, "uint1"), lanes) for bit in (1, 0))
    word = T.reinterpret(dtype, T.Select(positive, one, zero))
    if valid is not None and valid < lanes:
        word = T.bitwise_and(word, tirx.const((1 << valid) - 1, dtype))
    return word
