"""Elementwise operators with constants per channel, in numpy float32: the arithmetic that thresholds are folded from.

Each is computed as TVM's legalisation and our kernels do it: in float32, one rounding an operation, nothing contracted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from bnncc.ops import arguments
from bnncc.passes import dataflow

Floats = npt.NDArray[np.float32]

MEANINGS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "negative": np.negative,
    "abs": np.abs,
    "nn.relu": lambda x: np.maximum(x, np.float32(0)),
    "bnncc.binarize": lambda x: np.where(x >= 0, np.float32(1), np.float32(-1)),
    "nn.prelu": lambda x, slope: np.where(x > 0, x, x * slope),
}


def is_per_channel(constant: Any, extents: tuple[int, ...]) -> bool:
    """Whether a constant is a scalar, or one value for each channel: the last axis of `extents`."""
    found = dataflow.shape(constant)
    size = int(np.prod(found))
    return size == 1 or (bool(found) and found[-1] == size == extents[-1])


def evaluate(call: Any, operand: Any, values: Floats) -> Floats:
    """What `call` gives when its operand `operand` takes `values` [V, C]; the others are constants per channel."""
    name = dataflow.name(call)
    # A Binarize has numbers beside its tensor: those of signs, which need no looking at.
    tensors = call.args[:1] if name == "bnncc.binarize" else call.args
    operands = [values if argument.same_as(operand) else _row(argument) for argument in tensors]
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        if name == "nn.leakyrelu":
            result = np.where(values > 0, values, values * np.float32(call.attrs.alpha))
        else:
            result = MEANINGS[name](*operands)
    return np.asarray(result, dtype=np.float32)


def _row(constant: Any) -> Floats:
    """A constant per channel as float32 [1] or [C]."""
    row: Floats = arguments.array(constant).reshape(-1)
    return row
