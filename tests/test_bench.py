"""Statistics and records of the bench; no time is asserted."""

import dataclasses
import json
from itertools import count

import numpy as np
import pytest

from bnncc.bench import latency, machine, profile, report
from bnncc.bench.latency import Latency
from bnncc.runtime.artifact import Layer, Tensor


def layer(*, binary: bool, macs: int) -> Layer:
    return Layer(
        name="l", kind="conv2d", binary=binary, why_not="" if binary else "float", fused=(), macs=macs, bytes_in=1,
        bytes_out=2, bytes_weights=3, output_shape=(1,), kernel="k",
    )  # fmt: skip


def test_statistics_of_known_samples() -> None:
    statistics = Latency.of(np.arange(1.0, 102.0))
    assert statistics == Latency(n=101, min_us=1, median_us=51, p90_us=91, p99_us=100, mean_us=51)
    assert "samples_us" not in statistics.report()
    assert statistics.report()["kind"] == "measured"


def test_samples_are_kept_when_asked() -> None:
    kept = Latency.of(np.array([3.0, 1.0]), keep=True)
    assert kept.samples_us == (3.0, 1.0)
    assert kept.report()["samples_us"] == (3.0, 1.0)


def test_calls_take_turns_and_the_overhead_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "WARM_UP_SECONDS", 0.0)
    monkeypatch.setattr(latency, "BLOCK_SECONDS", 0.0)
    ticks = count(step=1000)
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(ticks))
    calls: list[str] = []
    taken = latency.measure(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0.0, overhead_us=0.25
    )
    assert {name: set(samples) for name, samples in taken.items()} == {"a": {0.75}, "b": {0.75}}
    assert len(taken["a"]) == len(taken["b"]) == latency.FEWEST_SAMPLES
    turns = "".join(calls).replace("aa", "A").replace("bb", "B")
    assert turns.endswith("AB" * (latency.FEWEST_SAMPLES - 1))


def test_overhead_larger_than_a_sample_gives_zero() -> None:
    taken = latency.measure({"a": lambda: None}, seconds=0.0, overhead_us=1e9)
    assert not taken["a"].any()


def test_profile_compares_each_layer_with_its_own_peak() -> None:
    layers = (layer(binary=True, macs=1_000_000), layer(binary=False, macs=10_000), layer(binary=False, macs=0))
    made = profile.summarise(layers, [1.0, 2.0, 1.0], {"binary": 2000.0, "float32": 50.0}, 7)
    assert [row.share for row in made.layers] == [0.25, 0.5, 0.25]
    assert [row.gmacs for row in made.layers] == [1000.0, 5.0, None]
    assert [row.of_peak for row in made.layers] == [0.5, 0.1, None]
    assert made.total_us == 4.0
    assert json.loads(json.dumps(made.layers[0].report()))["of_peak"] == 0.5


def test_profile_of_layers_too_fast_to_time() -> None:
    made = profile.summarise((layer(binary=True, macs=5),), [0.0], {"binary": 10.0}, 1)
    assert (made.layers[0].gmacs, made.layers[0].of_peak, made.layers[0].share) == (None, None, 0.0)


def test_record_is_json_and_says_measured() -> None:
    statistics = Latency.of(np.array([2.0]))
    made = report.Bench(
        artifact={"name": "n"},
        machine=machine.describe(),
        threads=2,
        latency=statistics,
        layers=None,
        baseline_name="peer 1.0",
        baseline=dataclasses.replace(statistics, median_us=5.0),
        max_abs_difference=0.0,
    )
    record = json.loads(json.dumps(made.report(), allow_nan=False))
    assert record["kind"] == record["latency"]["kind"] == "measured"
    assert record["baseline"]["ratio"] == 2.5
    assert record["threads"] == 2
    assert {"cpu", "governor", "load_average", "versions"} <= set(record["machine"])
    assert "layers" not in record


def test_example_inputs_are_the_same_each_time() -> None:
    tensor = Tensor("x", (2, 3), "float32")
    assert (report.example(tensor) == report.example(tensor)).all()
    assert report.example(tensor).dtype == np.float32
    assert not report.example(Tensor("i", (4,), "int64")).any()
