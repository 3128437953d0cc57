"""The training loop; devices, precision and processes are Lightning Fabric's.

All that a step depends on is the tensors of a checkpoint and its own number: the order of samples, crops and flips come
from (seed, epoch, sample), the learning rate from the step, what a layer draws at random from (seed, step, process). So
training that was cut off anywhere goes on, on CPU and with the same number of threads, to the same bits.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from bnncc import __version__
from bnncc.nn.group_net import set_tanh
from bnncc.nn.mining import MiningOptions, MiningResult, mine
from bnncc.progress import Progress, silent
from bnncc.runtime import atomic
from bnncc.runtime.errors import InputError, OptionError
from bnncc.train import checkpoint, history, parameters, stop
from bnncc.train.augment import augment, order
from bnncc.train.data import Data
from bnncc.train.evaluate import totals
from bnncc.train.history import Epoch, History
from bnncc.train.objective import Objective
from bnncc.train.options import Options
from bnncc.train.schedule import factor

SECONDS_BETWEEN = 0.2  # of what progress is told: reading the loss makes an accelerator wait
_GO_ON, _WRITE, _STOP = 0, 1, 2


def fit(
    network: nn.Module,
    data: Data,
    options: Options,
    out: str | os.PathLike[str] | None = None,
    *,
    teacher: nn.Module | None = None,
    about: Mapping[str, object] | None = None,
    progress: Progress = silent,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> History:
    """Train `network` in place, on CPU and in eval mode at the end, and leave log and checkpoint in the folder `out`.

    Where `out` holds a checkpoint, training goes on from it, with the same options alone. It is written after each
    epoch, every `checkpoint_seconds`, and on Ctrl-C and SIGTERM. Initial weights are the caller's: seed torch before
    building the network, in every process alike.

    teacher   network with the same inputs and outputs, whose soft outputs are learned
    about     JSON values that say where network and data come from: logged, and as binding as the options
    progress  told (loss and accuracy of the epoch so far, steps done, steps in all)
    on_epoch  called after each epoch, in the first process

    With several processes, Fabric starts the others by the command line of this one, so that each comes here in its
    turn; those that torchrun starts it finds. Processes take equal shares of each batch, and BatchNorm sees one share;
    images that are left over at the end of an epoch, fewer than processes, are left out.

    Raises:
        InputError: a checkpoint that is damaged, or of another training; fewer images than a step takes.
        OptionError: a device that is not there, `out` cannot be written, or a loss that is not finite.
        stop.Stopped: after Ctrl-C or SIGTERM.
    """
    folder = Path(out) if out is not None else None
    fabric = _fabric(options)
    fabric.launch()
    if folder and fabric.is_global_zero:
        atomic.make_folder(folder)
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), stop.requests() as wanted:
        try:
            return _Training(fabric, network, data, options, folder, teacher, about or {}).run(
                wanted, progress, on_epoch
            )
        finally:
            torch.set_num_threads(threads)


def _fabric(options: Options) -> Fabric:
    several = options.processes * options.nodes > 1
    try:
        return Fabric(
            accelerator=options.device,
            devices=options.processes,
            num_nodes=options.nodes,
            strategy="ddp" if several else "auto",
            precision=options.precision,
        )
    except Exception as error:  # Fabric's own, and ValueError
        message = " ".join(str(error).split())[:200]
        raise OptionError(f"training: device {options.device!r} cannot be had ({message}); give another") from error


class _Training:
    """State between steps."""

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        data: Data,
        options: Options,
        folder: Path | None,
        teacher: nn.Module | None,
        about: Mapping[str, object],
    ) -> None:
        self.fabric, self.network, self.data, self.options = fabric, network, data, options
        self.path = folder / checkpoint.NAME if folder else None
        self.log = folder / history.LOG if folder else None
        self.steps = _steps(len(data.train), options.batch, fabric.world_size)
        self.latent = parameters.latent(network)
        objective = Objective(network, options, len(data.classes), teacher)
        self.centers = objective.centers or nn.Module()
        self.optimizer = parameters.optimizer(objective, options)
        self.objective, self.stepper = fabric.setup(objective, self.optimizer)
        self.images, self.labels = (t.to(fabric.device) for t in (data.train.images, data.train.labels))
        self.epoch = self.step = 0
        self.seconds = 0.0
        self.sums = self._no_sums()
        self.signs = parameters.signs(self.latent)
        self.epochs: list[Epoch] = []
        self.about: dict[str, object] = {
            **about,
            "options": dataclasses.asdict(options),
            "images": fabric.broadcast(data.fingerprint()),
        }
        saved = checkpoint.read(self.path) if self.path and self.path.exists() else None
        self.threads = options.threads or torch.get_num_threads()
        if saved:
            self._restore(saved)
        torch.set_num_threads(self.threads)
        fabric.barrier()  # or the first process could write what the others have yet to look for

    def run(self, wanted: threading.Event, progress: Progress, on_epoch: Callable[[Epoch], None] | None) -> History:
        if self.epoch == 0 and self.step == 0:
            self._write()
        while self.epoch < self.options.epochs:
            self._run_epoch(wanted, progress)
            if on_epoch and self.fabric.is_global_zero:
                on_epoch(self.epochs[-1])
        self.network.to("cpu").eval()
        return self._history()

    def _run_epoch(self, wanted: threading.Event, progress: Progress) -> None:
        self.network.train()
        self._begin_stage()
        indices = order(len(self.data.train), self.options.seed, self.epoch)
        written = told = time.monotonic()
        begun = written - self.seconds
        rate = 0.0
        while self.step < self.steps:
            rate = self._run_step(indices)
            self.step += 1
            now = time.monotonic()
            self.seconds = now - begun
            if self.fabric.is_global_zero and (now - told >= SECONDS_BETWEEN or self.step == self.steps):
                told = now
                progress(self._text(), self.epoch * self.steps + self.step, self.options.epochs * self.steps)
            if self.step == self.steps:
                break
            decided = self._agreed(
                _STOP if wanted.is_set() else _WRITE if now - written >= self.options.checkpoint_seconds else _GO_ON
            )
            if decided != _GO_ON:
                self._write()
                written = time.monotonic()
            if decided == _STOP:
                self._stop()
        self._end_epoch(begun, rate)
        if self._agreed(_STOP if wanted.is_set() else _GO_ON) == _STOP and self.epoch < self.options.epochs:
            self._stop()

    def _run_step(self, indices: Tensor) -> float:
        """The learning rate of the step."""
        options, rank, world = self.options, self.fabric.global_rank, self.fabric.world_size
        chosen = indices[self.step * options.batch : (self.step + 1) * options.batch]
        chosen = chosen[: len(chosen) // world * world][rank::world]
        done = self.epoch * self.steps + self.step
        first, last = (
            (0, options.tanh_epochs) if self.epoch < options.tanh_epochs else (options.tanh_epochs, options.epochs)
        )
        place, steps = done - first * self.steps, (last - first) * self.steps
        rate = options.learning_rate * factor(options.schedule, place, steps, round(options.warm_up * self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed((options.seed * options.epochs * self.steps + done) * world + rank)
        there = chosen.to(self.fabric.device)
        images = augment(self.images[there], chosen, options.seed, self.epoch, crop=options.crop, flip=options.flip)
        self.stepper.zero_grad()
        loss, right = self.objective(self.data.normalised(images), self.labels[there])
        self.fabric.backward(loss)
        self.stepper.step()
        if options.clip:
            parameters.clip(list(self.latent.values()), options.clip)
        self.sums += torch.stack([loss.detach() * len(chosen), right, right.new_tensor(len(chosen))])
        return rate

    def _begin_stage(self) -> None:
        stage = self.options.tanh_epochs
        if stage:
            set_tanh(self.network, self.epoch < stage)
        if stage and self.epoch == stage and self.step == 0:
            self.optimizer.state.clear()

    def _end_epoch(self, begun: float, rate: float) -> None:
        if self.fabric.world_size > 1:  # BatchNorm's statistics: everybody's are the first one's
            for buffer in self.network.buffers():
                torch.distributed.broadcast(buffer, 0)
        with self.fabric.autocast():
            tested = totals(
                self.network, self.data, self.data.test, first=self.fabric.global_rank, stride=self.fabric.world_size
            )
        trained, tested = self._of_all(self.sums), self._of_all(tested)
        mined = self._mined()
        signs = parameters.signs(self.latent)
        flips = parameters.flips(self.signs, signs)
        self.seconds = time.monotonic() - begun
        loss, accuracy, _ = (trained / trained[2]).tolist()
        test_loss, test_accuracy, _ = (tested / tested[2]).tolist()
        if not torch.isfinite(trained).all() or not torch.isfinite(tested).all():
            raise OptionError(
                f"training: in epoch {self.epoch + 1} the loss is {loss}, and {test_loss} on test images; allowed are "
                f"finite numbers; lower learning_rate, now {self.options.learning_rate}"
            )
        self.epoch, self.step = self.epoch + 1, 0
        self.epochs.append(
            Epoch(
                seed=self.options.seed,
                epoch=self.epoch,
                steps=self.steps,
                seconds=round(self.seconds, 3),
                device=_device_name(self.fabric.device),
                processes=self.fabric.world_size,
                learning_rate=rate,
                loss=loss,
                accuracy=accuracy,
                test_loss=test_loss,
                test_accuracy=test_accuracy,
                flips=sum(flips.values()) / max(1, sum(s.numel() for s in signs.values())),
                layer_flips=flips,
                mined=[dataclasses.asdict(result) for result in mined],
            )
        )
        self.signs, self.sums = signs, self._no_sums()
        self._write()
        if self.log and self.fabric.is_global_zero:
            self._history().write(self.log)

    def _mined(self) -> list[MiningResult]:
        """After the epoch that ends. Every process finds the same: weights, statistics and batches are."""
        options, done = self.options, self.epoch + 1
        if not options.mine_every or done % options.mine_every or done == options.epochs:
            return []
        drawn = order(len(self.data.train), options.seed, self.epoch)[: options.batch * options.mine_batches]
        batches = []
        for first in range(0, len(drawn), options.batch):
            there = drawn[first : first + options.batch].to(self.images.device)
            batches.append((self.data.normalised(self.images[there]), self.labels[there]))
        generator = torch.Generator().manual_seed(options.seed * options.epochs + self.epoch)
        self.network.eval()
        return mine(self.network, batches, MiningOptions(by=options.mine_by, steps=options.mine_steps), generator)

    def _history(self) -> History:
        about = {
            **self.about,
            "bnncc": __version__,
            "torch": torch.__version__,
            "threads": self.threads,
            "parameters": sum(p.numel() for p in self.network.parameters()),
            "latent": sum(w.numel() for w in self.latent.values()),
            "train": len(self.data.train),
            "test": len(self.data.test),
        }
        return History(about, list(self.epochs), self.fabric.global_rank)

    def _write(self) -> None:
        sums = self._of_all(self.sums)
        if not self.path or not self.fabric.is_global_zero:
            return
        state = checkpoint.State(
            about=json.dumps(self.about),
            history=json.dumps([dataclasses.asdict(epoch) for epoch in self.epochs]),
            epoch=self.epoch,
            step=self.step,
            seconds=self.seconds,
            threads=self.threads,
            sums=sums.cpu(),
            network=self.network.state_dict(),
            centers=self.centers.state_dict(),
            optimizer=self.optimizer.state_dict(),
            signs=self.signs,
        )
        checkpoint.write(self.path, state)

    def _restore(self, saved: checkpoint.State) -> None:
        try:
            _check_same(str(self.path), json.loads(saved.about), json.loads(json.dumps(self.about)))
            self.network.load_state_dict(saved.network)
            self.centers.load_state_dict(saved.centers)
            self.optimizer.load_state_dict(saved.optimizer)
            self.epochs = history.epochs(json.loads(saved.history))
            if {n: s.shape for n, s in saved.signs.items()} != {n: s.shape for n, s in self.signs.items()}:
                raise ValueError("other latent weights")
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            message = " ".join(str(error).split())[:200]
            raise InputError(f"{self.path}: is of another network ({message}); give another folder") from error
        self.epoch, self.step, self.seconds, self.signs = saved.epoch, saved.step, saved.seconds, saved.signs
        self.threads = self.options.threads or saved.threads
        if self.fabric.is_global_zero:  # they are of all processes together
            self.sums = saved.sums.to(self.sums)

    def _stop(self) -> None:
        if not self.fabric.is_global_zero:
            raise SystemExit(0)  # or Fabric would kill the first process, too
        how = "the same command goes on from there" if self.path else "nothing was written, as no folder was given"
        raise stop.Stopped(
            f"stopped in epoch {self.epoch + 1} of {self.options.epochs} after {self.step} of {self.steps} steps; {how}"
        )

    def _text(self) -> str:
        loss, right, samples = self.sums.tolist()
        text = f"epoch {self.epoch + 1}/{self.options.epochs} loss {loss / samples:.3f} right {right / samples:.1%}"
        return f"{text} test {self.epochs[-1].test_accuracy:.1%}" if self.epochs else text

    def _agreed(self, mine: int) -> int:
        """The largest of all processes' numbers."""
        if self.fabric.world_size == 1:
            return mine
        agreed = self.fabric.all_reduce(torch.tensor(mine, device=self.fabric.device), reduce_op="max")
        assert isinstance(agreed, Tensor)
        return int(agreed)

    def _of_all(self, sums: Tensor) -> Tensor:
        """Summed over all processes, in a new tensor."""
        summed = self.fabric.all_reduce(sums.clone().to(self.fabric.device), reduce_op="sum")
        assert isinstance(summed, Tensor)
        return summed

    def _no_sums(self) -> Tensor:
        kind = torch.float32 if self.fabric.device.type == "mps" else torch.float64
        return torch.zeros(3, dtype=kind, device=self.fabric.device)


def _steps(samples: int, batch: int, world: int) -> int:
    """In an epoch: whole batches, and what is left if every process gets two of it, as BatchNorm needs."""
    steps = samples // batch + (samples % batch // world >= 2)
    if not steps:
        raise InputError(f"training: found {samples} images, allowed are {2 * world} and more: two for each process")
    return steps


def _check_same(where: str, saved: object, given: dict[str, object]) -> None:
    """What both say of themselves, `checkpoint_seconds` aside."""
    before, now = ({**_fields(each), **_fields(_fields(each).get("options"))} for each in (saved, given))
    for name in sorted((before.keys() | now.keys()) - {"options", "checkpoint_seconds"}):
        if before.get(name) != now.get(name):
            raise InputError(
                f"{where}: was begun with {name} {before.get(name)!r}, found {now.get(name)!r}; give the same to go "
                f"on, or another folder to train anew"
            )


def _fields(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
