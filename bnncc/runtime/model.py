"""Run an artifact on this machine: numpy in, numpy out. Needs numpy and the standard library alone.

The library inside an artifact exports these functions and needs none but, for some networks, libm's. Tensors are
C-contiguous and in the manifest's order, the arena is 64-byte aligned, and 0 is returned.

    int32 bnncc_run(inputs..., outputs..., arena)               the whole network on the calling thread
    int32 bnncc_step(int32 layer, inputs..., outputs..., arena) one layer, on what the arena holds
    int32 bnncc_run_threads(int32 threads, void* const* table)  the whole network on several threads; table: the
        functions GOMP_parallel, omp_get_thread_num and sched_yield, then inputs..., outputs..., arena
    int32 bnncc_peak(int32 kind, int64 iterations, int64* done) see `Model.peak`
"""

import _ctypes
import ctypes
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bnncc.runtime import cpu, openmp
from bnncc.runtime.artifact import Artifact, Manifest, Tensor
from bnncc.runtime.errors import ArtifactError, InputError, OptionError

Array = npt.NDArray[Any]

ARENA_ALIGNMENT = 64
SYMBOLS = ("bnncc_run", "bnncc_run_threads", "bnncc_step", "bnncc_peak")
PEAK_KINDS = {"binary": 0, "float32": 1, "int8": 2}


def load(source: str | os.PathLike[str] | Artifact, threads: int = 1) -> "Model":
    """Check an artifact against this CPU and make it ready to run.

    Args:
        source: path of the file, or the artifact itself.
        threads: how many threads compute one inference, from 1 to 64, more than cores being slower. They are those of
            the OpenMP runtime libgomp; where there is none, an `openmp.ThreadsWarning` says so and one thread runs, as
            in processes forked later, which libgomp does not survive. The result does not depend on their number.
            Networks of some ten microseconds run on one thread anyway.

    Raises:
        ArtifactError: the file is damaged, or made for another machine or a CPU with features this one lacks.
        OptionError: no such number of threads.
    """
    if isinstance(source, Artifact):
        where = f"artifact {source.manifest.name!r}"
        source.check(where)
        return Model(source, where, threads)
    return Model(Artifact.load(source), str(source), threads)


