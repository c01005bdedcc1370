"""What the operator reads while a run goes on: the structured log on stderr and the records of metrics.jsonl, kept together.

Rules: nothing here decides anything or raises; every event of the run is one line in both, but of one kind that comes in
crowds, which is counted (gather.py). One more record in metrics.jsonl for each round (RoundLog) and, once a second, for the
run and for each learner (Samples).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import msgspec
import structlog

from skerry.core.members import Member
from skerry.core.messages import Ask, Cancel, Close, Distribute, Merge, SyncerAction
from skerry.core.syncer import SyncerCore
from skerry.fabric.messages import Vitals
from skerry.store.metrics import MetricsLog
from skerry.store.records import ALARMS, Begin, Event, EventName, Pace, Record, Round, Sample, State, Status
from skerry.syncer.gather import Gatherer

LONGEST = 500  # characters of an event's text
SPAN = 5.0  # seconds over which tokens a second are taken
LAST_ALARMS = 8  # the last ones, told to observers
MOST_LINES = 64  # learners told of in metrics.jsonl a second; of more, each has its turn


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
        structlog.PrintLogger(cast(TextIO, _Stderr())), wrapper_class=structlog.BoundLogger,
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso"), last],
    )  # fmt: skip


class Journal:
    """The log and metrics.jsonl. `clock`: seconds since the run began."""

    def __init__(self, log: Any, metrics: MetricsLog, clock: Callable[[], float]) -> None:
        self.log = log
        self._metrics = metrics
        self._clock = clock
        self._alarms: deque[Event] = deque(maxlen=LAST_ALARMS)
        self._gatherer = Gatherer()
        self._looks = 0

    def begin(self, address: str, *, run: str, resumed: bool, metrics: str) -> None:
        """The syncer listens. `metrics`: where it serves /metrics, "" = nowhere."""
        text = f"listening on {address}" + (f", metrics on http://{metrics}/metrics" if metrics else "")
        self.log.info("begin", text=text, run=run, resumed=resumed)
        self.write(Begin(t=self.now(), text=text, unix=round(time.time(), 3), run=run, address=address, resumed=resumed,
                         metrics=metrics))  # fmt: skip

    def event(self, event: EventName, text: str = "", *, learner: int = -1, code: str = "") -> None:
        """Something happened."""
        text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
        record = self._gatherer.take(self.now(), Event(t=self.now(), event=event, text=text, learner=learner, code=code))
        if record is not None:
            self._say(record)

    def _say(self, record: Event) -> None:
        said: dict[str, Any] = {"learner": record.learner} if record.learner >= 0 else {}
        said |= {name: value for name, value in (("text", record.text), ("code", record.code)) if value}
        if record.times > 1:
            said["times"] = record.times
        if record.event in ALARMS:
            self.log.warning(record.event, **said)
            self._alarms.append(record)
        else:
            self.log.info(record.event, **said)
        self.write(record)

    def trouble(self, text: str) -> None:
        """Something does not work that the run can do without for a while."""
        self.event("trouble", text)

    def look(self, status: Status, learners: list[Sample]) -> Status:
        """Once a second: how the run and its learners fare. Gives what observers are told."""
        self.write(status)
        share = max(1, -(-len(learners) // MOST_LINES))
        self._looks += 1
        for sample in learners[self._looks % share :: share]:
            self.write(sample)
        return msgspec.structs.replace(status, learners=tuple(learners), alarms=tuple(self._alarms))

    def write(self, record: Record) -> None:
        """A line of metrics.jsonl only."""
        self._metrics.add(record)

    def now(self) -> float:
        """The time as records have it."""
        return round(self._clock(), 3)

    def moved(self, folder: Path) -> None:
        """The run's directory was made anew; what is written from now on goes there."""
        self._metrics.close()
        self._metrics = MetricsLog(folder / "metrics.jsonl", self.log.warning)
        self.trouble(f"the run's directory was removed; it was made again at {folder}, but for what was only there")

    def flush(self) -> None:
        """Hand everything to the disk. Once a second."""
        for record in self._gatherer.due(self.now()):
            self._say(record)
        self._metrics.flush()

    def close(self) -> None:
        """The end."""
        for record in self._gatherer.rest():
            self._say(record)
        self._metrics.close()


