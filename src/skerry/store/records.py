"""What a run says of itself, as frozen records: each line of its files, the status that observers are given, the final figures.

    metrics.jsonl  (the syncer)     Begin, Event, Round, Sample, Status       `t`: seconds since the run began
    faults.jsonl   (the launcher)   FaultNote, Started, Exited, Unfired       `unix`: the machine's clock, seconds
    eval.jsonl     (the evaluator)  Evaluation                                `t`
    StatusText     (the syncer)     Status with its learners and alarms
    figures.json   (the syncer)     Figures          summary.json  (the report)  Summary

Rules: a record is one JSON object, by `encode` and `decode` alone, and nobody else knows the keys. What a newer release adds
(kinds, fields, names of events, states, faults) is passed over or taken as text. A figure that is no number (NaN, infinite)
is written as null. fold.py tells what the records come to.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

EventName = Literal[
    "join", "dead", "silent", "back", "leave", "refused", "cancelled", "budget_reached", "run_over", "snapshot", "export",
    "trouble",
]
ALARMS = ("trouble", "refused")  # events that somebody should look at
State = Literal["joining", "training", "silent", "dead", "left"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all."""


# ---------------------------------------------------------------- metrics.jsonl


class Begin(Record, frozen=True, kw_only=True, tag_field="kind", tag="event"):
    """A syncer has started: a new run, or (`resumed`) one that goes on at its snapshot's time, so that what was written of
    later times is undone. It bears both clocks. `metrics`: where /metrics is served, "" = nowhere."""

    t: float
    event: Literal["begin"] = "begin"
    text: str = ""
    unix: float
    run: str = ""
    address: str = ""
    resumed: bool = False
    metrics: str = ""


class Event(Record, frozen=True, kw_only=True, tag_field="kind", tag="event", omit_defaults=True):
    """Something happened. `event`: an EventName, or a newer release's. `learner` -1: none is meant; `code`: of a refusal;
    `times`: of its kind as many happened since one was told last, and the text is the last one's."""

    t: float
    event: str
    text: str = ""
    learner: int = -1
    code: str = ""
    times: int = 1


class Round(Record, frozen=True, kw_only=True, tag_field="kind", tag="round"):
    """A round was closed. `included`: the learners merged, in order of arrival; `learners`: live ones; `open_s`: from its
    opening to its close; `grace_s`: of that, waited after the quorum was complete."""

    t: float
    fragment: int
    step: int
    version: int
    contributors: int
    included: tuple[int, ...]
    learners: int
    open_s: float
    grace_s: float


class Sample(Record, frozen=True, kw_only=True, tag_field="kind", tag="learner"):
    """How a learner fares, once a second for each that was ever here. `state`: a State; `steps`, `tokens`: of all its
    generations; `tokens_s`: over the last seconds. The rest is by its own account, of this generation; null until it told."""

    t: float
    learner: int
    generation: int
    state: str
    clock: int
    steps: int
    tokens: int
    tokens_s: float
    loss: float | None = None
    median_step_s: float | None = None
    max_gap_s: float | None = None
    max_hook_s: float | None = None
    hook_share: float | None = None
    pid_trainer: int | None = None
    pid_agent: int | None = None
    host: str | None = None


class Amounts(Record, frozen=True, kw_only=True):
    """The ledger, in tokens x parameters: processed = merged + lost + pending."""

    processed: int = 0
    merged: int = 0
    lost: int = 0
    pending: int = 0


class Budget(Record, frozen=True, kw_only=True):
    """What ends the run; 0 = not that."""

    steps: int = 0
    tokens: int = 0


class Status(Record, frozen=True, kw_only=True, tag_field="kind", tag="status"):
    """How the run fares, once a second (docs/protocol.md). Without learners and alarms in metrics.jsonl, where these are lines
    of their own. `refused`: contributions, for their values; `queue`: jobs that wait for the merger."""

    t: float
    run: str
    phase: str
    step: int = 0
    progress: float = 0.0
    budget: Budget = Budget()
    params: int = 0
    rounds: int = 0
    rounds_open: int = 0
    rounds_cancelled: int = 0
    rounds_skipped: int = 0
    mean_contributors: float = 0.0
    grace_s: float = 0.0
    live: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    ledger: Amounts = Amounts()
    lost_by_cause: dict[str, int] = msgspec.field(default_factory=dict)
    refused: int = 0
    queue: int = 0
    buffers_free: int = 0
    snapshot_age: float | None = None
    learners: tuple[Sample, ...] = ()
    alarms: tuple[Event, ...] = ()


# ---------------------------------------------------------------- eval.jsonl and faults.jsonl


class Evaluation(Record, frozen=True, kw_only=True):
    """The global model's loss after so many rounds, nats per byte on the held-out windows."""

    t: float
    step: int
    rounds: int
    loss: float | None


class FaultNote(Record, frozen=True, kw_only=True):
    """A fault of --chaos struck, or is over. `fault`: as the script has it; `target`: a learner's id, `2.trainer`, `2.agent`;
    or `syncer`, with `learner` -1."""

    unix: float
    event: Literal["strike", "end"]
    learner: int
    kind: str
    target: str
    fault: str


