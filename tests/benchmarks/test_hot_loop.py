"""The hot loop is found in assembly, and its products are counted."""

import shutil

import pytest

from benchmarks import hot_loop

ASSEMBLY = """
kernel:
.LBB0_1:
	mov	x1, #0
.LBB0_2:                                // =>  This Inner Loop
	ldr	q0, [x2, x1]
	cnt	v0.16b, v0.16b
	str	q0, [sp, #16]
	b.ne	.LBB0_2
.LBB0_3:
	cnt	v1.8b, v1.8b
	cbnz	x3, .LBB0_3
	b.ne	.LBB0_1
"""


def test_the_innermost_loop_with_the_most_counts() -> None:
    loop = hot_loop.find(ASSEMBLY)
    assert [line.split()[0] for line in loop.instructions] == ["ldr", "cnt", "str", "b.ne"]
    assert loop.macs == 128
    assert loop.spills == 1


def test_armv7() -> None:
    loop = hot_loop.find(".LBB0_1:\n\tvcnt.8\tq8, q8\n\tvcnt.8\td1, d2\n\tbne\t.LBB0_1\n")
    assert loop.macs == 128 + 64


def test_code_without_loops() -> None:
    assert hot_loop.find("kernel:\n\tcnt\tv0.16b, v0.16b\n\tret\n") == hot_loop.HotLoop((), 0)


@pytest.mark.skipif(shutil.which(hot_loop.TOOL) is None, reason=f"{hot_loop.TOOL} is not installed")
def test_a_chain_that_the_vector_pipes_limit() -> None:
    lines = []
    for n in range(0, 24, 2):
        lines += [f"\teor\tv{n}.16b, v30.16b, v31.16b", f"\tcnt\tv{n}.16b, v{n}.16b"]
        lines += [f"\tadd\tv{n + 1}.16b, v{n}.16b, v{n + 1}.16b"]
    loop = hot_loop.find("\n".join([".LBB0_1:", *lines, "\tb.ne\t.LBB0_1"]))
    rate = hot_loop.macs_per_cycle(loop, "aarch64-linux-gnu", "cortex-a72")
    assert rate is not None
    assert 80 < rate <= 256 / 3