class Model:
    """A compiled network in this process. `model(x)` runs it.

    Calls from several threads are safe and wait for one another, because they share one arena; threads that should
    run side by side load a model each. The interpreter lock is released while the network runs.
    """

    def __init__(self, artifact: Artifact, where: str = "artifact", threads: int = 1) -> None:
        """Loads the library of a checked artifact; use `bnncc.load`."""
        self._team = openmp.team(threads)
        check_cpu(artifact.manifest, where)
        self.manifest = artifact.manifest
        self._library = _open(artifact.library, where)
        self._lock = threading.Lock()
        memory = np.zeros(artifact.manifest.arena_bytes + ARENA_ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ARENA_ALIGNMENT
        self._arena = memory[start : start + artifact.manifest.arena_bytes]
        self._arena_pointer = memory.ctypes.data + start
        pointers = [ctypes.c_void_p] * (len(self.manifest.inputs) + len(self.manifest.outputs) + 1)
        self._run = self._library.bnncc_run
        self._run.argtypes, self._run.restype = pointers, ctypes.c_int32
        self._run_threads = self._library.bnncc_run_threads
        self._run_threads.argtypes = [ctypes.c_int32, ctypes.c_void_p]
        self._run_threads.restype = ctypes.c_int32
        self._step = self._library.bnncc_step
        self._step.argtypes, self._step.restype = [ctypes.c_int32, *pointers], ctypes.c_int32
        self._peak = self._library.bnncc_peak
        self._peak.argtypes = [ctypes.c_int32, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)]
        self._peak.restype = ctypes.c_int32
        self._inputs = [(tensor, tensor.shape, np.dtype(tensor.dtype)) for tensor in self.manifest.inputs]
        self._outputs = [(tensor.shape, np.dtype(tensor.dtype)) for tensor in self.manifest.outputs]

    def __call__(self, *inputs: Array | Mapping[str, Array]) -> Any:
        """Run the network on arrays in the order of `manifest.inputs`, or on one dict by tensor name.

        Shapes and dtypes must be the manifest's; an array that is not C-contiguous is copied. NaN is a value like any
        other. Returns a new array, or a dict of them by name where the network has several outputs.

        Raises:
            InputError: a wrong name, number, shape or dtype.
        """
        arrays = self._checked(inputs)
        outputs = [np.empty(shape, dtype) for shape, dtype in self._outputs]
        pointers = [array.ctypes.data for array in (*arrays, *outputs)]
        with self._lock:
            if self._team is None:
                status = self._run(*pointers, self._arena_pointer)
            else:
                status = self._run_threads(self._team.threads, self._team.table(*pointers, self._arena_pointer))
        _check_status(status)
        if len(outputs) == 1:
            return outputs[0]
        return {tensor.name: output for tensor, output in zip(self.manifest.outputs, outputs, strict=True)}

    @property
    def threads(self) -> int:
        """How many threads share one inference."""
        return self._team.threads.value if self._team else 1

    def bind(self, *inputs: Array | Mapping[str, Array]) -> "Binding":
        """The network bound to these inputs and to outputs of its own, for calling many times without overhead."""
        return Binding(self, self._checked(inputs))

    def peak(self, kind: str, iterations: int) -> int:
        """Keep the CPU's arithmetic busy with nothing else: what this machine can do at best, in the library's own
        instructions. `kind` is "binary" (xor, popcount, add), "float32" (fused multiply-add) or "int8" (dot products
        of bytes). Returns MACs done."""
        if kind not in PEAK_KINDS:
            raise OptionError(f"peak kind {kind!r}: allowed are {', '.join(PEAK_KINDS)}")
        done = ctypes.c_int64(0)
        _check_status(self._peak(PEAK_KINDS[kind], iterations, ctypes.byref(done)))
        return done.value

    def _checked(self, inputs: tuple[Array | Mapping[str, Array], ...]) -> list[Array]:
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            inputs = self._by_name(inputs[0])
        if len(inputs) != len(self._inputs):
            names = ", ".join(repr(tensor.name) for tensor, _, _ in self._inputs)
            raise InputError(f"found {len(inputs)} inputs, allowed are {len(self._inputs)}: {names}")
        arrays = []
        for array, (tensor, shape, dtype) in zip(inputs, self._inputs, strict=True):
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
                raise _wrong_input(array, tensor)
            # ascontiguousarray turns () into (1,); require() does not, and also takes care of odd addresses.
            arrays.append(
                array if array.flags.c_contiguous and array.flags.aligned else np.require(array, dtype, ("C", "A"))
            )
        return arrays

    def _by_name(self, named: Mapping[str, Array]) -> tuple[Array, ...]:
        names = [tensor.name for tensor in self.manifest.inputs]
        if named.keys() != set(names):
            raise InputError(
                f"found inputs {', '.join(sorted(map(repr, named))) or 'none'}, allowed are exactly "
                f"{', '.join(map(repr, names))}; name the arrays so"
            )
        return tuple(named[name] for name in names)


