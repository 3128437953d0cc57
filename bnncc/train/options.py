"""How a network is trained: numbers and names, checked when they are put together."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from bnncc.runtime.errors import OptionError

Optimizer = Literal["adam", "sgd"]
Schedule = Literal["one-cycle", "cosine", "step", "constant"]
Device = Literal["auto", "cpu", "cuda", "mps"]
MineBy = Literal["policy", "least-squares", "random"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

_WORDS = {"optimizer": Optimizer, "schedule": Schedule, "device": Device, "mine_by": MineBy, "precision": Precision}
# Whole numbers from 0 and from 1; fractions and rates from 0.
_COUNTS = {
    "epochs": 1,
    "batch": 2,
    "processes": 1,
    "nodes": 1,
    "threads": 0,
    "seed": 0,
    "crop": 0,
    "tanh_epochs": 0,
    "mine_every": 0,
    "mine_batches": 3,
    "mine_steps": 0,
}
_AMOUNTS: tuple[str, ...] = (
    "learning_rate",
    "momentum",
    "warm_up",
    "weight_decay",
    "latent_decay",
    "alpha_decay",
    "clip",
)
_AMOUNTS += ("label_smoothing", "distill_weight", "center_weight", "checkpoint_seconds")
_SHARES = ("momentum", "label_smoothing", "distill_weight")
MOST_COUNT = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """Raises OptionError for a value that is not allowed.

    epochs              passes over the training images
    batch               images a step, over all processes together; each takes an equal share
    seed                of everything random: initial weights (by the caller), order, crops, flips, mining
    optimizer           "adam" (Kingma and Ba, ICLR 2015; what binary networks are trained with) or "sgd" (Nesterov)
    learning_rate       the highest one
    momentum            of "sgd"
    schedule            see `bnncc.train.schedule`
    warm_up             epochs in which the rate rises linearly from 0; 0 for "one-cycle", which has a rise of its own
    weight_decay        L2 on weights that are neither latent nor scaling factors; none on biases and BatchNorm
    latent_decay        L2 on latent binary weights, whose magnitude means nothing: 0
    alpha_decay         L2 on scaling factors `alpha_w`, in place of the weights (Xu and Cheung, BMVC 2019; their
                        coefficient is not known, 1e-4 is the convention for weights)
    clip                latent weights stay in [-clip, clip], or they could leave the estimator's range for good
                        (Courbariaux et al., NIPS 2015); 0 leaves them alone
    label_smoothing     share of the target that all classes get (Szegedy et al., CVPR 2016)
    distill_weight      share of the loss that the teacher's soft outputs have, where there is a teacher; the labels
                        have the rest. 1 is ReActNet's (Liu et al., ECCV 2020)
    center_weight       of the center loss of features (Liu et al., CBCN, CVPR 2019; their coefficient is not known)
    crop, flip          training images are moved by up to `crop` pixels, and mirrored half of the time
    tanh_epochs         Group-Net's first stage: so many epochs with tanh in place of signs; then optimizer and schedule
                        begin anew
    mine_every          CI-BCNN: after every so many epochs, but not after the last, interactions of channels are mined
                        with the weights as they are; 0 is never. The released code has 450 epochs of mining after
                        each 50
    mine_batches        of training images that are mined on, as they are; a third of them only tells the agreement
    mine_steps          of the policy, in each layer
    mine_by             whose edges are taken, see `bnncc.nn.mining.options.MiningOptions`
    device              what Lightning Fabric calls an accelerator
    processes, nodes    processes on a machine, one a device, and machines
    precision           of Lightning Fabric; binary sums stay exact in all of them
    threads             of torch in each process; 0 leaves it to torch. Another number rounds sums differently
    checkpoint_seconds  how long training may go on before it is written down; it is after each epoch, too
    """

    epochs: int
    batch: int = 128
    seed: int = 0
    optimizer: Optimizer = "adam"
    learning_rate: float = 5e-3
    momentum: float = 0.9
    schedule: Schedule = "one-cycle"
    warm_up: float = 0.0
    weight_decay: float = 0.0
    latent_decay: float = 0.0
    alpha_decay: float = 1e-4
    clip: float = 1.0
    label_smoothing: float = 0.0
    distill_weight: float = 1.0
    center_weight: float = 0.0
    crop: int = 0
    flip: bool = False
    tanh_epochs: int = 0
    mine_every: int = 0
    mine_batches: int = 12
    mine_steps: int = 60
    mine_by: MineBy = "policy"
    device: Device = "auto"
    processes: int = 1
    nodes: int = 1
    precision: Precision = "32-true"
    threads: int = 0
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            _check(name, getattr(self, name), get_args(words), getattr(self, name) in get_args(words))
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            _check(name, value, f"whole numbers from {least}", whole and least <= value <= MOST_COUNT)
        for name in _AMOUNTS:
            value = getattr(self, name)
            real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            most = 1 if name in _SHARES else math.inf
            _check(name, value, f"numbers from 0{' to 1' if most == 1 else ''}", real and 0 <= value <= most)
        _check("learning_rate", self.learning_rate, "numbers above 0", self.learning_rate > 0)
        _check("flip", self.flip, "True and False", isinstance(self.flip, bool))
        _check("tanh_epochs", self.tanh_epochs, "less than epochs", self.tanh_epochs < self.epochs)
        _check("warm_up", self.warm_up, "less than epochs", self.warm_up < self.epochs)
        _check("warm_up", self.warm_up, "0 with one-cycle", self.schedule != "one-cycle" or self.warm_up == 0)
        share = self.batch / (self.processes * self.nodes)
        _check("batch", self.batch, "2 or more a process, the same number each", share >= 2 and share == int(share))


def _check(name: str, value: object, allowed: object, right: bool) -> None:
    if not right:
        shown = ", ".join(map(repr, allowed)) if isinstance(allowed, tuple) else allowed
        raise OptionError(f"training: {name} is {value!r}; allowed are {shown}.")
