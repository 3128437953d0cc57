"""Channel interactions: the layer equals the operator's numpy meaning, graphs are checked, kept and ordered."""

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import bnncc
from bnncc.nn import BinaryConv1d, BinaryConv2d, ChannelInteraction, InteractionGraph, Sign
from bnncc.nn.interaction_graph import (
    Edge,
    closed_form,
    fraction_thresholds,
    quantile_thresholds,
    released,
    stepped,
)
from bnncc.ops import channel_interaction
from bnncc.runtime import npz
from bnncc.runtime.errors import InputError, OptionError
from tests.conftest import randomise

CHANNELS = 6
Integers = npt.NDArray[np.float32]


def steps(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    return tuple(draw(st.lists(st.tuples(st.integers(-12, 12), st.integers(-9, 9)), max_size=3)))


@st.composite
def edges(draw: st.DrawFn) -> list[Edge]:
    pairs = draw(st.lists(st.permutations(range(CHANNELS)), max_size=8))
    return [Edge(pair[0], pair[1], steps(draw), steps(draw)) for pair in pairs]


def in_order(r: Integers, edges: list[Edge]) -> Integers:
    """The definition of sequential interactions: each edge in place on int64, reading what those before it wrote."""
    y = r.astype(np.int64)
    for edge in edges:
        read = y[:, edge.teacher].copy()
        for threshold, delta in edge.up:
            y[:, edge.student] += delta * (read >= threshold)
        for threshold, delta in edge.down:
            y[:, edge.student] += delta * (read <= threshold)
    return y.astype(np.float32)


def at_once(r: Integers, edges: list[Edge]) -> Integers:
    y = r.astype(np.int64)
    for edge in edges:
        y += in_order(r, [edge]).astype(np.int64) - r.astype(np.int64)
    return y.astype(np.float32)


def integers(seed: int = 0, *, shape: tuple[int, ...] = (2, CHANNELS, 5, 4)) -> Integers:
    return np.random.default_rng(seed).integers(-14, 15, shape).astype(np.float32)


def computed(graph: InteractionGraph, r: Integers) -> Integers:
    """By the layer, which must agree with the operator's meaning round by round."""
    y = ChannelInteraction(graph.channels, graph)(torch.from_numpy(r), r.ndim - 2).numpy()
    by_meaning = r
    for up, down in graph.tables():
        by_meaning = channel_interaction.meaning(by_meaning, up, down)
    np.testing.assert_array_equal(y, by_meaning)
    return np.asarray(y)


@settings(max_examples=60, deadline=None)
@given(edges())
def test_both_orders_equal_their_definition(edges: list[Edge]) -> None:
    r = integers()
    snapshot, sequential = InteractionGraph.of(CHANNELS, edges), InteractionGraph.of(CHANNELS, edges, sequential=True)
    np.testing.assert_array_equal(computed(snapshot, r), at_once(r, edges))
    np.testing.assert_array_equal(computed(sequential, r), in_order(r, edges))
    students: set[int] = set()
    chain = False
    for edge in edges:
        chain |= edge.teacher in students
        students.add(edge.student)
    assert chain or not (computed(snapshot, r) != computed(sequential, r)).any()
    assert snapshot.rounds <= 1


def test_a_chain_differs_by_its_order() -> None:
    edges = [Edge(0, 1, ((1, 20),), ()), Edge(1, 2, ((15, 3),), ()), Edge(0, 2, ((1, 1),), ())]
    snapshot, sequential = InteractionGraph.of(3, edges), InteractionGraph.of(3, edges, sequential=True)
    assert (snapshot.rounds, sequential.rounds) == (1, 2)
    r = np.array([[5.0, 0.0, 0.0]], np.float32)
    assert computed(snapshot, r).tolist() == [[5, 20, 1]]
    assert computed(sequential, r).tolist() == [[5, 20, 4]]
    assert sequential.edges == [(0, 1), (0, 2), (1, 2)]


@settings(max_examples=40, deadline=None)
@given(st.integers(-3, 3).filter(bool), st.integers(1, 40), st.integers(1, 5), st.integers(1, 40))
def test_the_closed_form_is_its_formula(strength: int, width: int, unit: int, inputs: int) -> None:
    if width > abs(strength) * inputs:
        with pytest.raises(OptionError, match="never reaches a step"):
            closed_form(0, 1, strength, unit=unit, width=width, inputs=inputs)
        return
    edge = closed_form(0, 1, strength, unit=unit, width=width, inputs=inputs)
    x = np.arange(-inputs, inputs + 1, dtype=np.int64)
    r = np.stack([x, np.zeros_like(x)], axis=1).astype(np.float32)
    phi = np.sign(strength) * unit * np.sign(x) * (abs(strength) * np.abs(x) // width)
    np.testing.assert_array_equal(computed(InteractionGraph.of(2, [edge]), r)[:, 1], phi)


def test_the_released_step() -> None:
    x = np.array([-201, -200, -199, 0, 199, 200, 201], np.float32)
    r = np.stack([x, np.zeros_like(x)], axis=1)

    def phi(influence: float, **options: bool) -> list[int]:
        edge = released(0, 1, influence, **options)
        assert edge is not None
        return [int(v) for v in computed(InteractionGraph.of(2, [edge]), r)[:, 1]]

    assert phi(0.05) == [-100, -100, 0, 0, 0, 100, 100]
    assert phi(-0.05) == [100, 100, 0, 0, 0, -100, -100]
    assert phi(-0.05, asymmetric=True) == [-100, -100, 0, 0, 0, -100, -100]
    assert phi(0.05, asymmetric=True) == phi(0.05)
    assert released(0, 1, 0.04) is None
    assert released(0, 1, -0.04) is None


def test_released_lists_in_their_order() -> None:
    lists = ([0, 1, 2], [1, 2, 0], [0.1, -0.1, 0.0])
    graph = InteractionGraph.of_released(3, *lists)
    assert graph.rounds == 2
    with pytest.warns(UserWarning, match="a teacher was a student before, and sequential=False reads it unchanged"):
        at_once = InteractionGraph.of_released(3, *lists, sequential=False)
    assert at_once.rounds == 1
    assert InteractionGraph.of_released(3, [0, 0], [1, 2], [0.1, 0.1], sequential=False).rounds == 1


def test_thresholds() -> None:
    assert fraction_thresholds([0.25, 0.001], 577) == (145, 1)
    counts = np.bincount([0, 2, 2, 4, 6, 6, 8, 10])
    for quantile in (0.0, 0.3, 0.5, 0.9):
        (threshold,) = quantile_thresholds([quantile], counts)
        assert counts[:threshold].sum() <= max(quantile * counts.sum(), counts[0])
        assert counts[: threshold + 1].sum() > quantile * counts.sum()
    for wrong in ([0.0], [1.5]):
        with pytest.raises(OptionError, match="allowed are fractions above 0, up to 1"):
            fraction_thresholds(wrong, 10)
    with pytest.raises(OptionError, match="allowed are quantiles from 0, below 1"):
        quantile_thresholds([1.0], counts)


GRAPH = InteractionGraph.of(
    4, [stepped(0, 1, 2, unit=3, thresholds=[4, 8]), stepped(1, 2, -1, unit=2, thresholds=[1])], sequential=True
)


@pytest.mark.parametrize("build", [BinaryConv1d, BinaryConv2d])
@pytest.mark.parametrize("scale", [None, "channel"])
def test_it_acts_on_the_integers(build: Any, scale: Any) -> None:
    """Before scale and bias, also on an input without a batch; without edges the layer is the plain one."""
    torch.manual_seed(0)
    plain = build(8, 4, 3, scale=scale)
    layer = build(8, 4, 3, scale=scale, interaction=ChannelInteraction(4))
    layer.load_state_dict({**plain.state_dict(), **layer.interaction.state_dict(prefix="interaction.")})
    x = torch.randn(2, 8, *[7] * len(layer.kernel_size))
    assert torch.equal(layer(x), plain(x))
    layer.interaction.graph = GRAPH
    r = layer.correlate(layer.input_quantizer(x), layer.weight_quantizer(layer.weight)).detach().numpy()
    changed = torch.from_numpy(computed(GRAPH, r))
    expected = layer._scale_and_bias(changed, len(layer.kernel_size))
    assert torch.equal(layer(x), expected)
    assert torch.equal(layer(x[0]), expected[0])
    assert not torch.equal(layer(x), plain(x))


def test_gradients_pass_the_student_and_not_the_teacher() -> None:
    acc = torch.from_numpy(integers(shape=(3, 4, 2, 2))).requires_grad_()
    sent = torch.randn(3, 4, 2, 2)
    ChannelInteraction(4, GRAPH)(acc, 2).backward(sent)
    assert acc.grad is not None
    assert torch.equal(acc.grad, sent)


@pytest.mark.parametrize("gamma", [0.7, -0.7])
def test_as_thresholds_that_depend_on_the_teachers(gamma: float) -> None:
    """sign(BN(r~)) is r against tau - Phi, from the other side where gamma is below 0; ties count as reached."""
    edges = [stepped(0, 1, 2, unit=3, thresholds=[4]), stepped(2, 1, -1, unit=2, thresholds=[1, 7])]
    r = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3), -1).reshape(-1, 3).astype(np.float32)
    interacted = computed(InteractionGraph.of(3, edges), r)[:, 1]
    phi = at_once(np.stack([r[:, 0], 0 * r[:, 1], r[:, 2]], 1), edges)[:, 1]
    for tau in (-3, 0, 4):
        unfused = gamma * (interacted - tau) >= 0
        limit = tau - phi
        fused = r[:, 1] >= limit if gamma > 0 else r[:, 1] <= limit
        np.testing.assert_array_equal(unfused, fused)
        assert (r[:, 1] == limit).any()


