"""A progress bar on standard error that draws only when told: nothing runs beside what is being measured."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[float], None]  # how much is done, from 0 to 1
_EVERY = 0.5  # seconds between drawings, at least


def silent(done: float) -> None:
    """Show nothing."""


@contextmanager
def bar(doing: str) -> Iterator[Tell]:
    """A bar beside `doing` until the end of the block; nothing where standard error is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield silent
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    drawn = 0.0
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task(doing, total=1.0)
        progress.refresh()

        def tell(done: float) -> None:
            nonlocal drawn
            if time.monotonic() - drawn >= _EVERY:
                drawn = time.monotonic()
                progress.update(task, completed=done, refresh=True)

        yield tell
