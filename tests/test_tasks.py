"""Tasks and schedules of whole networks: listed, chosen for, and the bits stay."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bnncc
from bnncc.kernels.schedule import Schedule
from bnncc.kernels.xnor_schedules import XnorSchedule
from bnncc.options import Options
from bnncc.runtime.errors import OptionError
from bnncc.selection.task import Task
from bnncc.targets.target import Target
from tests import networks
from tests.arm.emulate import needs_qemu, run
from tests.kernelrun import each_target

Exported = Callable[[str], Path]
NETWORKS = ("bireal_resnet20", "quicknet")


def drawn(tasks: dict[Task, int], seed: int) -> dict[str, Schedule]:
    """Any legal schedule for every task."""
    random = np.random.default_rng(seed)
    chosen = {}
    for task in tasks:
        space = list(task.kernel.schedules(task.target))
        chosen[task.key] = space[random.integers(len(space))]
    return chosen


def test_tasks_are_listed_with_their_count(exported: Exported) -> None:
    tasks = bnncc.tasks(exported("bireal_resnet20"), "x86-avx2")
    artifact = bnncc.compile(exported("bireal_resnet20"), "x86-avx2")
    kinds = [layer.kind for layer in artifact.manifest.layers]
    for kind in set(kinds):
        assert sum(count for task, count in tasks.items() if task.kind == kind) == kinds.count(kind)
    assert max(tasks.values()) > 1  # identical layers are one task


def test_keys_stand_for_what_is_computed_not_for_names(exported: Exported) -> None:
    path = exported("digits_net")
    keys = [task.key for task in bnncc.tasks(path, "rpi3")]
    assert len(set(keys)) == len(keys)
    assert keys == [task.key for task in bnncc.tasks(path, "rpi-zero2w")]
    assert not set(keys) & {task.key for task in bnncc.tasks(path, "rpi4")}


@each_target
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_schedules_change_no_bit(name: str, target: Target, exported: Exported) -> None:
    path = exported(name)
    schedules = drawn(bnncc.tasks(path, target.name), seed=1)
    inputs = {tensor.name: _normal(tensor.shape) for tensor in bnncc.compile(path, target.name).manifest.inputs}
    before = bnncc.load(bnncc.compile(path, target.name)).run(inputs)
    after = bnncc.load(bnncc.compile(path, target.name, schedules=schedules)).run(inputs)
    for key, array in before.items():
        assert np.array_equal(array, after[key]), key


@pytest.mark.slow
@pytest.mark.parametrize("target", ["arm", "rpi3", "rpi5", "armv7"])
@pytest.mark.parametrize("name", NETWORKS)
def test_schedules_change_no_bit_on_arm(name: str, target: str, exported: Exported, tmp_path: Path) -> None:
    needs_qemu(target)
    path = exported(name)
    x = list(networks.random_input(networks.exposed(path), seed=3).values())[:1]
    schedules = drawn(bnncc.tasks(path, target), seed=2)
    folders = [tmp_path / "default", tmp_path / "drawn"]
    for folder in folders:
        folder.mkdir()
    before = run(path, folders[0], *x, target=target)
    after = run(path, folders[1], *x, target=target, options=Options(schedules=schedules))
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old, new)


def test_illegal_and_unknown_schedules_are_refused(exported: Exported) -> None:
    path = exported("digits_net")
    tasks = bnncc.tasks(path, "x86-avx2")
    task = next(task for task in tasks if task.kind == "xnor_conv2d")
    default = task.kernel.default(task.target)
    assert isinstance(default, XnorSchedule)
    odd = dataclasses.replace(default, pixels=99)
    with pytest.raises(OptionError, match=r"^schedules: task [0-9a-f]{16}\.\.: xnor_conv2d: .*pixels is 99, allowed: "):
        bnncc.compile(path, "x86-avx2", schedules={task.key: odd})
    with pytest.raises(OptionError, match="no task of this network has the key"):
        bnncc.compile(path, "x86-avx2", schedules={"0" * 64: default})


def _normal(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)
