"""TVM keeps what it is building in lists that all threads share: one thread at a time."""

from bnncc.runtime.exclusion import Exclusion

tvm_lock = Exclusion()
