"""A few random graphs of every kind, in the suite; `python -m tests.fuzz.graphs` runs many."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fuzz import graphs
from tests.fuzz.generate import random_graph

SEED, COUNT = 11, 40


def test_random_graphs_are_equal_or_refused_in_one_line() -> None:
    graphs.preload()
    outcomes = [graphs.apart(SEED, number, "x86-any") for number in range(COUNT)]
    assert [(number, *found) for number, found in enumerate(outcomes) if found[0] not in graphs.GOOD] == []
    assert sum(kind == "equal" for kind, _ in outcomes) > COUNT / 2


def test_a_graph_is_the_same_again() -> None:
    first, second = (random_graph(SEED, 5) for _ in range(2))
    assert first.model() == second.model()
    assert all((first.inputs[name] == second.inputs[name]).all() for name in first.inputs)


@pytest.mark.parametrize(
    ("found", "want", "roughness", "problem"),
    [
        (np.array([1, np.nan], "float32"), np.array([1, np.nan], "float32"), 0.0, False),
        (np.array([1, np.nan], "float32"), np.array([1, 2], "float32"), 0.0, True),
        (np.array([1.00001], "float32"), np.array([1], "float32"), 0.0, True),
        (np.array([1.00001], "float32"), np.array([1], "float32"), 1e-5, False),
        (np.array([1], "int64"), np.array([2], "int64"), 1.0, True),
        (np.array([1], "int64"), np.array([1], "int32"), 0.0, True),
        (np.zeros((1, 2)), np.zeros((2, 1)), 0.0, True),
    ],
)
def test_what_counts_as_different(found: Any, want: Any, roughness: float, problem: bool) -> None:
    assert bool(graphs.difference(found, want, roughness)) == problem


def test_a_crash_and_an_error_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> tuple[str, str]:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGSEGV)
        return "equal", ""

    def fail(*_: object) -> tuple[str, str]:
        raise RuntimeError("first\nlast")

    monkeypatch.setattr(graphs, "compare", die)
    assert graphs.apart(0, 0, "x86") == ("signal", "-11")
    monkeypatch.setattr(graphs, "compare", fail)
    assert graphs.apart(0, 0, "x86") == ("traceback", "RuntimeError: last")


def test_a_run_goes_on_from_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log, asked = tmp_path / "log", []

    def answer(_seed: int, number: int, _target: str) -> tuple[str, str]:
        asked.append(number)
        return ("wrong", "by one") if number == 1 else ("equal", "")

    monkeypatch.setattr(graphs, "apart", answer)
    monkeypatch.setattr("sys.argv", ["graphs", "--count", "3", "--log", str(log)])
    assert graphs.main() == 1
    assert graphs.main() == 1
    assert asked == [0, 1, 2]
    assert "equal: 2, wrong: 1" in capsys.readouterr().out
