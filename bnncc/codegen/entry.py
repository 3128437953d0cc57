"""The entry points of a compiled network: one straight line of kernel calls, with every address known.

`bnncc_run` makes all calls in order, `bnncc_step` those of one layer, `bnncc_run_threads` all by several threads, see
threads.py; runtime/abi.py has their arguments.

The network's constants lie in the library's read-only data. TVM has no statement for that, so they enter as LLVM IR
text beside the function that hands out their address.
"""

from collections.abc import Sequence

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.codegen.calls import KernelCall, Memory, invoke
from bnncc.codegen.llvm import compile_object
from bnncc.codegen.threads import build_threads, clear_record, imports
from bnncc.runtime import abi
from bnncc.targets.target import Target

_ESCAPED = [f"\\{byte:02X}" for byte in range(256)]


def build_entry(
    calls: Sequence[KernelCall],
    inputs: int,
    outputs: int,
    constants: bytes,
    control: int,
    target: Target,
    *,
    reports: bool = False,
) -> bytes:
    """Object code of the entry points and the constants. `control`: the offset in the arena of what threads tell one
    another. reports: whether some calls report indices, at the start of the arena."""
    functions = {
        abi.RUN: _entry(calls, inputs, outputs, stepping=False, reports=reports),
        abi.STEP: _entry(calls, inputs, outputs, stepping=True, reports=False),
        **build_threads(calls, inputs, outputs, control, reports=reports),
        "memset": _memset(target),
        "memcpy": _memcpy(target),
    }
    return compile_object(functions, target, imports=_constants_as_llvm(constants) + imports(target))


def _entry(calls: Sequence[KernelCall], inputs: int, outputs: int, *, stepping: bool, reports: bool) -> tirx.PrimFunc:
    with IRBuilder() as ib, T.prim_func():
        step = T.arg("step", T.int32()) if stepping else None
        names = abi.arguments([f"in{i}" for i in range(inputs)], [f"out{i}" for i in range(outputs)], "arena")
        arguments = {name: T.arg(name, T.handle()) for name in names}
        memory = Memory(
            [arguments[f"in{i}"] for i in range(inputs)],
            [arguments[f"out{i}"] for i in range(outputs)],
            arguments["arena"],
        )
        if reports:
            clear_record(memory.arena)
        for call in calls:
            whole = invoke(call, memory, (call.begin, call.end))
            if step is None:
                T.evaluate(whole)
            else:
                with T.If(step == call.step), T.Then():
                    T.evaluate(whole)
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
    """LLVM IR of the constants, aligned as the arena is, and of the function that gives their address."""
    text = "".join(map(_ESCAPED.__getitem__, constants or b"\0"))
    size = max(1, len(constants))
    return (
        f'@bnncc_data = internal constant [{size} x i8] c"{text}", align {abi.ALIGNMENT}\n'
        "define ptr @bnncc_constants() { ret ptr @bnncc_data }\n"
    )
