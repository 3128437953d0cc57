"""Statistics and records of the bench; no time is asserted."""

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest

from bnncc.bench import latency, profile, report
from bnncc.bench.latency import Latency
from bnncc.runtime import machine, timing
from bnncc.runtime.array import Array
from bnncc.runtime.artifact import Layer, Tensor
from bnncc.runtime.network import BoundNetwork
from tests.runtime.test_artifact import sample


def layer(*, binary: bool, macs: int) -> Layer:
    return Layer(
        name="l", kind="conv2d", binary=binary, why_not="" if binary else "float", fused=(), macs=macs, bytes_in=1,
        bytes_out=2, bytes_weights=3, output_shape=(1,), kernel="k",
    )  # fmt: skip


class Elsewhere:
    """A network that runs in another place, which says what times it took."""

    manifest = dataclasses.replace(
        sample().manifest,
        inputs=(Tensor("x", (2,), "float32"),),
        layers=(layer(binary=True, macs=3000), layer(binary=False, macs=10)),
    )
    threads = 3
    peaks = ("binary", "int8")
    outputs: Mapping[str, Array] = MappingProxyType({})

    def __init__(self) -> None:
        self.given: dict[str, tuple[int, ...]] = {}

    def machine(self) -> dict[str, object]:
        return {"cpu": "a board"}

    def bind(self, *inputs: Array | Mapping[str, Array]) -> BoundNetwork:
        (named,) = inputs
        assert isinstance(named, Mapping)
        self.given = {name: array.shape for name, array in named.items()}
        return self

    def run(self) -> None: ...

    def step(self, index: int) -> None: ...

    def time_runs(self, seconds: float) -> list[int]:
        return [4000]

    def time_steps(self, seconds: float) -> list[list[int]]:
        return [[3500, 1500, 500]]

    def time_peak(self, kind: str, iterations: int) -> tuple[int, int]:
        assert kind in self.peaks
        return 10 * iterations, 5 * iterations


@pytest.fixture
def elsewhere() -> Elsewhere:
    return Elsewhere()


def test_statistics_of_known_samples() -> None:
    statistics = Latency.of(np.arange(1.0, 102.0))
    assert statistics == Latency(n=101, min_us=1, median_us=51, p90_us=91, p99_us=100, mean_us=51)
    assert "samples_us" not in statistics.report()
    assert statistics.report()["kind"] == "measured"


def test_samples_are_kept_when_asked() -> None:
    kept = Latency.of(np.array([3.0, 1.0]), keep=True)
    assert kept.samples_us == (3.0, 1.0)
    assert kept.report()["samples_us"] == (3.0, 1.0)


def test_networks_take_turns_and_the_overhead_is_taken_off() -> None:
    turns: list[tuple[str, float]] = []

    def taker(name: str) -> latency.TimeRuns:
        def time_runs(seconds: float) -> list[int]:
            turns.append((name, seconds))
            return [1000]

        return time_runs

    taken = latency.measure({"a": taker("a"), "b": taker("b")}, seconds=0.0, overhead_us=0.25)
    assert {name: samples.tolist() for name, samples in taken.items()} == dict.fromkeys("ab", [0.75] * 20)
    assert turns[:2] == [("a", latency.WARM_UP_SECONDS), ("b", latency.WARM_UP_SECONDS)]
    assert turns[2:] == [("a", latency.BLOCK_SECONDS), ("b", latency.BLOCK_SECONDS)] * latency.FEWEST_SAMPLES


def test_overhead_larger_than_a_sample_gives_zero() -> None:
    taken = latency.measure({"a": lambda seconds: [1]}, seconds=0.0, overhead_us=1e9)
    assert not taken["a"].any()


def test_times_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that each call and each look moves on by so much."""
    now = 0

    def clock() -> int:
        nonlocal now
        now += 10
        return now

    def call(nanoseconds: int) -> None:
        nonlocal now
        now += nanoseconds

    monkeypatch.setattr("time.perf_counter_ns", clock)
    assert timing.in_a_row(lambda: call(80), 0.0) == [90]
    assert timing.in_a_row(lambda: call(80), 290e-9) == [90, 90, 90]
    calls = [lambda: call(80), lambda: call(30)]
    assert timing.sweeps(calls, 0.0) == [[90, 40]]
    assert timing.sweeps(calls, 300e-9) == [[90, 40], [90, 40]]


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


def test_profile_takes_off_what_taking_a_time_costs(elsewhere: Elsewhere) -> None:
    made = profile.profile(elsewhere, elsewhere, seconds=1.0)
    assert [row.us for row in made.layers] == [3.0, 1.0]
    assert made.sweeps == profile.FEWEST_SWEEPS
    assert made.peaks == {"binary": 2.0}  # float32 is no kind it knows
    assert [row.of_peak for row in made.layers] == [0.5, None]


def test_bench_needs_nothing_of_a_network_but_the_protocol(elsewhere: Elsewhere) -> None:
    made = report.bench(elsewhere, seconds=0.0, profile=True)
    assert made.machine == {"cpu": "a board"}
    assert made.threads == 3
    assert made.latency.n >= latency.FEWEST_SAMPLES
    assert made.layers is not None
    assert elsewhere.given == {"x": (2,)}


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