def test_the_state_dict_holds_the_graph() -> None:
    layer = nn.Sequential(BinaryConv2d(8, 4, 3, interaction=ChannelInteraction(4, GRAPH)))
    stored = io.BytesIO()
    torch.save(layer.state_dict(), stored)
    stored.seek(0)
    other = nn.Sequential(BinaryConv2d(8, 4, 3, interaction=ChannelInteraction(4)))
    other.load_state_dict(torch.load(stored, weights_only=True))
    x = torch.randn(1, 8, 5, 5)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(other)(x), layer(x))
    interaction = other[0].get_submodule("interaction")
    assert isinstance(interaction, ChannelInteraction)
    assert interaction.graph.edges == GRAPH.edges

    empty = nn.Sequential(BinaryConv2d(8, 4, 3, interaction=ChannelInteraction(4)))
    other.load_state_dict(empty.state_dict())
    assert interaction.graph.rounds == 0

    bad = {**layer.state_dict(), "0.interaction.up": torch.tensor([[0, 0, 9, 1, 1]], dtype=torch.int32)}
    with pytest.raises(RuntimeError, match="row 0 of up has student 9, allowed: 0 to 3"):
        other.load_state_dict(bad)
    assert interaction.graph.rounds == 0


@pytest.mark.parametrize("graph", [GRAPH, InteractionGraph.of(4)])
def test_export(graph: InteractionGraph, tmp_path: Path) -> None:
    """A loaded layer is exported with one operator for each round, none without edges; file and artifact agree."""
    trained = nn.Sequential(
        BinaryConv2d(8, 4, 3, padding=1, interaction=ChannelInteraction(4, graph)), nn.BatchNorm2d(4), Sign()
    )
    randomise(trained, torch.empty(1, 8, 6, 5), seed=3)
    module = nn.Sequential(
        BinaryConv2d(8, 4, 3, padding=1, interaction=ChannelInteraction(4)), nn.BatchNorm2d(4), Sign()
    )
    module.load_state_dict(trained.state_dict())
    path = tmp_path / "interacting.onnx"
    x = torch.randn(1, 8, 6, 5)
    bnncc.export(module.eval(), x, path)
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes.count("ChannelInteraction") == graph.rounds
    (found,) = bnncc.load(bnncc.compile(path)).run(x.numpy()).values()
    (by_onnxruntime,) = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
    np.testing.assert_array_equal(by_onnxruntime, trained(x).detach().numpy())
    np.testing.assert_array_equal(found, by_onnxruntime)


