"""Running a kernel with an epilogue and comparing all its outputs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from bnncc.kernels.kernel import Kernel
from bnncc.kernels.schedule import Schedule
from bnncc.targets.target import Target
from tests.kernelrun import run
from tests.kernels.epilogues import Case

Array = npt.NDArray[Any]


def schedules(kernel: Kernel, target: Target) -> st.SearchStrategy[Schedule]:
    """The default and, as often, any other schedule that the kernel can have."""
    return st.just(kernel.default(target)) | st.sampled_from(list(kernel.schedules(target)))


def check(
    kernel: Kernel,
    target: Target,
    schedule: Schedule,
    inputs: Sequence[Array],
    constants: Sequence[Array],
    case: Case,
    accumulator: Array,
    rtol: float,
    atol: float,
    execute: Callable[..., None] = run,
) -> None:
    """Floats agree within `rtol` and `atol`; integers are equal; bits are equal but where the float they compare is
    within the same tolerance of its threshold. inputs: with the workspace, where there is one, at their end."""
    epilogue = case.epilogue
    exact = rtol == 0 and atol == 0
    expected = case.expected(accumulator)
    # Filled with rubbish: every byte has to be written.
    results = [np.full(e.shape, 0x55, o.dtype) for e, o in zip(expected, epilogue.outputs, strict=True)]
    arranged = kernel.arrange(constants, target, schedule)
    arguments = [inputs[0], *arranged, *inputs[1:], *case.params, *results]
    found = kernel.arguments(epilogue, target, schedule)
    assert [array.nbytes for array in arguments] == [argument.nbytes for argument in found], "arguments as declared"
    execute(kernel.build(epilogue, target, schedule), target, *arguments)
    for output, want, got in zip(epilogue.outputs, expected, results, strict=True):
        if output.bits is None:
            np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
        elif exact:
            np.testing.assert_array_equal(got, want)
        else:
            # A value moved by the tolerance may change its bit; both sides of it give the bits that have to agree.
            low, high = (case.expected(accumulator + shift)[epilogue.outputs.index(output)] for shift in (-atol, atol))
            certain = ~(low ^ high) & ~(low ^ want)
            np.testing.assert_array_equal(got & certain, want & certain)
