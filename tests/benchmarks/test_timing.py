"""Turns, medians and the ideal they are compared with."""

import os

import pytest

from benchmarks import layer_times, timing


def quiet(us: float) -> timing.Timed:
    return lambda times: timing.Turn(us * times * 1e-6, us * times * 1e-6)


def test_medians_leave_disturbed_turns_out() -> None:
    number = iter(range(10**9))

    def sometimes(times: int) -> timing.Turn:
        cpu = 5e-6 * times
        return timing.Turn(cpu * 2 if next(number) % 3 == 0 else cpu, cpu)

    found = timing.medians({"a": quiet(5.0), "b": sometimes}, seconds=0.05)
    assert found["a"].us == pytest.approx(5.0, rel=1e-6)
    assert found["b"].us == pytest.approx(5.0, rel=1e-6)
    assert found["b"].disturbed > 0
    assert found["b"].clock == "wall"


def test_cpu_time_stands_in_when_no_turn_is_quiet() -> None:
    found = timing.medians({"a": lambda times: timing.Turn(1.0 * times, 1e-5 * times)}, seconds=0.01)
    assert found["a"].clock == "cpu"
    assert found["a"].us == pytest.approx(10.0, rel=1e-6)


def test_medians_tell_how_much_is_done() -> None:
    told: list[float] = []
    timing.medians({"a": quiet(5.0), "b": quiet(900.0)}, seconds=0.05, tell=told.append)
    assert told == sorted(told)
    assert 0 < told[0] < 0.5
    assert told[-1] == pytest.approx(1.0, rel=1e-6)


def test_ideal() -> None:
    # 1e6 products at 1000 GMAC/s take 1 us, 4e3 bytes at 2 GB/s take 2 us.
    assert layer_times.ideal_us(10**6, 1000.0, 4000, 2.0, after=False) == pytest.approx(2.0, rel=1e-9)
    assert layer_times.ideal_us(10**6, 1000.0, 4000, 2.0, after=True) == pytest.approx(3.0, rel=1e-9)


def test_pin() -> None:
    before = os.sched_getaffinity(0)
    try:
        assert timing.pin(min(before)) == min(before)
        assert os.sched_getaffinity(0) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)
