"""The page of operators: it has every operator, and its examples are what the operators mean."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import bnncc.ops

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operators.md").read_text()
SECTIONS = {
    match[1]: section
    for section in re.split(r"(?m)^#+ ", PAGE)
    if (match := re.search(r"```\{specification\} (\w+)", section))
}


def test_every_operator_is_on_the_page() -> None:
    names = [path.stem for path in Path(bnncc.ops.__file__).parent.glob("*.py") if path.stem != "__init__"]
    meant = {name for name in names if hasattr(importlib.import_module(f"bnncc.ops.{name}"), "meaning")}
    assert SECTIONS.keys() == meant


@pytest.mark.parametrize("name", SECTIONS)
def test_every_operator_has_an_example(name: str) -> None:
    assert f">>> from bnncc.ops import {name}\n" in SECTIONS[name]
    assert f"{name}.meaning(" in SECTIONS[name]


def test_examples() -> None:
    text = PAGE.replace("\n```\n", "\n\n")  # what an example prints ends at a blank line
    test = doctest.DocTestParser().get_doctest(text, {}, "operators.md", "docs/operators.md", 0)
    said: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.failed == 0, "".join(said)
    assert result.attempted > 3 * len(SECTIONS)
