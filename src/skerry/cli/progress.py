"""A progress bar on stderr for whatever takes over a second, if stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
PATIENCE_S = 1.0


def shown(items: Sequence[T], doing: str) -> Iterator[T]:
    """The items, one after the other, with a bar as soon as they have taken over a second."""
    if not sys.stderr.isatty():
        yield from items
        return
    began, done = monotonic(), 0
    for item in items:
        if monotonic() - began > PATIENCE_S:
            break
        yield item
        done += 1
    else:
        return
    with _rich() as progress:
        task = progress.add_task(doing, total=len(items), completed=done)
        for item in items[done:]:
            yield item
            progress.advance(task)


@contextmanager
def bar(doing: str) -> Iterator[Callable[[float], None]]:
    """A bar for one long piece of work: call what is given with the share done, as often as you like."""
    if not sys.stderr.isatty():
        yield lambda share: None
        return
    with _rich() as progress:
        began, task = monotonic(), progress.add_task(doing, total=1.0, visible=False)

        def show(share: float) -> None:
            progress.update(task, completed=share, visible=monotonic() - began > PATIENCE_S)

        yield show


def _rich() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), transient=True,
                    console=Console(stderr=True))  # fmt: skip
