"""bnncc train."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnncc.cli import output
from bnncc.progress import bar
from bnncc.runtime.errors import OptionError

if TYPE_CHECKING:
    from bnncc.train.history import Epoch
    from bnncc.train.run import Plan
    from bnncc.train.warm_start import WarmStart

METHODS = ("float", "xnor", "bireal", "reactnet", "ci-bcnn", "group-net", "cbcn", "trained-binarization")
MODELS = ("resnet20", "resnet18", "vgg-small")
# Options of the command that are arguments of bnncc.models.build, and those that are fields of bnncc.train.Options.
NETWORK = ("width", "equal_to", "backbone", "activation", "bases", "orientations", "mixing", "merge")
SHOWN = 8


@click.command()
@click.option("--method", type=click.Choice(METHODS), help="What is binary, and how.")
@click.option("--model", type=click.Choice(MODELS), help="The network.")
@click.option(
    "--data", metavar="digits|FOLDER|ARCHIVE", help="Images: a class a folder, split in train/ and test/ or not."
)
@click.option("--epochs", type=int, help="Passes over the training images.")
@click.option(
    "-o", "--output", "out", required=True, metavar="OUT/", help="Folder of the run; goes on with what is there."
)
@click.option("--resume", is_flag=True, help="Go on with the run in OUT as it was begun; no other options.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--batch", type=int, default=128, show_default=True, help="Images a step, of all processes.")
@click.option("--optimizer", type=click.Choice(["adam", "sgd"]), default="adam", show_default=True)
@click.option("--lr", "learning_rate", type=float, default=5e-3, show_default=True, help="Highest learning rate.")
@click.option("--momentum", type=float, default=0.9, show_default=True, help="Of sgd.")
@click.option(
    "--schedule", type=click.Choice(["one-cycle", "cosine", "step", "constant"]), default="one-cycle", show_default=True
)
@click.option("--warm-up", type=float, default=0.0, show_default=True, help="Epochs; not with one-cycle.")
@click.option("--weight-decay", type=float, default=0.0, show_default=True, help="Of weights that are not binary.")
@click.option("--latent-decay", type=float, default=0.0, show_default=True, help="Of latent weights.")
@click.option("--alpha-decay", type=float, default=1e-4, show_default=True, help="Of trained scaling factors.")
@click.option("--clip", type=float, default=1.0, show_default=True, help="Bound of latent weights; 0: none.")
@click.option("--label-smoothing", type=float, default=0.0, show_default=True)
@click.option("--distill", metavar="RUN/", help="Learn the soft outputs of the network of this run.")
@click.option("--distill-weight", type=float, default=1.0, show_default=True, help="Their part of the loss.")
@click.option("--warm-start", metavar="RUN/", help="Start from the weights of this run.")
@click.option("--center-weight", type=float, default=0.0, show_default=True, help="Of the center loss (cbcn).")
@click.option("--tanh-epochs", type=int, default=0, show_default=True, help="First stage of group-net.")
@click.option("--mine-every", type=int, help="Epochs between minings.  [default: of ci-bcnn a quarter of all; else 0]")
@click.option("--mine-steps", type=int, default=60, show_default=True, help="Of the policy, in each layer.")
@click.option(
    "--mine-by", type=click.Choice(["policy", "least-squares", "random"]), default="policy", show_default=True
)
@click.option("--crop", type=int, help="Pixels that images are moved by.  [default: 4; digits: 0]")
@click.option("--flip/--no-flip", default=None, help="Mirror half of the images.  [default: yes; digits: no]")
@click.option("--size", type=click.IntRange(1), help="Pixels of a side to bring images to.")
@click.option("--held-out", type=float, help="Part to test on, if data have none.  [default: 0.2; digits: 0.5]")
@click.option("--width", type=float, help="Factor of all numbers of channels.")
@click.option("--equal-to", type=click.Choice(["macs", "bits"]), help="Width at which they are xnor's.")
@click.option("--backbone", type=click.Choice(["xnor", "bireal"]), help="Order of layers and shortcuts.")
@click.option("--activation", type=click.Choice(["bits", "signs"]), help="Of trained-binarization.")
@click.option("--bases", type=int, help="Of group-net.")
@click.option("--orientations", type=click.Choice(["4", "8"]), help="Of cbcn.")
@click.option("--mixing", type=click.Choice(["oriented", "shared"]), help="Of cbcn.")
@click.option("--merge", type=click.Choice(["max", "all"]), help="Of cbcn: orientations that the classifier reads.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True)
@click.option("--processes", type=int, default=1, show_default=True, help="On this machine, one a device.")
@click.option("--nodes", type=int, default=1, show_default=True, help="Machines; start each with torchrun.")
@click.option(
    "--precision", type=click.Choice(["32-true", "bf16-mixed", "16-mixed"]), default="32-true", show_default=True
)
@click.option("--threads", type=int, default=0, show_default=True, help="Of each process; 0: torch decides.")
@click.option("--checkpoint-seconds", type=float, default=60.0, show_default=True, help="At most between checkpoints.")
@output.json_option
@click.pass_context
def command(
    context: click.Context, /, out: str, resume: bool, json_file: str | None, **values: str | int | float | bool | None
) -> None:
    """Train a network on images, and leave checkpoint, log, curves, summary and ONNX file in OUT.

    The same command, or --resume, goes on where training was cut off, to the same bits on CPU. Ctrl-C is safe.

    \b
    Example:
      bnncc train --method xnor --model resnet20 --data digits --epochs 20 -o runs/xnor
      bnncc train --method reactnet --model resnet20 --data cifar10/ --epochs 60 --distill runs/float -o runs/reactnet
      bnncc train --resume -o runs/xnor
    """
    if resume:
        given = [
            name for name in values if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        ]
        if given:
            raise click.UsageError(f"--resume takes the options from OUT; leave away {', '.join(given)}.")
        from bnncc.train.run import plan_of

        plan = plan_of(out)
    else:
        missing = [f"--{name}" for name in ("method", "model", "data", "epochs") if values[name] is None]
        if missing:
            raise click.UsageError(f"Missing option {', '.join(missing)}.")
        plan = _plan(values)
    from bnncc.train.run import run

    with bar() as progress:
        history = run(plan, out, progress=progress, on_epoch=_tell, on_warm_start=_tell_warm_start)
    if history.rank == 0:
        report = {**history.about, "epochs": [dataclasses.asdict(epoch) for epoch in history.epochs]}
        accuracy = history.epochs[-1].test_accuracy
        output.show(report, json_file, lambda: click.echo(f"{Path(out)}: test accuracy {accuracy:.2%}"))


def _plan(values: dict[str, str | int | float | bool | None]) -> Plan:
    from bnncc.train.options import Options
    from bnncc.train.run import Plan

    if values["orientations"]:
        values["orientations"] = int(values["orientations"])
    digits = values["data"] == "digits"
    if values["flip"] is None:
        values["flip"] = not digits
    if values["mine_every"] is None:
        values["mine_every"] = max(1, int(values["epochs"] or 0) // 4) if values["method"] == "ci-bcnn" else 0
    if values["crop"] is None:
        values["crop"] = 0 if digits else 4
    fields = {each.name for each in dataclasses.fields(Options)}
    options = Options(**{name: value for name, value in values.items() if name in fields})  # type: ignore[arg-type]
    network = {name: values[name] for name in NETWORK if values[name] is not None}
    named = {name: values[name] for name in ("method", "model", "size", "held_out", "distill", "warm_start")}
    return Plan(source=str(values["data"]), options=options, network=network, **named)  # type: ignore[arg-type]


def _tell(epoch: Epoch) -> None:
    click.echo(
        f"epoch {epoch.epoch}  loss {epoch.loss:.3f}  accuracy {epoch.accuracy:.1%}  test loss {epoch.test_loss:.3f}  "
        f"test accuracy {epoch.test_accuracy:.2%}  flips {epoch.flips:.2%}  {epoch.seconds:.0f} s",
        err=True,
    )


def _tell_warm_start(started: WarmStart) -> None:
    if not started.taken:
        raise OptionError("--warm-start: nothing there has a name and shape of this network; give another run")
    click.echo(f"warm start: {len(started.taken)} tensors taken", err=True)
    for what, names in (("not there, so new", started.kept), ("of no use here", started.left)):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            click.echo(f"warm start: {what}: {', '.join(sorted(names)[:SHOWN])}{more}", err=True)
