"""Run an artifact in this process: numpy in, numpy out. Needs numpy and the standard library alone."""

import _ctypes
import ctypes
import functools
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np

from bnncc.runtime import abi, cpu, openmp, timing
from bnncc.runtime.array import Array
from bnncc.runtime.artifact import Artifact, Manifest, Tensor
from bnncc.runtime.errors import ArtifactError, InputError, OptionError

_KINDS = {kind.label: kind for kind in abi.PeakKind}


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
        tensors = len(self.manifest.inputs) + len(self.manifest.outputs)
        self._library, self._functions = _open(artifact.library, tensors, where)
        self._lock = threading.Lock()
        _models.add(self)
        memory = np.zeros(artifact.manifest.arena_bytes + abi.ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % abi.ALIGNMENT
        self._arena = memory[start : start + artifact.manifest.arena_bytes]
        self._arena_pointer = memory.ctypes.data + start
        self._inputs = [(tensor, tensor.shape, np.dtype(tensor.dtype)) for tensor in self.manifest.inputs]
        self._outputs = [(tensor.shape, np.dtype(tensor.dtype)) for tensor in self.manifest.outputs]

    def __call__(self, *inputs: Array | Mapping[str, Array]) -> Array | dict[str, Array]:
        """Run the network on arrays in the order of `manifest.inputs`, or on one dict by tensor name.

        Shapes and dtypes must be the manifest's; an array that is not C-contiguous is copied. NaN is a value like any
        other. Returns a new array, or a dict of them by name where the network has several outputs.

        Raises:
            InputError: a wrong name, number, shape or dtype.
        """
        outputs = self._compute(inputs)
        return outputs[0] if len(outputs) == 1 else self._named(outputs)

    def run(self, *inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
        """As calling the model, and a dict by name whatever the number of outputs."""
        return self._named(self._compute(inputs))

    def _compute(self, inputs: tuple[Array | Mapping[str, Array], ...]) -> list[Array]:
        arrays = self._checked(self._in_order(inputs))
        outputs = [np.empty(shape, dtype) for shape, dtype in self._outputs]
        pointers = abi.arguments(
            [array.ctypes.data for array in arrays], [array.ctypes.data for array in outputs], self._arena_pointer
        )
        with self._lock:
            if self._team is None:
                status = self._functions.run(*pointers)
            else:
                status = self._functions.run_threads(self._team.count(), self._team.table(*pointers))
        _check_status(status)
        return outputs

    def _named(self, outputs: list[Array]) -> dict[str, Array]:
        return {tensor.name: output for tensor, output in zip(self.manifest.outputs, outputs, strict=True)}

    @property
    def threads(self) -> int:
        """How many threads share one inference."""
        return self._team.count() if self._team else 1

    @property
    def peaks(self) -> tuple[str, ...]:
        """Kinds of arithmetic that `time_peak` knows; none if the artifact was compiled without `peaks`."""
        return tuple(_KINDS) if self._functions.peak else ()

    def machine(self) -> dict[str, object]:
        """This machine and its state now; see `bnncc.runtime.machine.describe`."""
        from bnncc.runtime import machine

        return machine.describe()

    def bind(self, *inputs: Array | Mapping[str, Array]) -> "Binding":
        """The network bound to these inputs and to outputs of its own, for calling many times without overhead.

        Every run reads the arrays anew: fill them with the next frame and run again. One that is not C-contiguous, such
        as a transposed view of a frame, is copied at every run.
        """
        given = self._in_order(inputs)
        return Binding(self, given, self._checked(given))

    def time_peak(self, kind: str, iterations: int) -> tuple[int, int]:
        """Keep the CPU's arithmetic busy with nothing else: what this machine can do at best, in the library's own
        instructions. `kind` is "binary" (xor, popcount, add), "float32" (fused multiply-add) or "int8" (dot products
        of bytes).

        Returns:
            multiply-accumulates made, and the nanoseconds they took.

        Raises:
            OptionError: no such kind, or an artifact that was compiled without.
        """
        if self._functions.peak is None:
            raise OptionError(
                f"artifact {self.manifest.name!r}: found no peak loops in it; compile the model with peaks (--peaks)"
            )
        if kind not in _KINDS:
            raise OptionError(f"peak kind {kind!r}: allowed are {', '.join(_KINDS)}")
        done = ctypes.c_int64(0)
        start = time.perf_counter_ns()
        status = self._functions.peak(_KINDS[kind], iterations, ctypes.addressof(done))
        taken = time.perf_counter_ns() - start
        _check_status(status)
        return done.value, taken

    def _in_order(self, inputs: tuple[Array | Mapping[str, Array], ...]) -> tuple[Array, ...]:
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            return self._by_name(inputs[0])
        return cast("tuple[Array, ...]", inputs)

    def _checked(self, inputs: tuple[Array, ...]) -> list[Array]:
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

    def __init__(self, model: Model, given: tuple[Array, ...], inputs: list[Array]) -> None:
        self._model = model  # keeps the library and the arena alive
        self._inputs = inputs
        self._copies = [(copy, array) for copy, array in zip(inputs, given, strict=True) if copy is not array]
        self.outputs = {tensor.name: np.empty(tensor.shape, tensor.dtype) for tensor in model.manifest.outputs}
        pointers = abi.arguments(
            [array.ctypes.data for array in inputs],
            [array.ctypes.data for array in self.outputs.values()],
            model._arena_pointer,
        )
        self._pointers = [ctypes.c_void_p(pointer) for pointer in pointers]
        self._call: Callable[[], int] = functools.partial(model._functions.run, *self._pointers)
        if (team := model._team) is not None:
            table, run_threads = team.table(*pointers), model._functions.run_threads
            self._call = lambda: run_threads(team.count(), table)

    def run(self) -> None:
        """Run the whole network on what the inputs hold now."""
        for copy, array in self._copies:
            np.copyto(copy, array)
        _check_status(self._call())

    def step(self, index: int) -> None:
        """Run layer `index` alone, on whatever the arena holds; `run` once before.

        Raises:
            OptionError: no such layer.
        """
        if not 0 <= index < len(self._model.manifest.layers):
            raise OptionError(f"step {index}: allowed are 0 to {len(self._model.manifest.layers) - 1}")
        _check_status(self._model._functions.step(index, *self._pointers))

    def stepper(self, index: int) -> Callable[[], int]:
        """`step(index)` as a function without arguments and checks, for timing; past the last layer it runs nothing."""
        call, number = self._model._functions.step, ctypes.c_int32(index)
        return lambda: call(number, *self._pointers)  # `self` keeps alive what the pointers point at

    def time_runs(self, seconds: float) -> list[int]:
        """Nanoseconds of each run until `seconds` are over, after one that is not counted; at least one."""
        self.run()
        return timing.in_a_row(self.run, seconds)

    def time_steps(self, seconds: float) -> list[list[int]]:
        """Sweeps over the layers until `seconds` are over, at least one: nanoseconds of each layer in order, and behind
        them of a step that runs nothing. A sweep meets the caches as a run of the whole network does."""
        return timing.sweeps([self.stepper(index) for index in range(len(self._model.manifest.layers) + 1)], seconds)


def check_cpu(manifest: Manifest, where: str) -> None:
    """Refuse an artifact whose instructions this CPU does not have.

    Raises:
        ArtifactError: another machine or missing features.
    """
    if reason := cpu.host().why_not(manifest.triple, manifest.cpu_features):
        raise ArtifactError(
            f"{where}: target {manifest.target!r} {reason}; compile the model with a target that `bnncc targets` says "
            "runs on this machine"
        )


def _open(library: bytes, tensors: int, where: str) -> tuple[ctypes.CDLL, abi.Functions]:
    """Load a shared library from memory: no file that others could change, nothing left behind."""
    with os.fdopen(os.memfd_create("bnncc", os.MFD_CLOEXEC), "wb") as file:
        file.write(library)
        file.flush()
        try:
            loaded = ctypes.CDLL(_path(file.fileno(), next(_loads)))
            # Not at exit: a daemon thread may be inside it until the very end.
            weakref.finalize(loaded, _ctypes.dlclose, loaded._handle).atexit = False
            functions = abi.declare(loaded, tensors)
        except (OSError, AttributeError) as error:
            message = " ".join(str(error).split()).encode("ascii", "backslashreplace").decode()[:160]
            raise ArtifactError(
                f"{where}: the library cannot be loaded ({message}); compile the model again"
            ) from error
    return loaded, functions


def _path(descriptor: int, number: int) -> str:
    """A path of an open file that no other load of this process has had. dlopen knows a library by its path, and
    descriptors' numbers are used again: under the plain path a second model would be the first one's library. "//"
    and "/./" lead where "/" leads, and write the bits of `number`."""
    bits = ("/./" if number >> bit & 1 else "//" for bit in range(max(1, number.bit_length())))
    return f"/proc/self{''.join(bits)}fd/{descriptor}"


_loads = itertools.count()
_models: weakref.WeakSet[Model] = weakref.WeakSet()


def _after_fork() -> None:
    """The thread that held a model's lock is not in a forked process, and would never let go of it."""
    for model in _models:
        model._lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _wrong_input(array: object, tensor: Tensor) -> InputError:
    allowed = f"allowed is {tensor.dtype} {list(tensor.shape)}"
    if not isinstance(array, np.ndarray):
        return InputError(f"input {tensor.name!r}: found {type(array).__name__}, {allowed} as a numpy array")
    hint = "reshape it, or compile with another --shape"
    if array.shape == tensor.shape:
        hint = "convert it with .astype"
    elif array.ndim == 4 and tuple(array.shape[axis] for axis in (0, 3, 1, 2)) == tensor.shape:
        hint = "channels come before rows and columns: .transpose(0, 3, 1, 2)"
    return InputError(f"input {tensor.name!r}: found {array.dtype} {list(array.shape)}, {allowed}; {hint}")


def _check_status(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"the library returned {status}: a bug in the compiled library")
