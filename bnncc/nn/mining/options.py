"""How edges are sought."""

from dataclasses import dataclass, field
from typing import Literal

from bnncc.nn.mining.responses import Reference
from bnncc.nn.mining.rewards import Rewards
from bnncc.nn.mining.statistics import Thresholds
from bnncc.runtime.errors import OptionError


@dataclass(frozen=True)
class MiningOptions:
    """What the paper leaves open has our default, with the reason.

    edges          most of one layer; the released code's 100
    levels         strengths are +-1 ... +-levels units; the paper's K is 2 or 3 (from memory), so 3
    units          of strength, whole numbers; the one that least squares explains most with is taken, for each layer
                   (the paper's U_0 is not known; 2 is the least change of a sum of signs)
    thresholds     where phi steps
    reference      the float response behind a BatchNorm with statistics of its own ("normalised"), as a
                   full-precision network would have it, or against 0 ("raw")
    rewards        what the policy is paid for
    steps          of the policy in each layer; the layers take turns, batch by batch
    actions        drawn in each step; those that pay are done, the best for each student
    explore        share of actions drawn evenly, as the released code's epsilon
    entropy        weight of the policy's entropy beside its reward. Without it the policy settles on one strength and
                   a few pairs within ten steps: in four layers on digits, three seeds, it then gained 0.73 to 1.06 of
                   what least squares gains, with 0.3 it gained 0.83 to 1.11
    keep           share that an edge's known worth keeps when it is weighed on another batch; the edge worth least
                   goes where there are too many
    learning_rate  of Adam on the policy. The released code's SGD with 2e-5 is for 450 epochs of mining
    hidden         units of the policy's only hidden layer; 32 are enough for seven features
    by             which edges the network is left with: the policy's, or those it is compared with
    """

    edges: int = 100
    levels: int = 3
    units: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16)
    thresholds: Thresholds = field(default_factory=Thresholds)
    reference: Reference = "normalised"
    rewards: Rewards = field(default_factory=Rewards)
    steps: int = 100
    actions: int = 32
    explore: float = 0.05
    entropy: float = 0.3
    keep: float = 0.9
    learning_rate: float = 1e-2
    hidden: int = 32
    by: Literal["policy", "least-squares", "random"] = "policy"

    def __post_init__(self) -> None:
        for name, least in (("edges", 1), ("levels", 1), ("steps", 0), ("actions", 2), ("hidden", 1)):
            if getattr(self, name) < least:
                raise OptionError(
                    f"MiningOptions: {name} is {getattr(self, name)}; allowed are whole numbers from {least}."
                )
        if not self.units or min(self.units) < 1:
            raise OptionError(f"MiningOptions: units are {self.units}; allowed are whole numbers from 1, one or more.")
        if self.by not in ("policy", "least-squares", "random"):
            raise OptionError(f"MiningOptions: by is {self.by!r}; allowed are 'policy', 'least-squares' and 'random'.")
