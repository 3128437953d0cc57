"""Every recipe of CONTRIBUTING does what it says: its edits are made in a copy of the tree, its commands are run there.

A fence names its file after the language. ``diff`` without line numbers: lines without sign and with minus must stand
together in the file exactly once; those without sign and with plus take their place.
"""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(`{3,})(\w+)(?: (\S+))?\n(.*?)^\1\n", re.MULTILINE | re.DOTALL)
_LEFT_OUT = (
    ".venv",
    ".git",
    "_build",
    "api",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    "demo",
    "bench-results",
    "*.egg-info",
)


@dataclass(frozen=True)
class Block:
    """One fence: its language, the file it is about ("" for commands), and its text."""

    language: str
    file: str
    text: str


def recipes() -> dict[str, list[Block]]:
    """Title -> the blocks of each recipe."""
    sections = re.split(r"^## (?=Add )|^## ", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    named = (section.partition("\n") for section in sections)
    return {
        title: [Block(language, file or "", text) for _, language, file, text in _FENCE.findall(text)]
        for title, _, text in named
        if title.startswith("Add ")
    }


RECIPES = recipes()
# Files that a recipe touches, its tests apart.
MOST_FILES = {
    "Add an elementwise operation": 1,
    "Add a pass": 2,
    "Add a target": 2,
    "Add an operator": 5,
    "Add a schedule": 1,
}


def edited(text: str, diff: str) -> str:
    """The text after a diff without line numbers."""
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(old) == 1, f"stands {text.count(old)} times in the file:\n{old}"
    return text.replace(old, new)


def test_every_recipe_is_known() -> None:
    assert RECIPES.keys() == MOST_FILES.keys()


@pytest.mark.parametrize("title", MOST_FILES)
def test_files_touched(title: str) -> None:
    files = {block.file for block in RECIPES[title] if block.file}
    tests = {file for file in files if file.startswith("tests/")}
    assert len(tests) == 1
    assert len(files - tests) <= MOST_FILES[title], files


@pytest.mark.slow
@pytest.mark.parametrize("title", MOST_FILES)
def test_recipe(title: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    for block in RECIPES[title]:
        if block.language == "sh":
            for command in block.text.splitlines():
                run(command, tree)
        elif block.language == "diff":
            (tree / block.file).write_text(edited((tree / block.file).read_text(), block.text))
        else:
            assert not (tree / block.file).exists(), f"{block.file} is there already"
            (tree / block.file).write_text(block.text)


def run(command: str, folder: Path) -> None:
    """Run tests that the page names. Where none can run here, for want of qemu or of CPU features, this one is skipped
    too."""
    program, *arguments = shlex.split(command)
    assert program == "python"
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    if not re.search(r"\d+ passed", done.stdout):
        pytest.skip(f"{command}: {done.stdout.strip().splitlines()[-2]}")
