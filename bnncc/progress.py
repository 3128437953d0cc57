"""How long work tells what it is doing."""

import contextlib
import time
from collections.abc import Callable, Iterator

Progress = Callable[[str, int, int], None]  # (stage, done, total)


SECONDS_BETWEEN = 0.1


def silent(stage: str, done: int, total: int) -> None:
    """Tells nobody."""


@contextlib.contextmanager
def bar() -> Iterator[Progress]:
    """A bar with the stage and the time left on standard error, where that is a terminal; it goes at the end."""
    from rich.console import Console

    terminal = Console(stderr=True, highlight=False)
    if not terminal.is_terminal:
        yield silent
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=terminal, transient=True) as shown:
        task, told, at = shown.add_task("", total=None), "", 0.0

        def progress(stage: str, done: int, total: int) -> None:
            nonlocal told, at
            if stage != told or time.monotonic() - at > SECONDS_BETWEEN:
                told, at = stage, time.monotonic()
                shown.update(task, description=stage, completed=done, total=total or None)

        yield progress
