"""A run: a network by name, data by path, and a folder that holds everything that comes of it.

checkpoint.pt   what the run goes on from, and others start from
log.jsonl       a header, then a line an epoch
curves.png      loss, accuracy, flips
summary.txt     the network layer by layer, and the result
network.onnx    for `bnncc compile`
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bnncc import cache
from bnncc.frontend.export import export
from bnncc.models import Architecture, Method, Network, build
from bnncc.nn.summary import summary
from bnncc.progress import Progress, silent
from bnncc.runtime import atomic
from bnncc.runtime.errors import InputError, OptionError
from bnncc.train import checkpoint, curves, data
from bnncc.train.history import Epoch, History
from bnncc.train.loop import fit
from bnncc.train.options import Options
from bnncc.train.warm_start import WarmStart, warm_start

SUMMARY, ONNX = "summary.txt", "network.onnx"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What decides a run; equal plans on equal data give equal bits on CPU.

    method, model    as of `bnncc.models.build`; network: more arguments of it, such as {"width": 0.5}
    source           "digits", or a folder or archive of images
    size, held_out   as of `bnncc.train.data.read`
    distill          folder of a run whose network is the teacher, on images of the same size
    warm_start       folder of a run whose weights are those to start from, where names and shapes are the same
    """

    method: Method
    model: Architecture
    source: str
    options: Options
    network: Mapping[str, str | int | float] = field(default_factory=dict)
    size: int | None = None
    held_out: float | None = None
    distill: str | None = None
    warm_start: str | None = None

    def build(self, shape: tuple[int, ...], classes: int) -> Network:
        """The network with its first weights, those of the seed."""
        channels, height, width = shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.options.seed)
            try:
                return build(
                    self.model,
                    self.method,
                    classes=classes,
                    image=(channels, height, width),
                    **self.network,  # type: ignore[arg-type]
                )
            except TypeError as error:
                raise OptionError(f"network: {error}; allowed are the arguments of bnncc.models.build") from error


def run(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    progress: Progress = silent,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_warm_start: Callable[[WarmStart], None] | None = None,
) -> History:
    """Train as planned and fill the folder `out`; where one was begun there, go on with it.

    Raises what `data.read`, `build`, `fit` and `export` raise.
    """
    folder = Path(out)
    kept = cache.default_folder()
    read = data.read(
        plan.source,
        size=plan.size,
        held_out=plan.held_out,
        cache=kept / "images" if kept else None,
        progress=progress,
    )
    network = plan.build(read.shape, len(read.classes))
    teacher = trained(plan.distill, read.shape, len(read.classes)) if plan.distill else None
    if plan.warm_start and not (folder / checkpoint.NAME).exists():
        started = warm_start(network, checkpoint.read(Path(plan.warm_start, checkpoint.NAME)).network)
        if on_warm_start:
            on_warm_start(started)
    fields = dataclasses.asdict(plan)
    about = {**{name: fields[name] for name in fields if name != "options"}, "mean": read.mean, "std": read.std}
    about |= {"shape": read.shape, "classes": read.classes}
    history = fit(
        network, read, plan.options, folder, teacher=teacher, about=about, progress=progress, on_epoch=on_epoch
    )
    if history.rank == 0:
        example = read.normalised(read.test.images[:1])
        curves.draw(history, folder / curves.NAME)
        last = history.epochs[-1]
        text = f"{summary(network, example)}\n\ntest accuracy {last.test_accuracy:.2%} after {last.epoch} epochs\n"
        atomic.write(folder / SUMMARY, text.encode())
        export(network, example, folder / ONNX)
    return history


def trained(folder: str | os.PathLike[str], shape: tuple[int, ...], classes: int) -> Network:
    """The network of a run as it is in its checkpoint, in eval mode.

    Raises:
        InputError: no whole checkpoint there, or of images or classes of another kind.
    """
    path = Path(folder, checkpoint.NAME)
    state = checkpoint.read(path)
    network = plan_of(folder).build(shape, classes)
    try:
        network.load_state_dict(state.network)
    except RuntimeError as error:
        message = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: does not fit images {list(shape)} of {classes} classes ({message})") from error
    return network.eval()


def plan_of(folder: str | os.PathLike[str]) -> Plan:
    """What the run in this folder was begun with.

    Raises:
        InputError: no whole checkpoint there, or one that `run` has not made.
        OptionError: it says what is not allowed.
    """
    path = Path(folder, checkpoint.NAME)
    try:
        about = json.loads(checkpoint.read(path).about)
        fields = {each.name: about[each.name] for each in dataclasses.fields(Plan) if each.name != "options"}
        return Plan(**fields, options=Options(**about["options"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: was not made by a run ({error}); give the folder of one") from error