class Started(Record, frozen=True, kw_only=True, tag_field="event", tag="start"):
    """A trainer was started, or (`learner` -1) the syncer."""

    unix: float
    learner: int
    pid: int | None


class Exited(Record, frozen=True, kw_only=True, tag_field="event", tag="exit"):
    """A trainer, or (`learner` -1) the syncer, has ended by itself or by a signal (negative)."""

    unix: float
    learner: int
    code: int


class Unfired(Record, frozen=True, kw_only=True, tag_field="event", tag="unfired"):
    """The run was over before these faults could strike."""

    unix: float
    faults: str


# ---------------------------------------------------------------- the final figures


class Pace(Record, frozen=True, kw_only=True):
    """A learner's steps, over all its generations; the median is that of the one that lasted longest. None: it never told."""

    median_step_s: float | None = None
    max_gap_s: float | None = None
    max_gap_ratio: float | None = None
    hook_share: float | None = None
    max_hook_s: float | None = None


class LearnerFigures(Pace, frozen=True, kw_only=True):
    """One learner (docs/summary.md)."""

    learner: int
    generations: int
    steps: int
    tokens: int
    lost_by_cause: dict[str, float]


class FaultFigures(Record, frozen=True, kw_only=True):
    """One fault that struck (docs/summary.md)."""

    kind: str
    target: str
    at_s: float
    recovered_s: float | None


class Figures(Record, frozen=True, kw_only=True):
    """figures.json: what the syncer knows at its end. The keys that Summary has, too, mean the same there."""

    run: str
    phase: str
    params: int
    learners: int
    step: int
    rounds: int
    rounds_cancelled: int
    rounds_skipped: int
    mean_contributors: float
    wall_s: float
    tokens_processed: float
    tokens_merged: float
    tokens_lost: float
    tokens_pending: float
    lost_by_cause: dict[str, float]
    ledger: Amounts
    goodput: float
    bytes_up: int
    bytes_down: int
    data_parallel_bytes: int
    per_learner: tuple[LearnerFigures, ...]


class Summary(Record, frozen=True, kw_only=True):
    """summary.json, and what of it figures.json tells. docs/summary.md and report/summary.py say what the keys mean."""

    params: int | None = None
    learners: int | None = None
    rounds: int | None = None
    mean_contributors: float | None = None
    wall_s: float | None = None
    tokens_processed: float | None = None
    tokens_merged: float | None = None
    tokens_pending: float | None = None
    tokens_lost: float | None = None
    lost_by_cause: dict[str, float] | None = None
    ledger: Amounts | None = None
    goodput: float | None = None
    eval_loss_first: float | None = None
    eval_loss: float | None = None
    bytes_up: int | None = None
    bytes_down: int | None = None
    data_parallel_bytes: int | None = None
    data_sha256: str | None = None
    per_learner: tuple[LearnerFigures, ...] = ()
    faults: tuple[FaultFigures, ...] = ()


# ---------------------------------------------------------------- JSON

Note: TypeAlias = FaultNote | Started | Exited | Unfired
Line: TypeAlias = Begin | Event | Round | Sample | Status | Evaluation | Note


class _Head(msgspec.Struct):
    """What tells a line's record. `kind` is the fault's in notes of faults."""

    kind: str = ""
    event: str = ""


_HEAD = msgspec.json.Decoder(_Head)
_KINDS: dict[str, msgspec.json.Decoder[Line]] = {
    "learner": msgspec.json.Decoder(Sample), "round": msgspec.json.Decoder(Round), "status": msgspec.json.Decoder(Status),
}  # fmt: skip
_NOTES: dict[str, msgspec.json.Decoder[Line]] = {
    "strike": msgspec.json.Decoder(FaultNote), "end": msgspec.json.Decoder(FaultNote), "start": msgspec.json.Decoder(Started),
    "exit": msgspec.json.Decoder(Exited), "unfired": msgspec.json.Decoder(Unfired),
}  # fmt: skip
_BEGIN, _EVENT = msgspec.json.Decoder(Begin), msgspec.json.Decoder(Event)
_EVALUATION = msgspec.json.Decoder(Evaluation)


def encode(record: Record) -> bytes:
    """One line, without its end."""
    return msgspec.json.encode(record)


def pretty(record: Record) -> bytes:
    """As a file that people read."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def decode(line: bytes) -> Line | None:
    """The record of a line of any of the three files; None if it is of a kind that a newer release has added. Raises
    ValueError for what is no record."""
    head = _HEAD.decode(line)
    if head.kind == "event":
        return _BEGIN.decode(line) if head.event == "begin" else _EVENT.decode(line)
    if not head.kind and not head.event:
        return _EVALUATION.decode(line)
    decoder = _KINDS.get(head.kind) or _NOTES.get(head.event)
    return None if decoder is None else decoder.decode(line)
