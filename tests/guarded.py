"""Memory between two pages that nobody may touch: whoever reads or writes outside dies of it."""

import ctypes
import mmap

import numpy as np
import numpy.typing as npt

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def memory(size: int, *, at_end: bool, alignment: int = 1) -> npt.NDArray[np.uint8]:
    """`size` bytes, all 0x55, that begin right behind a page nobody may touch, or end right before one (as near as
    their start's `alignment` lets them)."""
    room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = np.frombuffer(mmap.mmap(-1, room + 2 * mmap.PAGESIZE), np.uint8)
    for page in (0, room + mmap.PAGESIZE):
        if _LIBC.mprotect(pages.ctypes.data + page, mmap.PAGESIZE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = mmap.PAGESIZE + ((room - size) // alignment * alignment if at_end else 0)
    inside = pages[start : start + size]
    inside.fill(0x55)
    return inside
