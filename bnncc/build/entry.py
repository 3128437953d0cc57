"""The entry points of a compiled network: one straight line of kernel calls, with every address known.

    int32 bnncc_run(in0, ..., out0, ..., uint8* arena)               all calls, in order
    int32 bnncc_step(int32 step, in0, ..., out0, ..., uint8* arena)  call number `step` alone, for profiling

The network's constants lie in the library's read-only data. TVM has no statement for that, so they enter as LLVM IR
text beside the function that hands out their address.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.build.codegen import compile_object
from bnncc.kernels.registers import Buffer, Expr
from bnncc.targets.target import Target

_ESCAPED = [f"\\{byte:02X}" for byte in range(256)]


@dataclass(frozen=True)
class Address:
    """Where a kernel's argument lies: number `at` of the "input"s or "output"s, or byte `at` of the "arena" or of the
    "constants"."""

    space: str
    at: int


@dataclass(frozen=True)
class KernelCall:
    """One call: the kernel's symbol and its arguments in order."""

    kernel: str
    arguments: tuple[Address, ...]


def build_entry(calls: Sequence[KernelCall], inputs: int, outputs: int, constants: bytes, target: Target) -> bytes:
    """Object code of the entry points and the constants."""
    functions = {
        "bnncc_run": _entry(calls, inputs, outputs, constants, stepping=False),
        "bnncc_step": _entry(calls, inputs, outputs, constants, stepping=True),
        "memset": _memset(target),
        "memcpy": _memcpy(target),
    }
    return compile_object(functions, target, imports=_constants_as_llvm(constants))


def _entry(
    calls: Sequence[KernelCall], inputs: int, outputs: int, constants: bytes, *, stepping: bool
) -> tirx.PrimFunc:
    with IRBuilder() as ib, T.prim_func():
        step = T.arg("step", T.int32()) if stepping else None
        spaces: dict[str, list[Buffer]] = {
            "input": [T.arg(f"in{i}", T.buffer((1,), "uint8")) for i in range(inputs)],
            "output": [T.arg(f"out{i}", T.buffer((1,), "uint8")) for i in range(outputs)],
        }
        arena = T.arg("arena", T.buffer((1,), "uint8"))
        pointer = T.Bind(T.call_extern("handle", "bnncc_constants"))

        def address(where: Address) -> Expr:
            if where.space == "constants":
                return T.handle_add_byte_offset(pointer, where.at)
            if where.space == "arena":
                return T.address_of(arena[where.at])
            return T.address_of(spaces[where.space][where.at][0])

        for number, call in enumerate(calls):
            invoke = T.call_extern("int32", call.kernel, *[address(argument) for argument in call.arguments])
            if step is None:
                T.evaluate(invoke)
            else:
                with T.If(step == number), T.Then():
                    T.evaluate(invoke)
    return ib.get()


def _memset(target: Target) -> tirx.PrimFunc:
    """LLVM writes loops that fill memory as calls of memset; a library that needs no other has its own. (LLVM knows
    the names memset and memcpy and does not turn their loops into calls of themselves.)"""
    with IRBuilder() as ib, T.prim_func():
        to = T.arg("to", T.buffer((1,), "uint8"))
        value = T.arg("value", T.int32())
        size = T.arg("size", T.int64() if target.pointer_bits == 64 else T.int32())
        with T.serial(tirx.const(0, f"int{target.pointer_bits}"), size) as i:
            T.buffer_store(to, T.cast(value, "uint8"), [i])
    return ib.get()


def _memcpy(target: Target) -> tirx.PrimFunc:
    with IRBuilder() as ib, T.prim_func():
        to = T.arg("to", T.buffer((1,), "uint8"))
        source = T.arg("source", T.buffer((1,), "uint8"))
        size = T.arg("size", T.int64() if target.pointer_bits == 64 else T.int32())
        with T.serial(tirx.const(0, f"int{target.pointer_bits}"), size) as i:
            T.buffer_store(to, source[i], [i])
    return ib.get()


def _constants_as_llvm(constants: bytes) -> str:
    """LLVM IR of the constants, 64-byte aligned, and of the function that gives their address."""
    text = "".join(map(_ESCAPED.__getitem__, constants or b"\0"))
    size = max(1, len(constants))
    return (
        f'@bnncc_data = internal constant [{size} x i8] c"{text}", align 64\n'
        "define ptr @bnncc_constants() { ret ptr @bnncc_data }\n"
    )
