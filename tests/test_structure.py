"""What may import what: downward only, and what a board needs imports nothing but numpy and the standard library."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bnncc"

# Folders and files of bnncc/ from the bottom to the top; each may import what stands in the rows before its own, and
# itself. `bnncc/__init__.py`, the face that users see, is above all; what is below takes nothing of it but __version__.
ROWS = (
    ("runtime", "progress", "bitpack"),
    ("targets", "ops", "tvm_lock"),
    ("tir", "nn"),
    ("kernels", "models"),
    ("options",),
    ("frontend", "passes", "selection"),
    ("codegen",),
    ("calibrate",),
    ("compiler",),
    ("cache", "bench"),
    ("train",),
    ("verify",),
    ("cli",),
    ("__init__", "__main__"),
)
ROW = {name: number for number, row in enumerate(ROWS) for name in row}
FILES = sorted({*PACKAGE.rglob("*.py"), *PACKAGE.glob("*/*.py")})  # rglob does not follow the links


def place(path: Path) -> str:
    """The name in ROWS of a file."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Every module that the file imports, in functions and for type checking too, as far as names tell; for
    `from bnncc import x` that is bnncc.x."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            if node.module == "bnncc":
                yield from (f"bnncc.{alias.name}" for alias in node.names)
            else:
                yield node.module


def imported_places(path: Path) -> set[str]:
    """Names in ROWS that the file imports."""
    parts = [name.split(".") for name in imports(path)]
    ours = {(names[1] if len(names) > 1 else "__init__") for names in parts if names[0] == "bnncc"}
    return ours - {"__version__"}


def test_every_file_has_a_place() -> None:
    assert {place(path) for path in FILES} == set(ROW)


@pytest.mark.parametrize("name", sorted(ROW))
def test_imports_flow_downward(name: str) -> None:
    upward = {
        f"{path.relative_to(PACKAGE)} imports {other}"
        for path in FILES
        if place(path) == name
        for other in imported_places(path)
        if other != name and ROW[other] >= ROW[name]
    }
    assert upward == set()


def test_the_room_needs_numpy_and_the_standard_library_alone() -> None:
    files = [path for path in FILES if place(path) == "runtime"]
    assert len(files) > 10
    for path in files:
        assert imported_places(path) <= {"runtime"}, path
        others = {name.partition(".")[0] for name in imports(path)} - {"bnncc", "numpy"}
        assert others <= sys.stdlib_module_names, path


def test_the_room_asks_for_nothing_that_numpy_1_24_lacks() -> None:
    """Names of numpy 2 that 1.24 does not have and that one could reach for."""
    newer = {
        "acos", "asin", "astype", "bitwise_count", "bitwise_invert", "bool", "concat", "cumulative_sum", "isdtype",
        "long", "matrix_transpose", "permute_dims", "pow", "strings", "trapezoid", "unique_counts", "unique_values",
        "unstack", "vecdot",
    }  # fmt: skip
    for path in (path for path in FILES if place(path) == "runtime"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "np":
                assert node.attr not in newer, f"{path}:{node.lineno}: np.{node.attr}"
