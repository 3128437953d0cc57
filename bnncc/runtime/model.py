"""Run an artifact in this process: numpy in, numpy out. Needs numpy and the standard library alone."""

import ctypes
import functools
import math
import os
import time
from collections.abc import Callable, Mapping

import numpy as np

from bnncc.runtime import abi, cpu, library, openmp, timing
from bnncc.runtime.array import Array
from bnncc.runtime.artifact import Artifact, Manifest, Tensor
from bnncc.runtime.errors import ArtifactError, InputError, OptionError
from bnncc.runtime.exclusion import Exclusion

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
        self._functions = _functions(library.load(artifact.library, where), tensors, where)
        self._turn = Exclusion()
        memory = np.zeros(artifact.manifest.arena_bytes + abi.ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % abi.ALIGNMENT
        self._arena = memory[start : start + artifact.manifest.arena_bytes]
        self._arena_pointer = memory.ctypes.data + start
        self._checks = {layer.kernel: layer.name for layer in self.manifest.layers if layer.kind == abi.CHECK_INDICES}
        self._record = self._arena[: 8 * len(abi.IndexRecord)].view(np.int64) if self._checks else self._arena
        self._inputs = [(tensor, tensor.shape, np.dtype(tensor.dtype)) for tensor in self.manifest.inputs]
        self._outputs = [(tensor.shape, np.dtype(tensor.dtype)) for tensor in self.manifest.outputs]

    def __call__(self, *inputs: Array | Mapping[str, Array]) -> Array | dict[str, Array]:
        """Run the network on arrays in the order of `manifest.inputs`, or on one dict by tensor name.

        Shapes and dtypes must be the manifest's; an array that is not C-contiguous is copied. NaN is a value like any
        other. Returns a new array, or a dict of them by name where the network has several outputs.

        Raises:
            InputError: a wrong name, number, shape or dtype; an index outside its axis, where the network reads by
                indices that it is given or computes.
        """
        outputs = self._compute(inputs)
        return outputs[0] if len(outputs) == 1 else self._named(outputs)

    def run(self, *inputs: Array | Mapping[str, Array]) -> dict[str, Array]:
        """As calling the model, and a dict by name whatever the number of outputs."""
        return self._named(self._compute(inputs))

    def _compute(self, inputs: tuple[Array | Mapping[str, Array], ...]) -> list[Array]:
        arrays = self._checked(inputs)
        outputs = [np.empty(shape, dtype) for shape, dtype in self._outputs]
        pointers = abi.arguments(
            [array.ctypes.data for array in arrays], [array.ctypes.data for array in outputs], self._arena_pointer
        )
        with self._turn.here():
            if self._team is None:
                status = self._functions.run(*pointers)
            else:
                status = self._functions.run_threads(self._team.count(), self._team.table(*pointers))
            self._check_status(status)  # before another run takes the arena
        return outputs

    def _check_status(self, status: int) -> None:
        """Raises InputError where a run found an index outside its axis."""
        _check_status(status)
        if self._checks and (number := self._record[abi.IndexRecord.CHECK]):
            index, extent = self._record[abi.IndexRecord.INDEX], self._record[abi.IndexRecord.EXTENT]
            tensor = self._checks[f"{abi.CHECK_INDICES}_{number}"]
            raise InputError(
                f"tensor {tensor!r}: found index {index}, allowed along an axis of {extent} are "
                f"{-extent} to {extent - 1}"
            )

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

        Each run reads what the arrays hold then. One that is not C-contiguous and aligned, as a view of a frame with
        its channels last, is copied before each run.
        """
        arrays = self._given(inputs)
        contiguous = self._contiguous(arrays)
        copies = [(to, array) for to, array in zip(contiguous, arrays, strict=True) if to is not array]
        return Binding(self, contiguous, copies)

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

    def _checked(self, inputs: tuple[Array | Mapping[str, Array], ...]) -> list[Array]:
        return self._contiguous(self._given(inputs))

    def _contiguous(self, arrays: list[Array]) -> list[Array]:
        """The arrays as the library reads them: themselves, or copies."""
        # ascontiguousarray turns () into (1,); require() does not, and also takes care of odd addresses.
        return [
            array if array.flags.c_contiguous and array.flags.aligned else np.require(array, None, ("C", "A"))
            for array in arrays
        ]

    def _given(self, inputs: tuple[Array | Mapping[str, Array], ...]) -> list[Array]:
        """The inputs in order, if they are what the manifest says."""
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            inputs = self._by_name(inputs[0])
        if len(inputs) != len(self._inputs):
            names = ", ".join(repr(tensor.name) for tensor, _, _ in self._inputs)
            raise InputError(f"found {len(inputs)} inputs, allowed are {len(self._inputs)}: {names}")
        arrays = []
        for array, (tensor, shape, dtype) in zip(inputs, self._inputs, strict=True):
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
                raise _wrong_input(array, tensor)
            arrays.append(array)
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

    def __init__(self, model: Model, inputs: list[Array], copies: list[tuple[Array, Array]]) -> None:
        """inputs: contiguous. copies: those of them to fill before each run, and from what; use `Model.bind`."""
        self._model = model  # keeps the library and the arena alive
        self._inputs = inputs
        self._copies = copies
        self.outputs = {tensor.name: np.empty(tensor.shape, tensor.dtype) for tensor in model.manifest.outputs}
        pointers = abi.arguments(
            [array.ctypes.data for array in inputs],
            [array.ctypes.data for array in self.outputs.values()],
            model._arena_pointer,
        )
        self._pointers = [ctypes.c_void_p(pointer) for pointer in pointers]
        self._call: Callable[[], int] = functools.partial(model._functions.run, *self._pointers)
        if (team := model._team) is not None:
            table, run = team.table(*pointers), model._functions.run_threads
            self._call = lambda: run(team.count(), table)

    def run(self) -> None:
        """Run the whole network.

        Raises:
            InputError: an index outside its axis.
        """
        self._read()
        self._model._check_status(self._call())

    def _read(self) -> None:
        for to, array in self._copies:
            np.copyto(to, array)

    def step(self, index: int) -> None:
        """Run layer `index` alone, on whatever the arena holds; `run` once before.

        Raises:
            OptionError: no such layer.
        """
        if not 0 <= index < len(self._model.manifest.layers):
            raise OptionError(f"step {index}: allowed are 0 to {len(self._model.manifest.layers) - 1}")
        self._read()
        _check_status(self._model._functions.step(index, *self._pointers))

    def stepper(self, index: int) -> Callable[[], int]:
        """`step(index)` as a function without arguments and checks, for timing, on what the inputs held at the last
        run; past the last layer it runs nothing."""
        call, number = self._model._functions.step, ctypes.c_int32(index)
        return lambda: call(number, *self._pointers)  # which keeps the arrays and the arena alive

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


def _functions(loaded: ctypes.CDLL, tensors: int, where: str) -> abi.Functions:
    try:
        return abi.declare(loaded, tensors)
    except AttributeError as error:
        raise ArtifactError(f"{where}: the library cannot be loaded ({error}); compile the model again") from error


def _wrong_input(array: object, tensor: Tensor) -> InputError:
    allowed = f"allowed is {tensor.dtype} {list(tensor.shape)}"
    if not isinstance(array, np.ndarray):
        return InputError(f"input {tensor.name!r}: found {type(array).__name__}, {allowed} as a numpy array")
    hint = "convert it with .astype" if array.shape == tensor.shape else _reshaping(array.shape, tensor.shape)
    return InputError(f"input {tensor.name!r}: found {array.dtype} {list(array.shape)}, {allowed}; {hint}")


def _reshaping(found: tuple[int, ...], allowed: tuple[int, ...]) -> str:
    """What to do with an array of another shape. One whose channels are elsewhere must not be reshaped: that would
    scramble the picture."""
    rank = len(found)
    if rank == len(allowed):
        to_first, to_last = (0, rank - 1, *range(1, rank - 1)), (0, *range(2, rank), 1)
        for axes in (to_first, to_last) if rank > 2 else ():
            if tuple(found[axis] for axis in axes) == allowed:
                return f"use .transpose{axes}"
    if math.prod(found) == math.prod(allowed) and [n for n in found if n > 1] == [n for n in allowed if n > 1]:
        return "reshape it"
    return "give one of this shape, or compile with another --shape"


def _check_status(status: int) -> None:
    if status != 0:
        raise RuntimeError(f"the library returned {status}: a bug in the compiled library")
