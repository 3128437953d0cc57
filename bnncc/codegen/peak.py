"""What one core can do at most: loops of the kernels' own instructions that touch no memory.

    int32 bnncc_peak(int32 kind, int64 iterations, int64* done)

BINARY: value += popcount(value ^ weights) on the vectors that xnor_conv2d uses; FLOAT32: value += value *
factor; INT8: products of 8-bit integers, as conv2d_int8 adds them. Each chain depends on itself alone, and there are
enough of them to hide the latency. `*done` is read, so that nothing is known at compile time, and then holds the number
of products made.
"""

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.runtime.abi import PeakKind
from bnncc.targets.target import Target
from bnncc.tir.int8_dot import dot
from bnncc.tir.registers import Buffer, Expr, local, ramp, splat
from bnncc.tir.tiles import arg

_CHAINS = {
    PeakKind.BINARY: 10,
    PeakKind.FLOAT32: 12,
    PeakKind.INT8: 12,
}  # within 16 registers, with what the instructions need beside them
_UNLIKELY = 0x5BD1E995_2127599B  # no sum of results is this, but the compiler cannot know


def build(target: Target) -> tirx.PrimFunc:
    """The function above."""
    with IRBuilder() as ib, T.prim_func():
        T.func_attr({"tirx.noalias": True})
        kind, iterations = T.arg("kind", T.int32()), T.arg("iterations", T.int64())
        done = arg("done", "int64")
        with T.If(kind == int(PeakKind.BINARY)), T.Then():
            _binary(target, iterations, done)
        with T.If(kind == int(PeakKind.FLOAT32)), T.Then():
            _float(target, iterations, done)
        with T.If(kind == int(PeakKind.INT8)), T.Then():
            _int8(target, iterations, done)
    return ib.get()


def _binary(target: Target, iterations: Expr, done: Buffer) -> None:
    lanes, dtype, words = target.popcount_lanes, f"uint{target.lane_bits}", target.vector_bits // 64
    weights = T.Bind(splat(T.cast(done[0], dtype), lanes))
    chains = [local(dtype, lanes) for _ in range(_CHAINS[PeakKind.BINARY])]
    for number, chain in enumerate(chains):
        T.buffer_store(chain, weights + splat(tirx.const(number + 1, dtype), lanes), [ramp(0, lanes)])
    _repeat(iterations, chains, lambda value: value + T.popcount(value ^ weights), lanes)
    _store(chains, lanes, words, iterations, target.vector_bits, done)


def _float(target: Target, iterations: Expr, done: Buffer) -> None:
    lanes, words = target.float_lanes, target.vector_bits // 64
    # 0 or 2^-30: values stay what they are, no infinities, no denormals.
    bit = T.cast(T.cast(T.bitwise_and(done[0], tirx.const(1, "int64")), "int32"), "float32")
    factor = T.Bind(splat(bit * tirx.const(2.0**-30, "float32"), lanes))
    chains = [local("float32", lanes) for _ in range(_CHAINS[PeakKind.FLOAT32])]
    for number, chain in enumerate(chains):
        T.buffer_store(chain, factor + splat(tirx.const(float(number + 1), "float32"), lanes), [ramp(0, lanes)])
    _repeat(iterations, chains, lambda value: value + value * factor, lanes)
    _store(chains, lanes, words, iterations, lanes, done)


def _int8(target: Target, iterations: Expr, done: Buffer) -> None:
    use = dot(target)
    bits = use.group * (16 if use.inputs == "int16" else 8)
    values = T.Bind(T.reinterpret(f"{use.inputs}x{use.group}", T.cast(done[0], f"int{bits}")))
    chains = [local("int32", use.lanes) for _ in range(_CHAINS[PeakKind.INT8])]
    for number, chain in enumerate(chains):
        start = splat(T.cast(done[0], "int32") + tirx.const(number + 1, "int32"), use.lanes)
        T.buffer_store(chain, start, [ramp(0, use.lanes)])
    # The sums themselves are the weights: constant ones would be multiplied once, before the loop.
    kind = f"{use.weights}x{use.group * use.lanes}"
    _repeat(iterations, chains, lambda value: use.add(value, values, T.reinterpret(kind, value)), use.lanes)
    _store(chains, use.lanes, use.lanes // 2, iterations, use.group * use.lanes, done)


def _repeat(iterations: Expr, chains: list[Buffer], step: Callable[[Expr], Expr], lanes: int) -> None:
    with T.serial(tirx.const(0, "int64"), iterations):
        for chain in chains:
            T.buffer_store(chain, step(chain[ramp(0, lanes)]), [ramp(0, lanes)])


def _store(chains: list[Buffer], lanes: int, words: int, iterations: Expr, products: int, done: Buffer) -> None:
    """*done = the number of products, by way of all results (vectors of `words` x 64 bits), so that none can
    be left out."""
    total = tirx.const(0, "uint64")
    for chain in chains:
        value = T.reinterpret(f"uint64x{words}", chain[ramp(0, lanes)])
        total = total + T.call_llvm_pure_intrin("uint64", f"llvm.vector.reduce.add.v{words}i64", value)
    count = iterations * tirx.const(len(chains) * products, "int64")
    unlikely = T.Bind(total) == tirx.const(_UNLIKELY, "uint64")
    T.buffer_store(done, T.Select(unlikely, tirx.const(0, "int64"), count), [0])