class Binding:
    """One model, fixed inputs and outputs: `run()` computes `outputs` anew and costs one foreign call.

    Not for several threads at once: it shares the model's arena and takes no lock.
    """

    def __init__(self, model: Model, inputs: list[Array]) -> None:
        self._model = model  # keeps the library and the arena alive
        self._inputs = inputs
        self.outputs = {tensor.name: np.empty(tensor.shape, tensor.dtype) for tensor in model.manifest.outputs}
        arrays = (*inputs, *self.outputs.values())
        self._pointers = [ctypes.c_void_p(p) for p in (*(a.ctypes.data for a in arrays), model._arena_pointer)]
        self._call: Callable[[], int] = functools.partial(model._run, *self._pointers)
        if model._team is not None:
            table = model._team.table(*(pointer.value or 0 for pointer in self._pointers))
            self._call = functools.partial(model._run_threads, model._team.threads, table)

    def run(self) -> None:
        """Run the whole network."""
        _check_status(self._call())

    def step(self, index: int) -> None:
        """Run layer `index` alone, on whatever the arena holds; `run` once before."""
        if not 0 <= index < len(self._model.manifest.layers):
            raise OptionError(f"step {index}: allowed are 0 to {len(self._model.manifest.layers) - 1}")
        _check_status(self._model._step(index, *self._pointers))

    def stepper(self, index: int) -> Callable[[], int]:
        """`step(index)` as a function without arguments and checks, for timing; past the last layer it runs nothing."""
        return functools.partial(self._model._step, ctypes.c_int32(index), *self._pointers)


def check_cpu(manifest: Manifest, where: str) -> None:
    """Refuse an artifact whose instructions this CPU does not have.

    Raises:
        ArtifactError: another machine or missing features, with the targets that would work.
    """
    here, wanted = cpu.machine(), manifest.triple.partition("-")[0]
    if sys.platform != "linux" or "linux" not in manifest.triple:
        found = f"is made for {manifest.triple} and this is {here} {sys.platform}"
    elif {"armv7a": "armv7l", "armv7": "armv7l", "arm": "armv7l"}.get(wanted, wanted) != here:
        found = f"is made for {wanted} and this machine is {here}"
    elif missing := sorted(set(manifest.cpu_features) - cpu.features()):
        found = f"needs CPU features this machine lacks: {' '.join(missing)}"
    else:
        return
    from bnncc.targets import TARGETS

    fitting = [t.name for t in TARGETS.values() if t.machine == here and cpu.features().issuperset(t.features)]
    advice = f"compile the model with --target {fitting[0]}" if fitting else "no target of this bnncc runs here"
    raise ArtifactError(f"{where}: target {manifest.target!r} {found}; {advice}")


def runs_here(manifest: Manifest) -> bool:
    """Whether this machine has what an artifact needs."""
    try:
        check_cpu(manifest, "artifact")
    except ArtifactError:
        return False
    return True


def _open(library: bytes, where: str) -> ctypes.CDLL:
    """Load a shared library from memory: no file that others could change, nothing left behind."""
    descriptor = os.memfd_create("bnncc", os.MFD_CLOEXEC)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(library)
        loaded = ctypes.CDLL(f"/proc/self/fd/{descriptor}")
        for symbol in SYMBOLS:
            getattr(loaded, symbol)
    except (OSError, AttributeError) as error:
        os.close(descriptor)
        message = " ".join(str(error).split()).encode("ascii", "backslashreplace").decode()[:160]
        raise ArtifactError(f"{where}: the library cannot be loaded ({message}); compile the model again") from error
    # dlopen knows a library by its path: were the descriptor closed, the next model would get the same number and be
    # handed this library. So it stays open for as long as the library is loaded.
    weakref.finalize(loaded, _close, loaded._handle, descriptor)
    return loaded


def _close(handle: int, descriptor: int) -> None:
    _ctypes.dlclose(handle)
    os.close(descriptor)


def _wrong_input(array: object, tensor: Tensor) -> InputError:
    allowed = f"allowed is {tensor.dtype} {list(tensor.shape)}"
    if not isinstance(array, np.ndarray):
        return InputError(f"input {tensor.name!r}: found {type(array).__name__}, {allowed} as a numpy array")
    hint = "convert it with .astype" if array.shape == tensor.shape else "reshape it, or compile with another --shape"
    return InputError(f"input {tensor.name!r}: found {array.dtype} {list(array.shape)}, {allowed}; {hint}")


def _check_status(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"the library returned {status}: a bug in the compiled library")
