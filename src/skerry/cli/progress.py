"""A progress bar on stderr for whatever takes over a second, if stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from threading import Timer
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
PATIENCE_S = 1.0


def shown(items: Sequence[T], doing: str) -> Iterator[T]:
    """The items, one after the other, with a bar as soon as they have taken over a second."""
    with Bar(doing, len(items)) as bar:
        for item in items:
            yield item
            bar.advance(1)


class Bar:
    """How much of `total` is done, told by `advance`. The bar comes up by itself, also while nothing is told."""

    def __init__(self, doing: str, total: float = 0) -> None:
        self._doing, self._total, self._done = doing, total, 0.0
        self._bar: Progress | None = None
        self._timer = Timer(PATIENCE_S, self._show) if sys.stderr.isatty() else None

    def __enter__(self) -> Bar:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer.join()
        if self._bar:
            self._bar.stop()

    def advance(self, amount: float) -> None:
        """So much more is done."""
        self.reach(self._done + amount)

    def reach(self, done: float, doing: str = "") -> None:
        """So much is done in all; and what is being done now, if that changes."""
        self._done, self._doing = done, doing or self._doing
        self._update()

    def restart(self, total: float) -> None:
        """Another round, of so much."""
        self._total, self._done = total, 0.0
        self._update()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), transient=True,
                             console=Console(stderr=True))  # fmt: skip
        self._bar.add_task(self._doing, total=self._total)
        self._bar.start()
        self._update()

    def _update(self) -> None:
        if self._bar and self._bar.task_ids:
            self._bar.update(self._bar.task_ids[0], total=self._total, completed=self._done,
                             description=self._doing)  # fmt: skip
