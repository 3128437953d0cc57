"""How commands show results: tables for people (plain text when piped), JSON for programs."""

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from bnncc.runtime import atomic
from bnncc.runtime.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

    from bnncc.runtime.model import Model

PIPED_WIDTH = 200

F = TypeVar("F", bound=Callable[..., object])


def json_option(command: F) -> F:
    """`--json FILE`, handed to the command as `json_file`."""
    text = "Write the result as JSON; - prints it instead of the table."
    return click.option("json_file", "--json", metavar="FILE", help=text)(command)


def show(report: object, json_file: str | None, tables: Callable[[], None]) -> None:
    """Print the tables, and write `report` (JSON values) to `json_file`; `-` prints the JSON and no tables."""
    text = json.dumps(report, indent=2, allow_nan=False) if json_file else ""
    if json_file == "-":
        click.echo(text)
        return
    tables()
    if json_file:
        atomic.write(json_file, (text + "\n").encode())


def console(*, stderr: bool = False) -> "Console":
    """A rich console: as wide as the terminal, or of a fixed width and without colour where there is none."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPED_WIDTH, highlight=False, soft_wrap=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
    """Print one table; the columns named in `right` are aligned to the right. Cells are plain text, not markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    console().print(made)


def amount(number: float) -> str:
    """A count with thousands separated by k, M, G: 1536 -> "1.54 k"."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:g}"


def size(path: Path) -> str:
    """Size of a file for people, in bytes."""
    return f"{amount(path.stat().st_size)}B"


def parse_shapes(values: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`--shape NAME=1,3,224,224`, given once per input, as a dict."""
    shapes = {}
    for value in values:
        name, _, numbers = value.rpartition("=")
        try:
            shape = tuple(int(number) for number in numbers.split(","))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            raise click.BadParameter(f"{value!r}: allowed is NAME=1,3,224,224", param_hint="--shape")
        shapes[name] = shape
    return shapes


shape_option = click.option(
    "--shape", multiple=True, metavar="NAME=1,3,224,224", help="Shape of an input; again for each input."
)


threads_option = click.option(
    "--threads", type=int, default=1, show_default=True, metavar="N", help="Threads that share one inference, 1 to 64."
)


def load(artifact: str, threads: int) -> "Model":
    """A loaded artifact; what it has to say about threads is a line on standard error."""
    from bnncc.runtime import model
    from bnncc.runtime.openmp import ThreadsWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ThreadsWarning)
        loaded = model.load(artifact, threads)
    for warning in caught:
        click.echo(f"notice: {warning.message}", err=True)
    return loaded


def check_output(output: Path, *sources: str) -> None:
    """Before the work: is there a folder for the result, and is the result none of what it is made from?"""
    if not output.parent.is_dir():
        raise OptionError(f"{output}: cannot be written: there is no folder {output.parent}; make it or name another")
    if output.resolve() in {Path(source).resolve() for source in sources}:
        raise OptionError(f"{output}: is the input; name another file for the output")
