"""Indices counted from the front, and the first that is outside its axis reported; see ops/check_indices.py.

It is no `Kernel`: it has nothing to choose from, and besides its tensors takes the record of the run.
"""

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from bnncc.runtime import abi


def build(count: int, dtype: str, extents: tuple[int, ...], number: int) -> tirx.PrimFunc:
    """f(x, y, record) for `count` indices of `dtype`. extents: of one axis, or of as many as the last axis of x has
    places. number: that of this check in the network, from 1. The record is `abi.IndexRecord`."""
    with IRBuilder() as ib, T.prim_func():
        x = T.arg("x", T.buffer((count,), dtype))
        y = T.arg("y", T.buffer((count,), dtype))
        record = T.arg("record", T.buffer((len(abi.IndexRecord),), "int64"))
        for place, extent in enumerate(extents):
            with T.serial(0, count // len(extents)) as i:
                at = T.Bind(i * len(extents) + place)
                index, limit = T.Bind(x[at]), tirx.const(extent, dtype)
                inside = T.Select(index < 0, T.max(index, -limit) + limit, T.min(index, limit - 1))
                T.buffer_store(y, inside, [at])
                outside = T.bitwise_or(index < -limit, index >= limit)
                first = record[abi.IndexRecord.CHECK] == 0
                with T.If(T.bitwise_and(outside, first)), T.Then():
                    T.buffer_store(record, tirx.const(number, "int64"), [abi.IndexRecord.CHECK])
                    T.buffer_store(record, T.cast(index, "int64"), [abi.IndexRecord.INDEX])
                    T.buffer_store(record, tirx.const(extent, "int64"), [abi.IndexRecord.EXTENT])
    return ib.get()
