"""The loops that measure the machine are the instructions they claim to be."""

import ctypes
import re

import numpy as np
import pytest

from bnncc.codegen import peak
from bnncc.codegen.llvm import compile_object
from bnncc.targets import TARGETS
from bnncc.targets.target import Target
from bnncc.tir.int8_dot import dot
from tests.kernelrun import each_target, load

# The popcount of the target's vectors, its multiply-add, and its products of 8-bit integers.
INSTRUCTIONS = {
    "x86-avx512": (r"vpopcntq\s+%zmm", r"vfmadd\w+ps\s.*%zmm", r"vpdpbusd\s.*%zmm"),
    "x86-avx2": (r"vpshufb\s+%ymm", r"vfmadd\w+ps\s.*%ymm", r"vpmaddwd\s.*%ymm"),
    "x86": (r"pshufb\s+%xmm", r"mulps\s+%xmm", r"pmaddwd\s.*%xmm"),
    "arm": (r"cnt\s+v\d+\.16b", r"fmla\s+v\d+\.4s", r"smlal2?\s+v\d+\.8h"),
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_assembly(name: str) -> None:
    text = compile_object({"bnncc_peak": peak.build(TARGETS[name])}, TARGETS[name], "s").decode()
    for pattern, chains in zip(INSTRUCTIONS[name], (10, 12, 12), strict=True):
        assert len(re.findall(pattern, text)) >= chains, pattern


@each_target
def test_counts_products(target: Target) -> None:
    function = load(peak.build(target), target)
    int8 = dot(target).lanes * dot(target).group
    for kind, lanes in ((peak.BINARY, target.vector_bits), (peak.FLOAT, target.float_lanes), (peak.INT8, int8)):
        done = np.zeros(1, np.int64)
        assert function(ctypes.c_int32(kind), ctypes.c_int64(1000), ctypes.c_void_p(done.ctypes.data)) == 0
        assert done[0] % (1000 * lanes) == 0
        assert done[0] > 0
