"""What TVM makes of an operator without a kernel of ours, in the form that a program calls."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import tirx


def temporaries_to_params(func: tirx.PrimFunc) -> tuple[tirx.PrimFunc, tuple[int, ...]]:
    """Turn the buffers that a function of TVM's allocates into parameters, and say their sizes in bytes: there is no
    runtime to allocate them, and the stack of a thread is small."""
    realize = func.body
    block = realize.block
    sizes = tuple(
        int(np.prod([int(extent) for extent in buffer.shape], dtype=np.int64)) * np.dtype(str(buffer.dtype)).itemsize
        for buffer in block.alloc_buffers
    )
    if not sizes:
        return func, ()
    bare = tvm.s_tir.SBlock(
        block.iter_vars, block.reads, block.writes, block.name_hint, block.body, block.init, [], block.match_buffers,
        block.annotations,
    )  # fmt: skip
    body = tvm.s_tir.SBlockRealize(realize.iter_values, realize.predicate, bare)
    return tirx.PrimFunc([*func.params, *block.alloc_buffers], body, func.ret_type, func.attrs), sizes