def test_files(tmp_path: Path) -> None:
    GRAPH.save(tmp_path / "graph.npz")
    found = InteractionGraph.load(tmp_path / "graph.npz")
    assert found.channels == 4
    np.testing.assert_array_equal(found.up, GRAPH.up)
    np.testing.assert_array_equal(found.down, GRAPH.down)
    arrays = {"channels": np.array(4), "up": GRAPH.up, "down": GRAPH.down}
    for change, message in (
        ({"channels": np.array(2)}, "row 2 of down has student 2|row 2 of up has student 2"),
        ({"extra": np.zeros(1)}, "found arrays 'channels', 'down', 'extra', 'up'"),
        ({"up": GRAPH.up.astype(np.int64)}, r"up is int64 \[3, 5\]; allowed is int32"),
        ({"up": GRAPH.up[::-1]}, "rounds of up are not in order"),
    ):
        npz.write(tmp_path / "wrong.npz", {**arrays, **change})
        with pytest.raises(InputError, match=message):
            InteractionGraph.load(tmp_path / "wrong.npz")


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        (Edge(1, 1, ((0, 1),), ()), "row 0 of up has channel 1 as its own teacher"),
        (Edge(1, 2, (), ((0, 1), (-1, 1 << 24))), "the steps of student 2 add up to"),
        (Edge(-1, 2, ((0, 1),), ()), "row 0 of up has teacher -1"),
        (Edge(0, 2, ((1 << 40, 1),), ()), "a step holds a number outside int32"),
    ],
)
def test_refused_graphs(edge: Edge, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        InteractionGraph.of(3, [edge])


def test_refused_layers() -> None:
    with pytest.raises(OptionError, match=r"the graph is of 4 channels; allowed are the layer's 5"):
        ChannelInteraction(5, GRAPH)
    with pytest.raises(OptionError, match=r"BinaryConv2d: interaction is of 5 channels; allowed are the layer's 4"):
        BinaryConv2d(8, 4, 3, interaction=ChannelInteraction(5))
    with pytest.raises(OptionError, match="a weight_quantizer other than Sign are given"):
        BinaryConv2d(8, 4, 3, interaction=ChannelInteraction(4), weight_quantizer=nn.Tanh())
    BinaryConv2d(8, 4, 3, interaction=ChannelInteraction(4), weight_quantizer=Sign())
    for thresholds, strength in (([0], 1), ([1], 0)):
        with pytest.raises(OptionError, match="allowed are a strength other than 0"):
            stepped(0, 1, strength, unit=1, thresholds=thresholds)
