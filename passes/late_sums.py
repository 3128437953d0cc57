"""What is cheap to compute again is not stored: one tensor goes to memory where several were functions of it.

Group-Net adds lambda * v of every base to a running sum, and mixes v into the next input of the base by a gate. Fused
where v is made, both are stored: `sum + lambda * v`, which the next base reads, and `gate * v`, which is read at the
end. Both are functions of v and of tensors that lie in memory anyway. So v alone is stored, and the last base's kernel,
which reads every v for the gates, adds them up in registers, in the same order.

A group of `FuseEpilogue` that stores several float tensors stores one instead, if all are made of that one by
elementwise operators that nothing else in the group needs, and each is read elementwise by one other group with a
kernel on the same extents: there they are computed.
"""

from __future__ import annotations

from typing import Protocol

from tvm import relax

from bnncc.ops import elementwise
from bnncc.ops.expressions import dtype, extents
from bnncc.ops.standard import Astype


class Groups(Protocol):
    """What `FuseEpilogue` found: see its _Grouping."""

    bindings: list[relax.Binding]
    members: dict[int, list[int]]
    anchor: dict[int, str]
    group_of: dict[int, int]

    def reads(self, index: int) -> set[int]:
        """Positions of the bindings that a binding reads."""


def sink(groups: Groups) -> None:
    """Move the operators, group by group: what one was given is moved on with its own."""
    readers: list[list[int]] = [[] for _ in groups.bindings]
    for index in range(len(groups.bindings)):
        for read in groups.reads(index):
            readers[read].append(index)
    for group in sorted(groups.members):
        stored = [
            index for index in groups.members[group] if _is_float(groups, index) and _is_read(groups, index, readers)
        ]
        homes = {index: _home(groups, index, readers) for index in stored}
        if len(stored) < 2:
            continue
        for kept in reversed(groups.members[group][1:]):
            moved = _moved(groups, kept, [index for index in stored if index != kept], homes, readers)
            if moved is not None:
                _move(groups, group, moved)
                break


def _is_float(groups: Groups, index: int) -> bool:
    return dtype(groups.bindings[index].value) == "float32"


def _is_read(groups: Groups, index: int, readers: list[list[int]]) -> bool:
    """Whether a value of a group is read outside of it."""
    inside = groups.group_of[index]
    is_output = not isinstance(groups.bindings[index].var, relax.DataflowVar)
    return is_output or any(groups.group_of.get(reader) != inside for reader in readers[index])


def _home(groups: Groups, index: int, readers: list[list[int]]) -> int | None:
    """The one group that reads a value, and could compute it; None where there is none."""
    here = groups.group_of[index]
    homes = {groups.group_of.get(reader) for reader in readers[index]} - {here}
    if len(homes) != 1 or not isinstance(groups.bindings[index].var, relax.DataflowVar):
        return None
    (home,) = homes
    if home is None or groups.anchor[home] == "none" or home in readers[index]:
        return None
    same = extents(groups.bindings[home].value) == extents(groups.bindings[index].value)
    return home if same and dtype(groups.bindings[home].value) in ("int32", "float32") else None


def _moved(
    groups: Groups, kept: int, stored: list[int], homes: dict[int, int | None], readers: list[list[int]]
) -> dict[int, int] | None:
    """Each operator between a value and the stored ones -> the group that computes it from now on; None where `kept` is
    not all they need of their group."""
    group, found = groups.group_of[kept], dict[int, int]()
    if not _is_float(groups, kept):
        return None
    for index in stored:
        home, waiting = homes[index], [index]
        while waiting:
            member = waiting.pop()
            if member == kept or groups.group_of.get(member) != group:
                continue
            operation = elementwise.find(groups.bindings[member].value)
            movable = (
                operation is not None and operation.emit is not None and not Astype.match(groups.bindings[member].value)
            )
            if home is None or not movable or found.setdefault(member, home) != home:
                return None
            waiting += groups.reads(member)
    is_needed = any(
        groups.group_of.get(reader) == group and reader not in found for member in found for reader in readers[member]
    )
    return None if is_needed else found


def _move(groups: Groups, group: int, moved: dict[int, int]) -> None:
    groups.members[group] = [index for index in groups.members[group] if index not in moved]
    groups.group_of.update(moved)
    for home in set(moved.values()):
        given = [index for index, to in moved.items() if to == home]
        first, *rest = groups.members[home]
        groups.members[home] = [first, *sorted(rest + given)]
