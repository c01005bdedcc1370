"""A run on a terminal: the launcher's display (a live table, or plain lines where there is no terminal), and the table of its
learners, which `skerry status` shows, too. Shows a RunState, decides nothing."""

from __future__ import annotations

import time
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from skerry.launch.view import RunView
from skerry.store.fold import RunState

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
            self._live.update(_shown(self._view), refresh=True)
            self._live.stop()

    def refresh(self) -> None:
        """Show the view as it stands, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        if self._live:
            self._live.update(_shown(self._view), refresh=True)
        elif self._view.state.learners:
            self._console.print(_line(self._view), highlight=False, soft_wrap=True)
        self._next = now + (LIVE_S if self._live else PLAIN_S)

    def tell(self, text: str | None) -> None:
        """One line about an event; on a terminal it is part of the table already."""
        if text and not self._live:
            self._console.print(text, highlight=False, soft_wrap=True)


def step_of(state: RunState) -> str:
    """The run's step, and of how many."""
    budget = state.status.budget.steps if state.status else 0
    return f"{min(state.step, budget)} of {budget}" if budget else str(state.step)


def learners_table(state: RunState) -> Table:
    """One row a learner; fits 80 columns."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("learner", "state", "steps", "tokens/s", "loss", "median step", "longest gap", "generation"):
        table.add_column(name, justify="left" if name in ("learner", "state") else "right")
    for m, sample in sorted(state.learners.items()):
        table.add_row(
            str(m), Text(sample.state, style=STATE_STYLE.get(sample.state, "yellow")), f"{sample.steps:,}",
            f"{sample.tokens_s:,.0f}", _figure(sample.loss, "{:.3f}"), _figure(sample.median_step_s, "{:.3f} s"),
            _figure(sample.max_gap_s, "{:.3f} s"), str(sample.generation),
        )  # fmt: skip
    return table


def _shown(view: RunView) -> Group:
    return Group(_title(view), learners_table(view.state), Text("\n".join(view.words)))


def _title(view: RunView) -> Text:
    state = view.state
    loss = f"   eval loss {_figure(state.losses[-1].loss, '{:.3f}')}" if state.losses else ""
    text = (f"   {view.now:.0f} s   step {step_of(state)}   rounds {state.rounds}   contributors {state.contributors:.1f}   "
            f"grace {state.grace_s * 1000:.0f} ms   {state.tokens_s:,.0f} tokens/s{loss}")  # fmt: skip
    return Text.assemble((view.name, "bold"), text, no_wrap=True, overflow="ellipsis")


def _line(view: RunView) -> str:
    state = view.state
    learners = "  ".join(f"{m}: {sample.steps:,} steps {sample.state}" for m, sample in sorted(state.learners.items()))
    return (f"{view.now:6.1f}s  step {step_of(state)}  rounds {state.rounds}  contributors {state.contributors:.1f}  "
            f"{state.tokens_s:,.0f} tokens/s  |  {learners}")  # fmt: skip


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
