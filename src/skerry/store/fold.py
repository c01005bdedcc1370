"""RunState: what a run's records come to. One fold for the launcher's display, `skerry status` and the report.

Rules: no file, clock or process is asked for anything. A record costs O(1), a round O(its contributors), an evaluation O(1) on
average; only a resumption goes through what is kept. Memory: one Sample a learner, one Fault each that struck, and of
samples, rounds, events, alarms and evaluations the last `keep` (None: all; a round is as long as its contributors).

Records come in the order of the machine's clock (evaluations as they may). A resumption undoes what was told of later times.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from msgspec.structs import replace

from skerry.store.records import ALARMS, Begin, Evaluation, Event, FaultNote, Line, Round, Sample, Status

KEEP = 48
RECENT_ROUNDS = 48
SYNCER = -1  # in notes of faults: no learner, but the syncer
PHASES = {"budget_reached": "ending", "run_over": "ended"}


@dataclass(kw_only=True)
class Fault:
    """One that struck at `t`. `over`: when it ended, if it lasts and has. `recovered_s`: from the strike to the learner's next
    merged contribution: the first in a round opened after the strike (one of an open round may have been handed in before).
    Of a fault of the syncer: to the next version, by the machine's clock, for the run's own may stand meanwhile."""

    note: FaultNote
    t: float
    over: float | None = None
    recovered_s: float | None = None


class RunState:
    """The latest of everything. `take` one record after the other."""

    def __init__(self, keep: int | None = KEEP) -> None:
        self.t = 0.0  # of the syncer's last record
        self.begin: Begin | None = None  # the syncer's last start
        self.status: Status | None = None  # the last one
        self.phase = "waiting"
        self.step = 0
        self.rounds = self.cancelled = 0
        self.exported = False  # the model is on disk
        self.learners: dict[int, Sample] = {}
        self.samples: deque[Sample] = deque(maxlen=keep)
        self.closed: deque[Round] = deque(maxlen=keep)
        self.events: deque[Event] = deque(maxlen=keep)
        self.alarms: deque[Event] = deque(maxlen=keep)
        self.losses: deque[Evaluation] = deque(maxlen=keep)
        self.faults: list[Fault] = []
        self._hurt: dict[int, list[Fault]] = {}  # by learner: not recovered from
        self._lasting: dict[str, Fault] = {}  # by the script's text: not over

    def take(self, record: Line) -> None:
        """One more record."""
        if isinstance(record, Event | Round | Sample | Status):
            self.t = max(self.t, record.t)
        match record:
            case Begin():
                self._begun(record)
            case Event():
                self._happened(record)
            case Round():
                self._round(record)
            case Sample():
                self.learners[record.learner] = record
                self.samples.append(record)
            case Status():
                self._fares(record)
            case Evaluation():
                _drop_from(self.losses, record.t)
                self.losses.append(record)
            case FaultNote():
                self._fault(record)

    # ------------------------------------------------------------------ what follows from it

    @property
    def ended(self) -> bool:
        """The run has reached its end."""
        return self.phase == "ended"

    @property
    def began(self) -> float | None:
        """The machine's clock at t = 0; None until the syncer has told."""
        return self.begin.unix - self.begin.t if self.begin else None

    @property
    def contributors(self) -> float:
        """Mean contributors of the last rounds."""
        return _mean([record.contributors for record in self._recent()])

    @property
    def grace_s(self) -> float:
        """Mean grace of the last rounds, in seconds."""
        return _mean([record.grace_s for record in self._recent()])

    @property
    def tokens_s(self) -> float:
        """Tokens a second of all learners that are not dead."""
        return sum(sample.tokens_s for sample in self.learners.values() if sample.state != "dead")

    def all_train(self, learners: int) -> bool:
        """Whether the learners 0 to `learners` - 1 are all there and have made a step."""
        found = [self.learners.get(m) for m in range(learners)]
        return all(sample is not None and sample.state == "training" and sample.steps > 0 for sample in found)

    def lasting(self, kind: str) -> list[tuple[Fault, float]]:
        """The faults of that kind, each with its end: the run's last record, if it has none."""
        return [(fault, self.t if fault.over is None else fault.over) for fault in self.faults if fault.note.kind == kind]

    def answer(self) -> Status:
        """What the syncer would tell an observer, as far as it is known."""
        known = self.status or Status(t=self.t, run=self.begin.run if self.begin else "", phase=self.phase,
                                      mean_contributors=self.contributors)  # fmt: skip
        return replace(known, t=self.t, phase=self.phase, step=self.step, rounds=self.rounds, rounds_cancelled=self.cancelled,
                       learners=tuple(self.learners.values()), alarms=tuple(self.alarms))  # fmt: skip

    # ------------------------------------------------------------------ each kind

    def _begun(self, record: Begin) -> None:
        self._undo(record.t)
        self.begin, self.t = record, record.t
        self.phase, self.exported = "running" if record.resumed else "waiting", False

    def _happened(self, record: Event) -> None:
        self.events.append(record)
        if record.event in ALARMS:
            self.alarms.append(record)
        self.cancelled += record.event == "cancelled"
        self.exported |= record.event == "export"
        self.phase = PHASES.get(record.event, self.phase)

    def _round(self, record: Round) -> None:
        self.closed.append(record)
        self.rounds += 1
        self.step = max(self.step, record.step)
        self.phase = "running" if self.phase == "waiting" else self.phase
        clock = (self.began or 0.0) + record.t
        for fault in self._hurt.pop(SYNCER, ()):
            self._recovers(fault, clock > fault.note.unix, clock - fault.note.unix)
        for learner in record.included:
            for fault in self._hurt.pop(learner, ()):
                self._recovers(fault, record.t - record.open_s >= fault.t, record.t - fault.t)

    def _recovers(self, fault: Fault, has: bool, seconds: float) -> None:
        if has:
            fault.recovered_s = round(seconds, 3)
        else:
            self._hurt.setdefault(fault.note.learner, []).append(fault)

    def _fares(self, record: Status) -> None:
        self.status, self.phase, self.step = record, record.phase, record.step
        self.rounds, self.cancelled = record.rounds, record.rounds_cancelled
        self.learners.update((sample.learner, sample) for sample in record.learners)
        if record.alarms:
            self.alarms = deque(record.alarms, self.alarms.maxlen)

    def _fault(self, note: FaultNote) -> None:
        t = 0.0 if self.began is None else round(note.unix - self.began, 3)
        if note.event == "end":
            if note.fault in self._lasting:
                self._lasting.pop(note.fault).over = t
            return
        self.faults.append(Fault(note=note, t=t))
        self._pursue(self.faults[-1])

    def _pursue(self, fault: Fault) -> None:
        """Look out for its end and for the recovery from it."""
        if fault.over is None:
            self._lasting[fault.note.fault] = fault
        if fault.recovered_s is None:
            self._hurt.setdefault(fault.note.learner, []).append(fault)

    def _undo(self, t: float) -> None:
        """Forget what was told of later times."""
        undone = sum(record.t > t for record in self.closed)
        self.cancelled -= sum(record.t > t and record.event == "cancelled" for record in self.events)
        for kept in (self.samples, self.closed, self.events, self.alarms, self.losses):
            while kept and kept[-1].t > t:
                kept.pop()
        if undone:
            self.rounds -= undone
            self.step = max((record.step for record in self.closed), default=0)
        for fault in self.faults:
            if fault.note.learner == SYNCER:  # it is why there are two starts, and struck in the last moment of the first
                fault.t = min(fault.t, t)
        self.faults = [fault for fault in self.faults if fault.t <= t]
        self._hurt.clear()
        self._lasting.clear()
        for fault in self.faults:
            if fault.over is not None and fault.over > t:
                fault.over = None
            if fault.recovered_s is not None and fault.note.learner != SYNCER and fault.t + fault.recovered_s > t:
                fault.recovered_s = None
            self._pursue(fault)

    def _recent(self) -> Iterable[Round]:
        return islice(reversed(self.closed), RECENT_ROUNDS)


def _drop_from(losses: deque[Evaluation], t: float) -> None:
    """A newer one takes the place of those of its time and later."""
    while losses and losses[-1].t >= t:
        losses.pop()


def _mean(values: list[float] | list[int]) -> float:
    return sum(values) / len(values) if values else 0.0
