"""One layer while it is mined: edges come and go by what they are worth."""

import torch
from torch import Tensor, nn

from bnncc.nn.interaction_graph import InteractionGraph, stepped
from bnncc.nn.mining import least_squares, rewards
from bnncc.nn.mining.least_squares import Explained, Fit
from bnncc.nn.mining.options import MiningOptions
from bnncc.nn.mining.policy import Actions
from bnncc.nn.mining.responses import Batch, Place, Response
from bnncc.nn.mining.rewards import Value
from bnncc.nn.mining.statistics import Scale, Sums


class Edges:
    """The edges of one layer; `strengths` int64 [teachers, students], 0 where there is none."""

    def __init__(self, place: Place, scale: Scale, sums: Sums, closed: Fit, options: MiningOptions) -> None:
        self.place = place
        self.scale = scale
        self.sums = sums
        self.unit = closed.unit
        self.options = options
        self.strengths = self._strengths(place.interaction.graph)
        self.explained = Explained(sums, scale, self.unit, self.strengths)
        self.worth = torch.zeros_like(sums.gram)

    def install(self, strengths: Tensor) -> None:
        """Give the network these edges."""
        self.place.interaction.graph = InteractionGraph.of(
            self.place.channels,
            [
                stepped(t, s, int(strengths[t, s]), unit=self.unit, thresholds=self.scale.thresholds)
                for t, s in strengths.nonzero().tolist()
            ],
        )

    def value(self, network: nn.Module, batch: Batch, response: Response, actions: Actions) -> Value:
        """What the actions are worth on a batch, each by itself."""
        wanted = self.options.rewards
        teachers = actions.teacher.clamp(min=0)
        made = rewards.agreement(teachers, actions.student, actions.change, response, self.scale, self.unit)
        reward = wanted.agreement * made.reward
        if wanted.information:
            reward = reward + wanted.information * rewards.information(actions, response, self.strengths)
        if wanted.loss:

            def attempt(i: int) -> None:
                self.install(self._after(actions, i) if i >= 0 else self.strengths)

            reward = reward + wanted.loss * rewards.loss(network, batch, len(reward), attempt, wanted.errors)
        return Value(reward, abs(wanted.agreement) * wanted.errors * made.error)

    def act(self, actions: Actions, value: Value) -> None:
        """Do what pays by more than its error, the best for each student, whose gain is its own alone. Where that makes
        too many edges, those of the least worth go."""
        students = set[int]()
        for i in value.reward.argsort(descending=True).tolist():
            teacher, student, change = (int(v[i]) for v in (actions.teacher, actions.student, actions.change))
            if teacher < 0 or not change or student in students or value.reward[i] <= value.error[i]:
                continue
            students.add(student)
            self._change(teacher, student, change)
            self.worth[teacher, student] = value.reward[i]
        while int((self.strengths != 0).sum()) > self.options.edges:
            worth = torch.where(self.strengths != 0, self.worth, torch.inf)
            teacher, student = divmod(int(worth.argmin()), self.place.channels)
            self._change(teacher, student, -int(self.strengths[teacher, student]))
        self.install(self.strengths)

    def weigh(self, response: Response) -> None:
        """Remember what each edge is worth on a batch."""
        teachers, students = self.strengths.nonzero(as_tuple=True)
        if not len(teachers):
            return
        removed = rewards.agreement(
            teachers, students, -self.strengths[teachers, students], response, self.scale, self.unit
        )
        keep, known = self.options.keep, self.worth[teachers, students]
        self.worth[teachers, students] = keep * known - (1 - keep) * removed.reward.double()

    def random(self, generator: torch.Generator) -> Tensor:
        """As many edges as there are, at random, of the strengths that explain most."""
        channels = self.place.channels
        pairs = (~torch.eye(channels, dtype=torch.bool)).flatten().nonzero()[:, 0]
        drawn = pairs[torch.randperm(len(pairs), generator=generator)[: int((self.strengths != 0).sum())]]
        allowed = torch.zeros(channels**2, dtype=torch.bool)
        allowed[drawn] = True
        return least_squares.greedy(
            self.sums,
            self.scale,
            unit=self.unit,
            levels=self.options.levels,
            most=len(drawn),
            allowed=allowed.reshape(channels, channels).to(self.strengths.device),
        ).strengths

    def _change(self, teacher: int, student: int, change: int) -> None:
        self.strengths[teacher, student] += change
        self.explained.apply(teacher, student, change)

    def _after(self, actions: Actions, i: int) -> Tensor:
        strengths = self.strengths.clone()
        if int(actions.teacher[i]) >= 0:
            strengths[actions.teacher[i], actions.student[i]] += actions.change[i]
        return strengths

    def _strengths(self, graph: InteractionGraph) -> Tensor:
        """Those of a graph, in our units and levels: [T, S]."""
        channels, levels = graph.channels, self.options.levels
        total = torch.zeros(channels, channels, dtype=torch.float64)
        _, teacher, student, _, delta = torch.tensor(graph.up).long().unbind(1)
        total.index_put_((teacher, student), delta.double(), accumulate=True)
        strengths = (total / (self.unit * len(self.scale.thresholds))).round().clamp(-levels, levels)
        return strengths.long().to(self.sums.gram.device)
