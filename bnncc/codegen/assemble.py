"""Program -> objects: compile its kernels, place its temporaries, write its entry points. `link` makes a shared
library of them; a program in C can link them too."""

import numpy as np

from bnncc.codegen import peak
from bnncc.codegen.calls import Address, KernelCall
from bnncc.codegen.entry import build_entry
from bnncc.codegen.llvm import compile_object
from bnncc.codegen.memory_plan import Lifetime, plan
from bnncc.codegen.threads import control_bytes, work
from bnncc.options import Options
from bnncc.progress import Progress, silent
from bnncc.runtime.abi import ALIGNMENT, PEAK
from bnncc.selection.program import Legalised, Program
from bnncc.targets.target import Target
from bnncc.tir import shares


def assemble(
    program: Program, target: Target, options: Options, progress: Progress = silent
) -> tuple[list[bytes], int]:
    """The network's objects, which need nothing but each other, and the bytes of arena it runs in."""
    objects = []
    for done, (symbol, kernel) in enumerate(program.kernels.items()):
        progress("compile kernels", done, len(program.kernels))
        has_blocks = isinstance(kernel, Legalised)
        objects.append(compile_object({symbol: kernel.function}, target, schedulable=has_blocks))
    progress("compile kernels", len(program.kernels), len(program.kernels))
    # What a run reports lies before everything else.
    start = ALIGNMENT if any(call.reports for call in program.calls) else 0
    offsets, arena = plan(_lifetimes(program))
    arena += start
    arena += ALIGNMENT  # kernels read up to a vector more than they use of the last tensor, see byte_counts.py
    constants, places = _place_constants(program)
    places |= {name: Address("arena", start + offset) for name, offset in offsets.items()}
    places |= {name: Address("input", i) for i, name in enumerate(program.inputs)}
    places |= {program.root(name): Address("output", i) for i, name in enumerate(program.outputs)}
    calls = []
    for number, call in enumerate(program.calls):
        addresses = [
            places[program.root(value)] if isinstance(value, str) else places[_constant_name(number, i)]
            for i, value in enumerate(call.inputs)
        ]
        spaces = [places[_workspace_name(number, i)] for i in range(len(call.workspace))]
        outputs = [places[program.root(name)] for name in call.outputs]
        at = call.workspace_at
        whole = [*addresses, *outputs]
        record = (Address("arena", 0),) if call.reports else ()
        arguments = (*whole[:at], *spaces, *whole[at:], *record)
        for image in range(call.batch):
            if call.filler:
                calls.append(_call(program, number, call.filler, (addresses[0], *spaces), image))
            calls.append(_call(program, number, call.kernel, arguments, image))
    sizes = len(program.inputs), len(program.outputs)
    objects.append(build_entry(calls, *sizes, constants, arena, target, reports=bool(start)))
    if options.peaks:
        objects.append(compile_object({PEAK: peak.build(target)}, target))
    return objects, arena + control_bytes(calls)


def _call(program: Program, number: int, symbol: str, arguments: tuple[Address, ...], image: int) -> KernelCall:
    """The call of one kernel of layer `number`, for one image where they are taken one after the other."""
    call, layer = program.calls[number], program.calls[number].layer
    units = shares.units(program.kernels[symbol].function) // call.batch
    if symbol == call.filler:
        cost = work(0, False, 2 * layer.bytes_in // call.batch)
    else:
        moved = (layer.bytes_in + layer.bytes_out) // call.batch + layer.bytes_weights
        cost = work(layer.macs // call.batch, layer.binary, moved)
    return KernelCall(symbol, arguments, number, image * units, (image + 1) * units, cost)


def _constant_name(call: int, argument: int) -> str:
    return f"constant {call} {argument}"


def _workspace_name(call: int, number: int) -> str:
    return f"workspace {call} {number}"


def _lifetimes(program: Program) -> dict[str, Lifetime]:
    """Temporaries by name: from the call that writes them to the last that reads them."""
    outside = {program.root(name) for name in (*program.inputs, *program.outputs)}
    lives: dict[str, Lifetime] = {}
    for number, call in enumerate(program.calls):
        for i, size in enumerate(call.workspace):
            lives[_workspace_name(number, i)] = Lifetime(size, number, number)
        for name in (program.root(name) for name in call.outputs):
            if name not in outside:
                lives[name] = Lifetime(program.values[name].size, number, number)
        for name in (program.root(value) for value in call.inputs if isinstance(value, str)):
            if name in lives:
                lives[name] = Lifetime(lives[name].size, lives[name].first, number)
    return lives


def _place_constants(program: Program) -> tuple[bytes, dict[str, Address]]:
    """All constants one behind the other, equal ones once, each aligned to a cache line."""
    data = bytearray()
    known: dict[bytes, Address] = {}
    places: dict[str, Address] = {}
    for number, call in enumerate(program.calls):
        for i, value in enumerate(call.inputs):
            if isinstance(value, str):
                continue
            content = np.ascontiguousarray(value).tobytes()
            if content not in known:
                data += bytes(-len(data) % ALIGNMENT)
                known[content] = Address("constants", len(data))
                data += content
            places[_constant_name(number, i)] = known[content]
    return bytes(data), places
