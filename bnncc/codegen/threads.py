"""Running one inference on several threads of a pool that somebody else has: the OpenMP runtime of the process.

    int32 bnncc_run_threads(int32 threads, void* const* table)

`table` holds the functions of `abi.Team` and then what bnncc_run takes. GOMP_parallel lets every thread of a team run
the same worker.

The calls are cut into phases: one divided call, or several that are not worth dividing. A phase is a number of chunks
in as many queues as there are threads. A thread takes the chunks of its own queue, which are the same rows or channels
in every inference and so lie in its cache, then those that are left in the others', and goes on when all chunks of the
phase are done. So a phase waits for chunks and not for threads: one that the operating system has put aside costs the
time of the chunk it holds, and the others do the rest. On two cores that other programs kept busy, two threads were so
1.5 times slower than one; with OpenMP's own barriers, which wait for every thread in every phase, 25 times.

TIR has no atomics, calls through pointers or addresses of functions, so those are a few lines of LLVM IR.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.codegen.calls import KernelCall, Memory, invoke
from bnncc.runtime import abi
from bnncc.runtime.abi import ALIGNMENT, Team
from bnncc.targets.target import Target
from bnncc.tir.registers import Expr

WORKER = "bnncc_worker"

_QUEUES = 8  # at most; more threads than that share them
_CHUNKS = 4  # of each queue, at most: the finer, the less is lost with a thread that is put aside
# What a chunk should take at least, and all divided calls together for it to be worth waking threads, in float32
# multiply-accumulates: about 1 us and 50 us of one x86 core. Going on to the next phase takes up to 1 us.
_LEAST_CHUNK = 50_000
_LEAST_WORK = 2_500_000
_SPINS = 2000  # looks at a counter before the processor is offered to others


@dataclass(frozen=True)
class _Phase:
    """Calls in order, of which one alone is divided into `chunks` at most."""

    calls: tuple[KernelCall, ...]
    chunks: int


def work(macs: int, binary: bool, moved: int) -> int:
    """A call's cost in float32 multiply-accumulates, as rough as it has to be to hold for every target: a binary one
    costs a tenth, moving a byte between caches as much as three."""
    return macs // (10 if binary else 1) + 3 * moved


def control_bytes(calls: Sequence[KernelCall]) -> int:
    """Bytes at the end of the arena for what threads tell one another; 0 when nothing is divided."""
    return (1 + len(_phases(calls)) * (1 + _QUEUES)) * ALIGNMENT if _divides(calls) else 0


def build_threads(
    calls: Sequence[KernelCall], inputs: int, outputs: int, control: int, *, reports: bool
) -> dict[str, tirx.PrimFunc]:
    """`bnncc_run_threads` and the worker, to be compiled together with `imports`. `control`: the offset in the arena of
    the `control_bytes`. reports: whether some calls report indices."""
    functions = {abi.RUN_THREADS: _run(calls, inputs, outputs, control, reports)}
    if _divides(calls):
        functions[WORKER] = _worker(calls, inputs, outputs, control)
    return functions


def _divides(calls: Sequence[KernelCall]) -> bool:
    return sum(call.work for call in calls if _chunks(call) > 1) >= _LEAST_WORK


def _chunks(call: KernelCall) -> int:
    return max(1, min(call.end - call.begin, call.work // _LEAST_CHUNK))


def _phases(calls: Sequence[KernelCall]) -> list[_Phase]:
    phases: list[_Phase] = []
    for call in calls:
        chunks = _chunks(call)
        if chunks == 1 and phases and phases[-1].chunks == 1:
            phases[-1] = _Phase((*phases[-1].calls, call), 1)
        else:
            phases.append(_Phase((call,), chunks))
    return phases


def clear_record(arena: Expr) -> None:
    """Before a run: no index has been outside. Both halves of the record's first number."""
    for half in (0, 4):
        _set(T.handle_add_byte_offset(arena, half), 0)


def _run(calls: Sequence[KernelCall], inputs: int, outputs: int, control: int, reports: bool) -> tirx.PrimFunc:
    """One thread, or a network with nothing worth dividing: no team."""
    tensors = inputs + outputs
    with IRBuilder() as ib, T.prim_func():
        threads, table = T.arg("threads", T.int32()), T.arg("table", T.handle())
        alone = T.call_extern("int32", abi.RUN, *[_pointer(table, Team.TENSORS + i) for i in range(tensors + 1)])
        with T.If(threads > 1 if _divides(calls) else tirx.const(False, "bool")):
            with T.Then():
                arena = T.Bind(_pointer(table, Team.TENSORS + tensors))
                if reports:
                    clear_record(arena)
                queues = T.Bind(T.min(threads, _QUEUES))
                _set(T.handle_add_byte_offset(arena, control), queues)
                with T.serial(0, len(_phases(calls))) as phase, T.serial(0, queues + 1) as i:
                    line = control + ALIGNMENT + (phase * (_QUEUES + 1) + i) * ALIGNMENT
                    _set(T.handle_add_byte_offset(arena, line), 0)
                T.evaluate(T.call_extern("int32", "bnncc_start_team", table, threads))
            with T.Else():
                T.evaluate(alone)
    return ib.get()


