"""What channel interactions cost: whole networks with random edges behind every binary convolution, beside themselves
without. An edge is one step up and one step down between two channels.

    python -m benchmarks.interactions [--target x86-avx2] [--seconds 2]
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

import bnncc
from benchmarks.networks import export
from benchmarks.timing import pin
from bnncc.bench.latency import measure as in_turns
from bnncc.bench.report import example
from bnncc.ops import ONNX_DOMAIN, channel_interaction

# Network -> edges a layer -> the most that they may add to the whole network's time.
BUDGETS = {
    "bireal_resnet18": {100: 0.06},
    "vgg_small": {100: 0.08},
    "bireal_resnet20": {10: 0.12, 100: 0.45},
}
QUIET = 10  # percentile of times that stands for a run on a core of its own


@dataclass(frozen=True)
class Cost:
    """Microseconds of one run without and with `edges` edges a layer."""

    network: str
    target: str
    edges: int
    plain_us: float
    us: float
    kind: str = "measured"

    @property
    def added(self) -> float:
        """Share of the time without."""
        return self.us / self.plain_us - 1


def with_edges(model: onnx.ModelProto, edges: int, seed: int = 0) -> onnx.ModelProto:
    """A copy with random edges behind every binary convolution; thresholds are about a deviation of its sums."""
    rng = np.random.default_rng(seed)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    packed = {tensor.name: tensor for tensor in made.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in made.graph.node:
        nodes.append(node)
        if node.domain != ONNX_DOMAIN or node.op_type != "BinaryConv":
            continue
        filters, taps, _ = packed[node.input[1]].dims
        channels = next(attribute.i for attribute in node.attribute if attribute.name == "channels")
        deviation = max(1, round((taps * channels) ** 0.5))
        teacher = rng.integers(0, filters, edges)
        student = (teacher + rng.integers(1, filters, edges)) % filters
        limit, delta = rng.integers(0, 2 * deviation, edges), rng.integers(1, deviation + 1, edges)
        output, sums = node.output[0], f"{node.output[0]}/sums"
        node.output[0] = sums
        tables = {"up": [teacher, student, limit, delta], "down": [teacher, student, -limit, -delta]}
        for name, columns in tables.items():
            table = np.stack(columns, axis=1).astype(np.int32)
            made.graph.initializer.append(numpy_helper.from_array(table, f"{output}/{name}"))
        inputs = [sums, f"{output}/up", f"{output}/down"]
        name = f"{node.name}/interaction"
        nodes.append(helper.make_node(channel_interaction.NAME, inputs, [output], name=name, domain=ONNX_DOMAIN))
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    made.functions.append(channel_interaction.function())
    return made


def measure(
    folder: Path, *, seconds: float, target: str = "native", names: Sequence[str] = tuple(BUDGETS)
) -> list[Cost]:
    """Each network with and without, in turns."""
    rows = []
    for name in names:
        plain = onnx.load(export(name, folder))
        sources = {0: plain} | {edges: with_edges(plain, edges) for edges in BUDGETS[name]}
        artifacts = {
            edges: bnncc.compile(source.SerializeToString(), target=target) for edges, source in sources.items()
        }
        models = {edges: bnncc.load(artifact) for edges, artifact in artifacts.items()}
        bound = {edges: model.bind(*map(example, model.manifest.inputs)) for edges, model in models.items()}
        taken = in_turns({str(edges): one.time_runs for edges, one in bound.items()}, seconds=seconds)
        us = {edges: float(np.percentile(taken[str(edges)], QUIET)) for edges in bound}
        found = artifacts[0].manifest.target
        rows += [Cost(name, found, edges, us[0], us[edges]) for edges in BUDGETS[name]]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="native")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each network")
    parser.add_argument("--network", choices=tuple(BUDGETS), action="append")
    options = parser.parse_args()
    pin()
    with tempfile.TemporaryDirectory() as folder:
        names = options.network or tuple(BUDGETS)
        rows = measure(Path(folder), seconds=options.seconds, target=options.target, names=names)
    for row in rows:
        budget = BUDGETS[row.network][row.edges]
        print(
            f"{row.network} {row.target}: {row.plain_us:.1f} us, with {row.edges} edges a layer {row.us:.1f} us, "
            f"{row.added:+.1%}, allowed {budget:+.0%}"
        )


if __name__ == "__main__":
    main()
