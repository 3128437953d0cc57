"""Running a kernel with an epilogue and comparing all its outputs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from bnncc.targets.target import Target
from tests.kernelrun import run
from tests.kernels.epilogues import Case

Array = npt.NDArray[Any]


def check(
    kernel: tirx.PrimFunc,
    target: Target,
    inputs: list[Array],
    case: Case,
    accumulator: Array,
    rtol: float,
    atol: float,
    execute: Callable[..., None] = run,
) -> None:
    """Floats agree within `rtol` and `atol`; integers are equal; bits are equal but where the float they compare is
    within the same tolerance of its threshold."""
    epilogue = case.epilogue
    exact = rtol == 0 and atol == 0
    expected = case.expected(accumulator)
    # Filled with rubbish: every byte has to be written.
    results = [np.full(e.shape, 0x55, o.dtype) for e, o in zip(expected, epilogue.outputs, strict=True)]
    execute(kernel, target, *inputs, *case.params, *results)
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
