"""Products of 8-bit integers added to int32 lanes: what each machine multiplies in one instruction.

A lane adds the products of `group` neighbouring inputs with as many weights. The inputs of one group are broadcast to
all lanes, the weights of the lanes lie one behind the other. Nothing saturates, so every dot gives the same integers:

- "vnni", x86 with AVX512_VNNI: vpdpbusd, four products of uint8 and int8. (Not vpdpbusds, which saturates.)
- "madd", x86: pmaddwd, two products of int16. pmaddubsw would multiply bytes, but saturates their sum to 16 bits.
- "sdot", ARM with the dot product extension: four products of int8.
- "smlal", 64-bit ARM: two products of int8 (smull, smlal) fit 16 bits, because weights are never -128; sadalp adds
  the pairs. "vmlal" is the same on 32-bit ARM.
- "", any machine: one product of int16, which LLVM widens.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from bnncc.targets.target import Target
from bnncc.tir.registers import Buffer, Expr, cast, ramp, splat


@dataclass(frozen=True)
class Dot:
    """group: products that one instruction adds to a lane. inputs, weights: types in memory. lanes: of one instruction.
    add(total, inputs, weights): the int32 lanes `total` and the products; inputs a vector of `group` values, weights
    one of `lanes` * `group`: of each lane those of the first `part` inputs, then of each lane those of the next."""

    group: int
    inputs: str
    weights: str
    lanes: int
    part: int
    add: Callable[[Expr, Expr, Expr], Expr]

    def load_inputs(self, buffer: Buffer, at: Expr) -> Expr:
        """The inputs of one group, of any alignment."""
        return buffer[ramp(at, self.group)]


def dot(target: Target) -> Dot:
    """The target's dot product."""
    lanes = target.vector_bits // 32
    if target.int8_dot == "vnni":
        return Dot(4, "uint8", "int8", lanes, 4, _intrinsic(f"llvm.x86.avx512.vpdpbusd.{target.vector_bits}", lanes))
    if target.int8_dot == "sdot":
        return Dot(4, "int8", "int8", lanes, 4, _intrinsic(f"llvm.aarch64.neon.sdot.v{lanes}i32.v{4 * lanes}i8", lanes))
    if target.int8_dot == "madd":
        return Dot(2, "int16", "int16", lanes, 2, _pmaddwd(lanes))
    if target.int8_dot == "smlal":
        return Dot(4, "int8", "int8", lanes, 2, _smlal(lanes, _saddlp(lanes)))
    if target.int8_dot == "vmlal":
        return Dot(4, "int8", "int8", lanes, 2, _smlal(lanes, _vpadal(lanes)))
    return plain(1, 1, "int16", "int16", lanes)


def plain(group: int, part: int, inputs: str, weights: str, lanes: int) -> Dot:
    """The same integers in instructions that every machine has: the meaning of the others."""

    def add(total: Expr, values: Expr, row: Expr) -> Expr:
        for i in range(group):
            value = values if group == 1 else tirx.Shuffle([values], [tirx.const(i, "int32")])
            steps = [tirx.const((i // part * lanes + lane) * part + i % part, "int32") for lane in range(lanes)]
            weight = row if group == 1 else tirx.Shuffle([row], steps)
            total = total + cast(splat(value, lanes), "int32", lanes) * cast(weight, "int32", lanes)
        return total

    return Dot(group, inputs, weights, lanes, part, add)


def _everywhere(values: Expr, dtype: str, group: int, lanes: int) -> Expr:
    """The 32 bits of one group of inputs in every lane."""
    return T.reinterpret(f"{dtype}x{group * lanes}", splat(T.reinterpret("int32", values), lanes))


def _intrinsic(name: str, lanes: int) -> Callable[[Expr, Expr, Expr], Expr]:
    """LLVM's intrinsics that add four products to each lane."""

    def add(total: Expr, values: Expr, row: Expr) -> Expr:
        dtype = "int8" if "sdot" in name else "uint8"
        return T.call_llvm_pure_intrin(f"int32x{lanes}", name, total, _everywhere(values, dtype, 4, lanes), row)

    return add


def _smlal(lanes: int, add_pairs: Callable[[Expr, Expr], Expr]) -> Callable[[Expr, Expr, Expr], Expr]:
    def half(pairs: Expr, row: Expr, first: int) -> Expr:
        everywhere = tirx.Shuffle([pairs], [tirx.const(first // 2, "int32")] * lanes)
        part = tirx.Shuffle([row], [tirx.const(first * lanes + i, "int32") for i in range(2 * lanes)])
        values = T.reinterpret(f"int8x{2 * lanes}", everywhere)
        return cast(values, "int16", 2 * lanes) * cast(part, "int16", 2 * lanes)

    def add(total: Expr, values: Expr, row: Expr) -> Expr:
        # 64 bits that hold the group twice: a pair is then broadcast from register to register.
        pairs = T.reinterpret("int16x4", splat(T.reinterpret("int32", values), 2))
        return add_pairs(total, half(pairs, row, 0) + half(pairs, row, 2))

    return add


def _saddlp(lanes: int) -> Callable[[Expr, Expr], Expr]:
    name = f"llvm.aarch64.neon.saddlp.v{lanes}i32.v{2 * lanes}i16"
    return lambda total, products: total + T.call_llvm_pure_intrin(f"int32x{lanes}", name, products)


def _vpadal(lanes: int) -> Callable[[Expr, Expr], Expr]:
    name = f"llvm.arm.neon.vpadals.v{lanes}i32.v{2 * lanes}i16"
    return lambda total, products: T.call_llvm_pure_intrin(f"int32x{lanes}", name, total, products)


def _pmaddwd(lanes: int) -> Callable[[Expr, Expr, Expr], Expr]:
    name = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}[lanes]

    def add(total: Expr, values: Expr, row: Expr) -> Expr:
        return total + T.call_llvm_pure_intrin(f"int32x{lanes}", name, _everywhere(values, "int16", 2, lanes), row)

    return add
