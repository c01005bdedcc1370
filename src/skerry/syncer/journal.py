"""What the operator reads while a run goes on: the structured log on stderr and the lines of metrics.jsonl, kept together.

Rules: nothing here decides anything or raises; every event of the run is one line in both. One more line in metrics.jsonl for
each round (RoundLog) and, once a second, for each learner (Samples).
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Container
from typing import Any, Literal

import structlog

from skerry.core.members import Member
from skerry.core.messages import Ask, Cancel, Close, Merge
from skerry.core.syncer import SyncerCore
from skerry.fabric.messages import Vitals
from skerry.store.metrics import MetricsLog

SPAN = 5.0  # seconds over which tokens a second are taken


class _Stderr:
    """A log on a full disk must not end the run."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def make_log(form: Literal["auto", "console", "json"]) -> Any:
    """A logger for stderr."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    last: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    return structlog.wrap_logger(
        structlog.PrintLogger(_Stderr()), wrapper_class=structlog.BoundLogger,
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso"), last],
    )  # fmt: skip


class Journal:
    """The log and metrics.jsonl. `clock`: seconds since the run began."""

    def __init__(self, log: Any, metrics: MetricsLog, clock: Callable[[], float]) -> None:
        self.log = log
        self._metrics = metrics
        self._clock = clock

    def event(self, event: str, text: str = "", *, learner: int = -1, bad: bool = False, **more: Any) -> None:
        """Something happened. `bad`: somebody should look."""
        who = {"learner": learner} if learner >= 0 else {}
        (self.log.warning if bad else self.log.info)(event, **who, **({"text": text} if text else {}), **more)
        self._metrics.line(self._clock(), "event", event=event, text=text, **who, **more)

    def trouble(self, text: str) -> None:
        """Something does not work that the run can do without for a while."""
        self.event("trouble", text, bad=True)

    def line(self, kind: str, **fields: Any) -> None:
        """A line of metrics.jsonl only."""
        self._metrics.line(self._clock(), kind, **fields)

    def flush(self) -> None:
        """Hand everything to the disk."""
        self._metrics.flush()

    def close(self) -> None:
        """The end."""
        self._metrics.close()


class RoundLog:
    """Times the rounds, from the actions that are carried out."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._open: dict[tuple[int, int], tuple[float, list[float]]] = {}  # -> opened at, contributions at

    def saw(self, now: float, action: object, core: SyncerCore) -> None:
        """An action is carried out."""
        match action:
            case Ask(fragment=fragment, step=step):
                self._open.setdefault((fragment, step), (now, []))
            case Merge(fragment=fragment, step=step):
                self._open.setdefault((fragment, step), (now, []))[1].append(now)
            case Cancel(fragment=fragment, step=step):
                self._open.pop((fragment, step), None)
                self._journal.event("cancelled", f"round of fragment {fragment} at step {step}")
            case Close(fragment=fragment, step=step, version=version, included=included):
                opened, merges = self._open.pop((fragment, step), (now, []))
                complete = merges[min(core.members.quorum, len(merges)) - 1] if merges else now
                self._journal.line(
                    "round", fragment=fragment, step=step, version=version, contributors=len(included), included=included,
                    learners=core.members.live, open_s=round(now - opened, 4), grace_s=round(now - complete, 4),
                )  # fmt: skip


class Sample:
    """How one learner fares at one moment."""

    __slots__ = ("member", "state", "steps", "tokens", "tokens_s", "vitals")

    def __init__(self, member: Member, state: str, tokens: int, tokens_s: float, vitals: Vitals | None) -> None:
        self.member = member
        self.state = state
        self.steps = member.first_step + member.account.count.steps
        self.tokens = tokens
        self.tokens_s = tokens_s
        self.vitals = vitals

    def plain(self) -> dict[str, Any]:
        """As in a line of metrics.jsonl and in the status."""
        member, vitals = self.member, self.vitals
        found = {"learner": member.id, "generation": member.generation, "state": self.state, "clock": member.clock,
                 "steps": self.steps, "tokens": self.tokens, "tokens_s": round(self.tokens_s, 1)}  # fmt: skip
        if vitals is not None:
            found |= {
                "loss": vitals.loss, "median_step_s": vitals.median_step_us / 1e6, "max_gap_s": vitals.max_gap_us / 1e6,
                "max_hook_s": vitals.max_hook_us / 1e6, "hook_share": vitals.hook_us / max(vitals.span_us, 1),
                "pid_trainer": vitals.pid_trainer, "pid_agent": vitals.pid_agent, "host": vitals.host,
            }  # fmt: skip
        return found


class Samples:
    """What is known of each learner beside the core: vitals of each generation, state, tokens a second."""

    def __init__(self, journal: Journal) -> None:
        self.vitals: dict[int, dict[int, Vitals]] = {}  # learner -> generation -> the last ones
        self.left: set[int] = set()  # learners that went of their own accord
        self._journal = journal
        self._tokens: dict[int, deque[tuple[float, int]]] = {}
        self._states: dict[int, str] = {}

    def take(self, now: float, core: SyncerCore, linked: Container[int]) -> list[Sample]:
        """One of each learner, changed states being told. Once a second."""
        found = []
        for member in core.members:
            state, before = self._state(member, linked), self._states.get(member.id)
            if {state, before} == {"training", "silent"}:
                self._journal.event("silent" if state == "silent" else "back", learner=member.id)
            self._states[member.id] = state
            tokens = core.ledger.tallies[member.id].tokens
            past = self._tokens.setdefault(member.id, deque())
            past.append((now, tokens))
            while past[0][0] < now - SPAN:
                past.popleft()
            rate = (tokens - past[0][1]) / (now - past[0][0]) if now > past[0][0] else 0.0
            vitals = self.vitals.get(member.id, {})
            found.append(Sample(member, state, tokens, rate, vitals.get(member.generation)))
        return found

    def _state(self, member: Member, linked: Container[int]) -> str:
        if member.id not in linked:
            return "left" if member.id in self.left else "dead"
        if member.live:
            return "training"
        return "joining" if member.missing else "silent"
