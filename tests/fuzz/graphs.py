"""Random graphs, compiled and run beside onnxruntime: equal, or refused by one line.

`python -m tests.fuzz.graphs --count 2000 --seed 1 --target x86` for long runs. Each graph has a process of its own, so
that a signal is seen; what it came to is appended to a log, from which the same command goes on.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import os
import signal
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SECONDS = 120  # for one graph
GOOD = ("equal", "refused", "not comparable")


def compare(seed: int, number: int, target: str) -> tuple[str, str]:
    """What became of one graph, and the details: equal, refused, wrong, or an error that is none of ours."""
    from bnncc.runtime.errors import BnnccError
    from tests.fuzz.generate import random_graph

    graph = random_graph(seed, number)
    model = graph.model()
    content = model.SerializeToString()
    wanted = reference(content, graph.inputs)
    if isinstance(wanted, str):
        return "not comparable", wanted
    names = [value.name for value in model.graph.output]
    if target == "x86-any":
        target = str(np.random.default_rng([seed, number, 1]).choice(runnable()))
    try:
        found = run(content, target, graph.inputs, names)
    except BnnccError as error:
        text = str(error)
        return ("refused", text) if "\n" not in text else ("refused in several lines", text)
    for name, want in zip(names, wanted, strict=True):
        problem = difference(found[name], want, graph.roughness())
        if problem:
            return "wrong", f"{target}: {name}: {problem}; {[n.op_type for n in model.graph.node]} opset {graph.opset}"
    return "equal", ""


def reference(content: bytes, inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]] | str:
    """onnxruntime's outputs, or why it has none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        outputs: list[npt.NDArray[Any]] = session.run(None, inputs)
    except Exception as error:
        return str(error)
    return outputs


def runnable() -> list[str]:
    """The targets that this machine runs."""
    from bnncc.runtime import cpu
    from bnncc.targets import TARGETS

    here = cpu.features()
    return [name for name, t in TARGETS.items() if t.machine == cpu.machine() and here.issuperset(t.features)]


def run(
    content: bytes, target: str, inputs: dict[str, npt.NDArray[Any]], names: list[str]
) -> dict[str, npt.NDArray[Any]]:
    """The artifact's outputs: here, or under qemu for a target of another machine."""
    import bnncc
    from bnncc import targets
    from bnncc.runtime import cpu

    if targets.find(target).machine == cpu.machine():
        found = bnncc.load(bnncc.compile(content, target))(inputs)
        return found if isinstance(found, dict) else {names[0]: found}
    from tests.arm import emulate

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        outputs = emulate.run(path, Path(folder), *inputs.values(), target=target)
    return dict(zip(names, outputs, strict=True))


def difference(found: npt.NDArray[Any], want: npt.NDArray[Any], roughness: float) -> str:
    """How `found` differs; "" where it does not. Integers and unrounded floats must be equal, a NaN is a NaN; rounded
    ones may differ by 1e-4 of the value, or by `roughness`."""
    if found.shape != want.shape or found.dtype != want.dtype:
        return f"{found.dtype} {found.shape} instead of {want.dtype} {want.shape}"
    if want.dtype.kind != "f" or not roughness:
        same = (found == want) | ((found != found) & (want != want))
    else:
        same = np.isclose(found, want, rtol=1e-4, atol=roughness, equal_nan=True)
    if same.all():
        return ""
    at = tuple(int(i) for i in np.argwhere(~same)[0])
    return f"{found[at]!r} instead of {want[at]!r} at {at}, {int((~same).sum())} of {same.size} differ"


def apart(seed: int, number: int, target: str) -> tuple[str, str]:
    """`compare` in a child process; a signal or an exception is an outcome too."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(SECONDS)
        faulthandler.disable()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        warnings.simplefilter("ignore")
        try:
            outcome = compare(seed, number, target)
        except BaseException as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            outcome = ("traceback", f"{type(error).__name__}: {(lines or [''])[-1]}")
        with os.fdopen(writing, "w") as file:
            json.dump(outcome, file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    if not text:
        number = os.waitstatus_to_exitcode(status)
        return ("too slow", f"{SECONDS} s") if -number == signal.SIGALRM else ("signal", str(number))
    kind, details = json.loads(text)
    return kind, details


def preload() -> None:
    """What every child needs, loaded once."""
    import onnx.shape_inference
    import onnxruntime

    from bnncc import compiler, passes
    from bnncc.codegen import assemble, link
    from bnncc.frontend import importer
    from bnncc.selection import select
    from tests.fuzz import operators

    assert all((onnx, onnxruntime, compiler, passes, assemble, link, importer, select, operators))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", default="x86-any", help="a target, or x86-any for one of this machine's at random")
    parser.add_argument("--log", type=Path, help="one line of JSON a graph; graphs that are in it are not run again")
    parser.add_argument("--only", type=int, help="the number of one graph to run, and show")
    given = parser.parse_args()
    preload()
    if given.only is not None:
        import onnx

        from tests.fuzz.generate import random_graph

        print(onnx.printer.to_text(random_graph(given.seed, given.only).model().graph)[:6000])
        print(*compare(given.seed, given.only, given.target))
        return 0
    done: dict[int, tuple[str, str]] = {}
    if given.log and given.log.exists():
        for line in given.log.read_text().splitlines():
            number, kind, details = json.loads(line)
            done[number] = (kind, details)
    for number in range(given.count):
        if number not in done:
            done[number] = apart(given.seed, number, given.target)
            if given.log:
                with given.log.open("a") as log:
                    log.write(json.dumps([number, *done[number]]) + "\n")
        kind, details = done[number]
        if kind not in GOOD:
            print(f"\r{number}: {kind}: {details}"[:400], file=sys.stderr)
        print(f"\r{number + 1} of {given.count}", end="", file=sys.stderr)
    counts = collections.Counter(kind for kind, _ in done.values())
    print("\n" + ", ".join(f"{kind}: {count}" for kind, count in counts.most_common()))
    reasons = collections.Counter(
        details.partition("): ")[2][:70] for kind, details in done.values() if kind == "refused"
    )
    for reason, count in reasons.most_common(25):
        print(f"{count:6} {reason}")
    return int(any(kind not in GOOD for kind in counts))


if __name__ == "__main__":
    sys.exit(main())
