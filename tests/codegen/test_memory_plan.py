"""The memory plan: nothing alive at the same time overlaps, everything is aligned, and sharing happens."""

from hypothesis import given
from hypothesis import strategies as st

from bnncc.codegen.memory_plan import Lifetime, plan
from bnncc.runtime.abi import ALIGNMENT

lifetimes = st.lists(
    st.tuples(st.integers(1, 5000), st.integers(0, 12), st.integers(0, 5)).map(
        lambda drawn: Lifetime(drawn[0], drawn[1], drawn[1] + drawn[2])
    ),
    max_size=16,
).map(lambda lives: {f"t{i}": life for i, life in enumerate(lives)})


@given(lifetimes)
def test_what_lives_together_does_not_overlap(lives: dict[str, Lifetime]) -> None:
    offsets, size = plan(lives)
    assert offsets.keys() == lives.keys()
    for name, life in lives.items():
        assert offsets[name] % ALIGNMENT == 0
        assert offsets[name] + life.size <= size
        for other, its in lives.items():
            if other != name and life.first <= its.last and its.first <= life.last:
                apart = offsets[name] + life.size <= offsets[other] or offsets[other] + its.size <= offsets[name]
                assert apart, (name, other)


def test_a_chain_needs_two_places() -> None:
    """Each tensor of a chain is read by the next call alone, so two of them are alive at any time."""
    chain = {f"t{i}": Lifetime(64, i, i + 1) for i in range(10)}
    assert plan(chain)[1] == 128


def test_a_gap_is_used() -> None:
    lives = {"large": Lifetime(640, 0, 1), "small": Lifetime(64, 2, 3), "end": Lifetime(128, 0, 3)}
    offsets, size = plan(lives)
    assert size == 768
    assert offsets["small"] < 640


def test_nothing_needs_nothing() -> None:
    assert plan({}) == ({}, 0)