def _worker(calls: Sequence[KernelCall], inputs: int, outputs: int, control: int) -> tirx.PrimFunc:
    """What each thread of the team runs."""
    with IRBuilder() as ib, T.prim_func():
        table = T.arg("table", T.handle())
        memory = Memory(
            [T.Bind(_pointer(table, Team.TENSORS + i)) for i in range(inputs)],
            [T.Bind(_pointer(table, Team.TENSORS + inputs + i)) for i in range(outputs)],
            T.Bind(_pointer(table, Team.TENSORS + inputs + outputs)),
        )
        mine = T.Bind(T.call_extern("int32", "bnncc_thread", table))
        queues = T.Bind(T.call_extern("int32", "bnncc_get", T.handle_add_byte_offset(memory.arena, control)))
        claimed = T.alloc_buffer((1,), "int32", scope="local")
        for number, phase in enumerate(_phases(calls)):
            line = control + ALIGNMENT + number * (_QUEUES + 1) * ALIGNMENT
            done = T.handle_add_byte_offset(memory.arena, line)
            chunks = T.Bind(T.min(queues * _CHUNKS, phase.chunks))
            with T.serial(0, queues) as i:
                queue = T.Bind(T.truncmod(mine + i, queues))
                first = T.Bind(T.truncdiv(chunks * queue, queues))
                count = T.Bind(T.truncdiv(chunks * (queue + 1), queues) - first)
                place = T.handle_add_byte_offset(memory.arena, line + ALIGNMENT + queue * ALIGNMENT)
                T.buffer_store(claimed, T.call_extern("int32", "bnncc_claim", place), [0])
                with T.While(claimed[0] < count):
                    for call in phase.calls:
                        units, chunk = call.end - call.begin, first + claimed[0]
                        begin, end = (T.Bind(call.begin + T.truncdiv(units * (chunk + j), chunks)) for j in range(2))
                        whole = (call.begin, call.end)
                        T.evaluate(invoke(call, memory, (begin, end) if phase.chunks > 1 else whole))
                    T.evaluate(T.call_extern("int32", "bnncc_finish", done))
                    T.buffer_store(claimed, T.call_extern("int32", "bnncc_claim", place), [0])
            T.evaluate(T.call_extern("int32", "bnncc_wait", table, done, chunks))
    return ib.get()


def _pointer(table: Expr, index: int) -> Expr:
    return T.call_extern("handle", "bnncc_pointer", table, int(index))


def _set(place: Expr, value: Expr) -> None:
    T.evaluate(T.call_extern("int32", "bnncc_set", place, value))


_PAUSES = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}


def imports(target: Target) -> str:
    """The functions TIR cannot express. LLVM inlines them and drops them; that is why none of them is the worker, whose
    address GOMP_parallel takes. It returns 0 where GOMP_parallel wants void, which no calling convention minds."""
    declaration, pause = _PAUSES.get(target.machine, ("", ""))
    return f"""
{declaration}
declare i32 @{WORKER}(ptr)
define ptr @bnncc_pointer(ptr %table, i32 %index) {{
  %place = getelementptr ptr, ptr %table, i32 %index
  %pointer = load ptr, ptr %place
  ret ptr %pointer
}}
define i32 @bnncc_start_team(ptr %table, i32 %threads) {{
  %place = getelementptr ptr, ptr %table, i32 {Team.GOMP_PARALLEL:d}
  %parallel = load ptr, ptr %place
  call void %parallel(ptr @{WORKER}, ptr %table, i32 %threads, i32 0)
  ret i32 0
}}
define i32 @bnncc_thread(ptr %table) {{
  %place = getelementptr ptr, ptr %table, i32 {Team.OMP_GET_THREAD_NUM:d}
  %function = load ptr, ptr %place
  %number = call i32 %function()
  ret i32 %number
}}
define i32 @bnncc_get(ptr %place) {{
  %value = load i32, ptr %place
  ret i32 %value
}}
define i32 @bnncc_set(ptr %place, i32 %value) {{
  store i32 %value, ptr %place
  ret i32 0
}}
define i32 @bnncc_claim(ptr %counter) {{
  %number = atomicrmw add ptr %counter, i32 1 monotonic
  ret i32 %number
}}
define i32 @bnncc_finish(ptr %counter) {{
  %before = atomicrmw add ptr %counter, i32 1 release
  ret i32 %before
}}
define i32 @bnncc_wait(ptr %table, ptr %counter, i32 %count) {{
start:
  br label %look
look:
  %spins = phi i32 [ 0, %start ], [ %next, %pause ], [ %next, %yield ]
  %value = load atomic i32, ptr %counter acquire, align 4
  %done = icmp sge i32 %value, %count
  br i1 %done, label %end, label %again
again:
  %next = add i32 %spins, 1
  %long = icmp sgt i32 %next, {_SPINS}
  br i1 %long, label %yield, label %pause
pause:
  {pause}
  br label %look
yield:
  %place = getelementptr ptr, ptr %table, i32 {Team.SCHED_YIELD:d}
  %function = load ptr, ptr %place
  %result = call i32 %function()
  br label %look
end:
  ret i32 0
}}
"""
