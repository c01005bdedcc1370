"""The launcher's display: a live table on a terminal, plain lines everywhere else. Shows a RunView, decides nothing."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from skerry.launch.view import RunView

LIVE_S = 0.5
PLAIN_S = 10.0
STATE_STYLE = {"training": "green", "dead": "red", "left": "dim"}


class Display:
    """`with Display(view) as display`: call `refresh` often, `tell` for each event."""

    def __init__(self, view: RunView, console: Console | None = None) -> None:
        self._view = view
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._next = 0.0

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        if self._live:
            self._live.update(_table(self._view), refresh=True)
            self._live.stop()

    def refresh(self) -> None:
        """Show the view as it stands, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        if self._live:
            self._live.update(_table(self._view), refresh=True)
        elif self._view.learners:
            self._console.print(_line(self._view), highlight=False, soft_wrap=True)
        self._next = now + (LIVE_S if self._live else PLAIN_S)

    def tell(self, text: str | None) -> None:
        """One line about an event; on a terminal it is part of the table already."""
        if text and not self._live:
            self._console.print(text, highlight=False, soft_wrap=True)


def _line(view: RunView) -> str:
    learners = "  ".join(
        f"{m}: {_count(line, 'steps')} steps {line.get('state', '')}" for m, line in sorted(view.learners.items())
    )
    return (f"{view.now:6.1f}s  step {_step(view)}  rounds {view.rounds}  contributors {view.contributors:.1f}  "
            f"{view.tokens_s:,.0f} tokens/s  |  {learners}")  # fmt: skip


def _table(view: RunView) -> Group:
    table = Table(box=SIMPLE_HEAD)
    for name in ("learner", "state", "steps", "tokens/s", "loss", "median step", "longest gap", "restarts"):
        table.add_column(name, justify="left" if name in ("learner", "state") else "right")
    for m, line in sorted(view.learners.items()):
        state = str(line.get("state", ""))
        table.add_row(
            str(m), Text(state, style=STATE_STYLE.get(state, "yellow")), _count(line, "steps"),
            _count(line, "tokens_s"), _figure(line, "loss", "{:.3f}"), _figure(line, "median_step_s", "{:.3f} s"),
            _figure(line, "max_gap_s", "{:.3f} s"), str(view.restarts.get(m, 0)),
        )  # fmt: skip
    return Group(_title(view), table, Text("\n".join(view.events)))


def _title(view: RunView) -> Text:
    loss = f"   eval loss {view.losses[-1][1]:.3f}" if view.losses else ""
    text = (f"   {view.now:.0f} s   step {_step(view)}   rounds {view.rounds}   contributors {view.contributors:.1f}   "
            f"grace {view.grace_s * 1000:.0f} ms   {view.tokens_s:,.0f} tokens/s{loss}")  # fmt: skip
    return Text.assemble((view.name, "bold"), text, no_wrap=True, overflow="ellipsis")


def _step(view: RunView) -> str:
    return f"{min(view.step, view.budget)} of {view.budget}" if view.budget else str(view.step)


def _count(line: dict[str, Any], key: str) -> str:
    return f"{line.get(key) or 0:,.0f}"


def _figure(line: dict[str, Any], key: str, form: str) -> str:
    value = line.get(key)
    return "" if value is None else form.format(value)
