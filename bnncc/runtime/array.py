"""The type of tensors in memory."""

from typing import Any, TypeAlias

import numpy.typing as npt

# Which dtype, the manifest says and no type checker knows; with Any, whoever gets one can calculate with it.
Array: TypeAlias = npt.NDArray[Any]
