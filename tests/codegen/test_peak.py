"""The loops that measure the machine are the instructions they claim to be."""

import re

import pytest

from bnncc.bench import kernel
from bnncc.codegen import peak
from bnncc.codegen.llvm import compile_object
from bnncc.runtime.abi import PeakKind
from bnncc.targets import TARGETS
from bnncc.targets.target import Target
from bnncc.tir.int8_dot import dot
from tests.kernelrun import each_target

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
    function = kernel.load({"peak": peak.build(target)}, target)["peak"]
    int8 = dot(target).lanes * dot(target).group
    lanes = {PeakKind.BINARY: target.vector_bits, PeakKind.FLOAT32: target.float_lanes, PeakKind.INT8: int8}
    for kind in PeakKind:
        done = kernel.peak(function, kind, 1000)
        assert done % (1000 * lanes[kind]) == 0
        assert done > 0
