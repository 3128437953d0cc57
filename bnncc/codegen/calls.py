"""Kernel calls as the entry points write them: a symbol, and arguments whose places in memory are known."""

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from bnncc.tir.registers import Expr


@dataclass(frozen=True)
class Address:
    """Where a kernel's argument lies: number `at` of the "input"s or "output"s, or byte `at` of the "arena" or of the
    "constants"."""

    space: str
    at: int


@dataclass(frozen=True)
class KernelCall:
    """One call: the kernel's symbol and its arguments in order.

    step: the layer it belongs to. begin, end: the units of the kernel it computes; (0, 0) for a kernel without units.
    work: what it costs, see `threads.work`.
    """

    kernel: str
    arguments: tuple[Address, ...]
    step: int
    begin: int = 0
    end: int = 0
    work: int = 0


@dataclass(frozen=True)
class Memory:
    """Pointers to the tensors and the arena inside an entry point."""

    inputs: Sequence[Expr]
    outputs: Sequence[Expr]
    arena: Expr

    def pointer(self, where: Address) -> Expr:
        """A pointer to an argument."""
        if where.space == "constants":
            return T.handle_add_byte_offset(T.call_extern("handle", "bnncc_constants"), where.at)
        if where.space == "arena":
            return T.handle_add_byte_offset(self.arena, where.at)
        return (self.inputs if where.space == "input" else self.outputs)[where.at]


def invoke(call: KernelCall, memory: Memory, units: tuple[Expr, Expr]) -> Expr:
    """The call, for the units from the first to before the second."""
    pointers = [memory.pointer(argument) for argument in call.arguments]
    return T.call_extern("int32", call.kernel, *pointers, *(units if call.end else ()))
