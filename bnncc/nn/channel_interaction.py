"""Interacted bitcount of CI-BCNN as a layer (numpy meaning: bnncc/ops/channel_interaction.py)."""

from typing import Any

import torch
from torch import Tensor, nn

from bnncc.nn import operators
from bnncc.nn.interaction_graph import COLUMNS, InteractionGraph
from bnncc.runtime.errors import OptionError


class ChannelInteraction(nn.Module):
    """Adds what `graph` says to the integers of a binary convolution, before scale and bias: give it as `interaction`.

    float [..., channels, *spatial axes] of integers -> the same. Backward is the identity to the student and nothing to
    the teacher, as in the released code. Without edges the input is handed through, and nothing is exported.

    graph: `InteractionGraph`, of no edges at first; assign another at any time. Its arrays are in the state dict, which
    may hold another number of edges than the module that loads it.
    """

    up: Tensor
    down: Tensor

    def __init__(self, channels: int, graph: InteractionGraph | None = None) -> None:
        super().__init__()
        self.channels = channels
        for name in ("up", "down"):
            self.register_buffer(name, torch.zeros((0, COLUMNS), dtype=torch.int32))
        self.graph = InteractionGraph.of(channels) if graph is None else graph

    @property
    def graph(self) -> InteractionGraph:
        return self._graph

    @graph.setter
    def graph(self, graph: InteractionGraph) -> None:
        if graph.channels != self.channels:
            raise OptionError(
                f"ChannelInteraction: the graph is of {graph.channels} channels; allowed are the layer's "
                f"{self.channels}."
            )
        self._graph = graph
        self.up = torch.tensor(graph.up, device=self.up.device)
        self.down = torch.tensor(graph.down, device=self.down.device)
        # Where each round ends: numbers of Python, so that a recorded graph has a node for each round.
        self._ends = [
            tuple(len(table[table[:, 0] <= i]) for table in (graph.up, graph.down)) for i in range(graph.rounds)
        ]

    def forward(self, acc: Tensor, spatial: int) -> Tensor:
        """spatial: how many axes follow that of the channels."""
        first_up = first_down = 0
        for last_up, last_down in self._ends:
            up, down = self.up[first_up:last_up, 1:], self.down[first_down:last_down, 1:]
            acc = operators.channel_interaction(acc, up, down, spatial)
            first_up, first_down = last_up, last_down
        return acc

    def extra_repr(self) -> str:
        return f"{self.channels}, edges={len(self.graph.edges)}, rounds={self.graph.rounds}"

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        up, down = (state_dict.get(f"{prefix}{name}") for name in ("up", "down"))
        if isinstance(up, Tensor) and isinstance(down, Tensor):
            try:
                self.graph = InteractionGraph(self.channels, up.cpu().numpy(), down.cpu().numpy())
            except OptionError as error:
                error_msgs.append(f"{prefix.removesuffix('.')}: {error}")
                return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
