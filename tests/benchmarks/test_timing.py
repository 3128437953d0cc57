"""Turns, medians and the ideal they are compared with."""

import os
import time

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


def test_medians_leave_turns_on_a_shared_core_out() -> None:
    number = iter(range(10**9))
    shared = [False]

    def turn(times: int) -> timing.Turn:
        shared[0] = next(number) % 4 == 0
        seconds = 5e-6 * times * (1.5 if shared[0] else 1)
        return timing.Turn(seconds, seconds)

    found = timing.medians({"a": turn}, seconds=0.05, full_speed=lambda: 1.5 if shared[0] else 1.0)["a"]
    assert found.us == pytest.approx(5.0, rel=1e-6)
    assert 0 < found.disturbed < found.turns
    assert found.clock == "wall"


def test_the_least_slowed_turns_stand_in_when_none_is_quiet() -> None:
    number, slowed = iter(range(10**9)), [2.0]

    def turn(times: int) -> timing.Turn:
        slowed[0] = 2.0 if next(number) % 4 == 0 else 1.2
        seconds = 5e-6 * times * slowed[0]
        return timing.Turn(seconds, seconds)

    found = timing.medians({"a": turn}, seconds=0.05, full_speed=lambda: slowed[0])["a"]
    assert found.disturbed == found.turns
    assert found.us == pytest.approx(6.0, rel=1e-6)


def test_full_speed_is_the_least_time_so_far() -> None:
    slow = [False]
    watch = timing.FullSpeed(lambda pieces: time.sleep(0.02 if slow[0] else 0.0))
    slow[0] = True
    assert watch() > timing.SLOWED


def test_cpu_time_stands_in_when_no_turn_is_quiet() -> None:
    found = timing.medians({"a": lambda times: timing.Turn(1.0 * times, 1e-5 * times)}, seconds=0.01)
    assert found["a"].clock == "cpu"
    assert found["a"].us == pytest.approx(10.0, rel=1e-6)


def test_medians_tell_how_much_is_done() -> None:
    told: list[float] = []
    timing.medians({"a": quiet(5.0), "b": quiet(900.0)}, seconds=0.05, tell=told.append)
    assert told == sorted(told)
    assert told[0] == 0
    assert 0.5 < told[-1] < 1


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
