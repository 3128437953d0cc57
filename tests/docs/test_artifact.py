"""The page of the artifact: every field of the manifest and every entry point is on it, and nothing else."""

import dataclasses
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from bnncc.runtime import abi, artifact

PAGE = (Path(__file__).parents[2] / "docs" / "artifact.md").read_text()


def recorded(kind: Any) -> list[type]:
    """The dataclasses of the manifest: `kind`, and those that its fields hold."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind).values()
        return [typing.cast(type, kind), *(found for hint in hints for found in recorded(hint))]
    return [found for argument in typing.get_args(kind) for found in recorded(argument)]


def written(hint: Any) -> str:
    """A type as the page writes it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return " or ".join("null" if argument is types.NoneType else written(argument) for argument in arguments)
    if origin is tuple:
        return f"list of {written(arguments[0])}"
    return "object" if origin is dict else str(hint.__name__)


RECORDS = list(dict.fromkeys(recorded(artifact.Manifest)))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_of_the_manifest(record: type) -> None:
    found = re.search(rf"(?m)^### {record.__name__}$(.*?)(?=^##|\Z)", PAGE, re.DOTALL)
    assert found, f"no section {record.__name__}"
    rows = re.findall(r"(?m)^\| `(\w+)` \| ([^|]+?) \| [^|]+ \|$", found[1])
    assert rows == [(name, written(hint)) for name, hint in typing.get_type_hints(record).items()]


def test_every_section_is_a_record() -> None:
    assert re.findall(r"(?m)^### (\w+)$", PAGE) == [record.__name__ for record in RECORDS]


def test_every_entry_point() -> None:
    assert set(re.findall(r"`int32 (bnncc_\w+)\(", PAGE)) == set(abi.exports(peaks=True))


@pytest.mark.parametrize(
    ("part", "limit"), [(artifact.MANIFEST, artifact.MANIFEST_LIMIT), (artifact.LIBRARY, artifact.LIBRARY_LIMIT)]
)
def test_parts_and_their_sizes(part: str, limit: int) -> None:
    (size, unit) = re.findall(rf"(?m)^\| `{re.escape(part)}` \| [^|]+ \| (\d+) (MiB|GiB) \|$", PAGE)[0]
    assert int(size) << {"MiB": 20, "GiB": 30}[unit] == limit
