"""The steps of the Action, as plain shell: they pass on the stored networks, and fail on what they are to catch."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bnncc import targets
from bnncc.cli import main
from bnncc.verify import instructions
from tests.gate.networks import HERE, NETWORKS, TARGETS

ROOT = HERE.parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
GATES = {"min-agreement": "1", "max-accuracy-drop": "0", "max-bytes": "+2%", "max-instructions": "+2%"}


def countable(target: str, gates: dict[str, str]) -> dict[str, str]:
    """The gates that can be checked here; skips where the code cannot run at all."""
    reason = instructions.missing(targets.find(target))
    if reason and target == "arm":
        pytest.skip(reason)
    return {name: limit for name, limit in gates.items() if not reason or name != "max-instructions"}


def act(folder: Path, given: dict[str, str], fault: str = "") -> subprocess.CompletedProcess[str]:
    """The Action in `folder`, as a runner does it: the first step that fails ends it, but for those that run always.
    fault: Python that breaks bnncc before it starts. Its exit code is that of the failing step."""
    inputs = {name: str(entry.get("default", "")) for name, entry in ACTION["inputs"].items()}
    inputs |= {"package": "", "apt": "false", "report": str(folder / "report"), **given}
    values = {f"inputs.{name}": value for name, value in inputs.items()}
    values |= {"github.action_path": str(ROOT), "github.event.pull_request.number": ""}
    command = folder / "bin" / "bnncc"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\n{fault}\nfrom bnncc.cli import main\nmain()\n")
    command.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
    }
    code, said = 0, ""
    for step in ACTION["runs"]["steps"]:
        assert step["shell"] == "bash"
        if code and step.get("if") != "always()":
            continue
        own = {name: re.sub(r"\$\{\{ (\S+) \}\}", lambda m: values[m[1]], text) for name, text in step["env"].items()}
        bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(bash, cwd=folder, env=environment | own, capture_output=True, text=True, check=False)
        code, said = code or done.returncode, said + done.stderr
    return subprocess.CompletedProcess("action", code, stderr=said)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("network", NETWORKS)
def test_stored_networks_pass(network: str, target: str, tmp_path: Path) -> None:
    given = {"model": str(HERE / f"{network}.onnx"), "data": str(HERE / f"{network}.npz"), "target": target}
    done = act(tmp_path, given | countable(target, GATES) | {"verify-options": "--no-passes"})
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "summary.md").read_text().startswith("### bnncc verify")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        f"{target}.{end}" for end in ("bnn", "xml", "md", "json")
    }


WRONG_THRESHOLDS = """
from bnncc.passes import fold_thresholds as module
original = module.intervals
def intervals(*given):
    found = original(*given)
    return found and (found[0] + 9, found[1])
module.intervals = intervals
"""
# Tiles larger than the registers hold.
SLOWER_KERNEL = """
from bnncc.kernels.xnor_conv2d import XnorConv2d
XnorConv2d.default = lambda self, target: max(
    self.schedules(target), key=lambda each: (each.pixels, each.vectors, each.rows, each.together)
)
"""


@pytest.mark.parametrize(
    ("gate", "fault", "options"),
    [
        ("max-accuracy-drop", WRONG_THRESHOLDS, ""),
        ("max-instructions", SLOWER_KERNEL, ""),
        ("max-bytes", "", "--peaks"),
    ],
    ids=["accuracy drop", "slower kernel", "bigger file"],
)
def test_what_got_worse_fails(gate: str, fault: str, options: str, tmp_path: Path) -> None:
    gates = countable("x86-avx2", {gate: GATES[gate]})
    if not gates:
        pytest.skip("instructions cannot be counted here")
    given = {"model": str(HERE / "digits.onnx"), "data": str(HERE / "digits.npz"), **gates}
    done = act(tmp_path, given | {"compile-options": options, "verify-options": "--layer-runs 0"}, fault)
    assert done.returncode == 3, done.stderr
    assert f"--{gate}: found" in done.stderr
    assert "**failed**" in (tmp_path / "summary.md").read_text()


def commands(page: str) -> list[str]:
    """The bnncc commands of a page's shell recipes, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition(" #")[0] for line in lines if line.startswith("bnncc ")]


def test_the_recipe_has_commands_that_exist() -> None:
    context = main.make_context("bnncc", ["verify"])
    found = [line.split() for line in commands("ci.md")]
    assert {name for _, name, *_ in found} == {"compile", "verify"}
    for _, name, *arguments in found:
        command: Any = main.get_command(context, name)
        command.make_context(name, [argument.strip("'\"") for argument in arguments])


def test_the_page_names_every_input() -> None:
    page = (ROOT / "docs" / "ci.md").read_text()
    assert [name for name in ACTION["inputs"] if f"`{name}`" not in page] == []
