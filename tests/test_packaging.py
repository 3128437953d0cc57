"""The packaging map, the links and the documentation agree with the tree."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bnncc.cli import COMMANDS
from bnncc.cli.doctor import PINS
from tests.wheel.test_wheel import PYTHONS

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed() -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "bnncc").rglob("*.py")
        if "passes" not in path.parts and "targets" not in path.parts[len(ROOT.parts) + 1 : -1]
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found | {"bnncc.passes", "bnncc.targets"}


@pytest.mark.parametrize("name", ["passes", "targets"])
def test_links(name: str) -> None:
    assert os.readlink(ROOT / "bnncc" / name) == f"../{name}"
    assert PYPROJECT["tool"]["setuptools"]["package-dir"][f"bnncc.{name}"] == name


def test_pins_are_those_of_the_packaging() -> None:
    required = dict(
        line.split("==") for line in PYPROJECT["project"]["optional-dependencies"]["compile"] if "==" in line
    )
    assert required == PINS
    constraints = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    assert {name: constraints[name] for name in PINS} == PINS


def test_constraints_name_no_local_builds() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", line)] == []


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [name for name in COMMANDS if f"\nbnncc {name}" not in readme] == []


def test_every_command_is_in_the_documentation() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert [name for name in COMMANDS if f"\nbnncc {name}" not in page] == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_package_is_in(page: str) -> None:
    text = (ROOT / page).read_text()
    folders = {name.removeprefix("bnncc.").replace(".", "/") for name in PYPROJECT["tool"]["setuptools"]["packages"]}
    assert {folder for folder in folders if not re.search(rf"\b{folder}\b", text)} == set()


def test_links_lead_to_files() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
        assert [link for link in links if not (page.parent / link).exists()] == [], page.name


def test_readme_and_ci_run_the_same_commands() -> None:
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    assert "\nmake test " in readme
    assert ci.endswith("\nmake test\nmake lint\nmake docs\n")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_running_asks_for_less_than_compiling() -> None:
    assert PYPROJECT["project"]["dependencies"] == ["numpy>=1.24"]
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert [name for name in ("compile", "train") if "numpy>=2.0" not in extras[name]] == []


def test_the_workflow_has_every_python() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    matrix = re.findall(r"python: \[(.*)\]", workflow)
    assert matrix == [", ".join(f'"{version}"' for version in PYTHONS)]


@pytest.mark.slow
def test_every_test_file_is_collected() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    collected = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    assert collected == there


def test_no_file_is_too_long() -> None:
    files = [path for folder in ("bnncc", "passes", "targets", "tests") for path in (ROOT / folder).rglob("*.py")]
    assert [path.name for path in files if len(path.read_text().splitlines()) > 400] == []


@pytest.mark.parametrize("arguments", [["-c", "import bnncc"], ["-m", "bnncc", "--help"], ["-m", "bnncc", "targets"]])
def test_starting_loads_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert loaded & {"torch", "tvm", "tvm_ffi", "onnx", "onnxruntime", "onnxscript", "sklearn", "ziglang"} == set()
    if arguments[-1] == "--help":
        assert loaded & {"numpy", "rich"} == set()