class RoundLog:
    """Times the rounds, from the actions that are carried out."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._open: dict[tuple[int, int], tuple[float, list[float]]] = {}  # -> opened at, contributions at
        self._closing: dict[tuple[int, int], Round] = {}  # decided, but the version does not exist yet

    def saw(self, now: float, action: SyncerAction, core: SyncerCore) -> None:
        """An action is carried out."""
        match action:
            case Ask(fragment=fragment, step=step):
                self._open.setdefault((fragment, step), (now, []))
            case Merge(fragment=fragment, step=step):
                self._open.setdefault((fragment, step), (now, []))[1].append(now)
            case Cancel(fragment=fragment, step=step):
                self._open.pop((fragment, step), None)
                self._closing.pop((fragment, step), None)
                self._journal.event("cancelled", f"round of fragment {fragment} at step {step}")
            case Close(fragment=fragment, step=step, included=included):
                opened, merges = self._open.pop((fragment, step), (now, []))
                complete = merges[min(core.members.quorum, len(merges)) - 1] if merges else now
                self._closing[fragment, step] = Round(
                    t=self._journal.now(), fragment=fragment, step=step, version=action.version, contributors=len(included),
                    included=tuple(contributor.learner for contributor in included), learners=core.members.live,
                    open_s=round(now - opened, 4), grace_s=round(now - complete, 4),
                )  # fmt: skip
            case Distribute(fragment=fragment, step=step):
                if closed := self._closing.pop((fragment, step), None):  # none: it was closed before this start
                    self._journal.write(closed)


class Samples:
    """What is known of each learner beside the core: vitals of each generation, state, tokens a second."""

    def __init__(self, journal: Journal) -> None:
        self.vitals: dict[int, dict[int, Vitals]] = {}  # learner -> generation -> the last ones
        self.left: set[int] = set()  # learners that went of their own accord
        self._journal = journal
        self._tokens: dict[int, deque[tuple[float, int]]] = {}
        self._states: dict[int, State] = {}

    def take(self, now: float, core: SyncerCore, linked: Container[int]) -> list[Sample]:
        """One of each learner, changed states being told. Once a second."""
        found = []
        for member in core.members:
            state, before = self._state(member, linked), self._states.get(member.id)
            if {state, before} == {"training", "silent"}:
                self._journal.event("silent" if state == "silent" else "back", learner=member.id)
            self._states[member.id] = state
            tokens = core.ledger.tallies[member.id].tokens
            told = self.vitals.get(member.id, {}).get(member.generation)
            found.append(Sample(
                t=self._journal.now(), learner=member.id, generation=member.generation, state=state, clock=member.clock,
                steps=member.first_step + member.account.count.steps, tokens=tokens,
                tokens_s=round(self._rate(member.id, now, tokens), 1), **(_by_its_account(told) if told else {}),
            ))  # fmt: skip
        return found

    def paces(self) -> dict[int, Pace]:
        """Of each learner that told of its steps."""
        return {learner: pace(list(vitals.values())) for learner, vitals in self.vitals.items()}

    def _rate(self, learner: int, now: float, tokens: int) -> float:
        past = self._tokens.setdefault(learner, deque())
        past.append((now, tokens))
        while past[0][0] < now - SPAN:
            past.popleft()
        return (tokens - past[0][1]) / (now - past[0][0]) if now > past[0][0] else 0.0

    def _state(self, member: Member, linked: Container[int]) -> State:
        if member.id not in linked:
            return "left" if member.id in self.left else "dead"
        if member.live:
            return "training"
        return "joining" if member.missing else "silent"


def pace(vitals: list[Vitals]) -> Pace:
    """A learner's, from the last vitals of each of its generations."""
    seen = [v for v in vitals if v.median_step_us > 0]
    if not seen:
        return Pace()
    return Pace(
        median_step_s=max(seen, key=lambda v: v.span_us).median_step_us / 1e6,
        max_gap_s=max(v.max_gap_us for v in seen) / 1e6,
        max_gap_ratio=max(v.max_gap_us / v.median_step_us for v in seen),
        hook_share=sum(v.hook_us for v in seen) / max(sum(v.span_us for v in seen), 1),
        max_hook_s=max(v.max_hook_us for v in seen) / 1e6,
    )


def _by_its_account(vitals: Vitals) -> dict[str, Any]:
    return {
        "loss": vitals.loss, "median_step_s": vitals.median_step_us / 1e6, "max_gap_s": vitals.max_gap_us / 1e6,
        "max_hook_s": vitals.max_hook_us / 1e6, "hook_share": vitals.hook_us / max(vitals.span_us, 1),
        "pid_trainer": vitals.pid_trainer, "pid_agent": vitals.pid_agent, "host": vitals.host,
    }  # fmt: skip
