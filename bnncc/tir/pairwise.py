"""Adding neighbouring lanes of a vector: how sums whose lanes lie along the window of a convolution become one number
a channel.

64-bit ARM has instructions for it (uaddlp, uadalp, addp). The shifts and masks that say what they mean are what other
machines do.
"""

from collections.abc import Sequence

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from bnncc.targets.target import Target
from bnncc.tir.registers import Expr, splat


def add_bytes(counts: Expr, lanes: int, target: Target) -> Expr:
    """uint8 lanes -> half as many uint16 lanes: lane i is lane 2i + lane 2i + 1."""
    half = lanes // 2
    if target.machine == "aarch64":
        return T.call_llvm_pure_intrin(f"uint16x{half}", f"llvm.aarch64.neon.uaddlp.v{half}i16.v{lanes}i8", counts)
    pairs = T.Bind(T.reinterpret(f"uint16x{half}", counts))
    return T.bitwise_and(pairs, _splat(255, "uint16", half)) + T.shift_right(pairs, _splat(8, "uint16", half))


def across(sums: Sequence[Expr], target: Target) -> Expr:
    """Four vectors uint16x8 -> uint32x4: lane i is what the lanes of vector i add up to, less than 65,536."""
    first, second = (_add_pairs(a, b, target) for a, b in (sums[:2], sums[2:]))
    pairs = _add_pairs(first, second, target)
    if target.machine == "aarch64":
        return T.Bind(T.call_llvm_pure_intrin("uint32x4", "llvm.aarch64.neon.uaddlp.v4i32.v8i16", pairs))
    both = T.Bind(T.reinterpret("uint32x4", pairs))
    return T.Bind(T.bitwise_and(both, _splat(65535, "uint32", 4)) + T.shift_right(both, _splat(16, "uint32", 4)))


def _add_pairs(a: Expr, b: Expr, target: Target) -> Expr:
    """Two uint16x8 -> uint16x8: the sums of a's neighbouring lanes, then those of b's."""
    if target.machine == "aarch64":
        return T.Bind(T.call_llvm_pure_intrin("uint16x8", "llvm.aarch64.neon.addp.v8i16", a, b))
    even, odd = ([tirx.const(2 * i + k, "int32") for i in range(8)] for k in range(2))
    return T.Bind(tirx.Shuffle([a, b], even) + tirx.Shuffle([a, b], odd))


def _splat(value: int, dtype: str, lanes: int) -> Expr:
    return splat(tirx.const(value, dtype), lanes)
