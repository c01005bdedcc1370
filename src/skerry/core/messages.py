"""The one vocabulary: what the cores are told and what they decide.

The same frozen dataclasses are the control messages of the wire, the orders to the training process and the records of
the tape. There is no second set and no translation layer. Rules:

- Counters are cumulative per (learner, generation): a lost message costs nothing, the next one says it all.
- A round is named by (fragment, step it was opened at); a version of a fragment by (fragment, version).
- A message to or from one learner bears its id; one without an id goes to every learner.
- A message that comes twice changes nothing the second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Outcome = Literal["merged", "late", "stale", "refused"]
TakeOverRule = Literal["overwrite", "rebase", "blend", "carry"]
LostCause = Literal["overlap", "excluded", "refused", "died"]
CAUSES: tuple[LostCause, ...] = ("overlap", "excluded", "refused", "died")


class Count(NamedTuple):
    """A learner's cumulative counters at one step boundary, since its generation began."""

    steps: int = 0
    tokens: int = 0
    busy_us: int = 0  # microseconds spent in those steps, the process being neither frozen nor waiting for others

    def minus(self, other: Count) -> Count:
        """What was done since `other`."""
        if other == (0, 0, 0):
            return self
        return Count(self.steps - other.steps, self.tokens - other.tokens, self.busy_us - other.busy_us)


# ---------------------------------------------------------------- learner -> syncer


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """A learner comes, or comes back. It bears the learner's whole state, so whatever was lost with a link is made good.

    `learner` -1: give me a free id. `generation` 0: I am new (a restarted trainer is new); else I go on as that one.
    """

    learner: int = -1
    generation: int = 0
    layout: str  # Layout.hash
    count: Count = Count()
    clock: int = 0
    bases: tuple[int, ...] = ()  # per fragment: version taken over, -1 = none; empty = none of any
    settled: tuple[Count, ...] = ()  # per fragment: the counters from which its progress is not yet handed in


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvideInitial:
    """The initial value of a fragment has arrived from the learner that was asked for it (bulk: the fragment in fp32).
    `flaw`: set by the receiver that screened the body; empty on the wire."""

    learner: int
    generation: int
    fragment: int
    flaw: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counters after a step; also the heartbeat when no step is made."""

    learner: int
    generation: int
    clock: int
    count: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstain:
    """Answer to Ask: no contribution to this round."""

    learner: int
    generation: int
    fragment: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """A hand-over (bulk: v = base - theta in the upward codec), covering the learner's work in (since, until].

    `flaw`: set by the receiver that screened the body ("non-finite values in tensor X"); empty on the wire.
    """

    learner: int
    generation: int
    fragment: int
    step: int
    base: int  # version that v is measured from
    since: Count
    until: Count
    flaw: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A delivery has arrived whole at the learner's agent."""

    learner: int
    generation: int
    fragment: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """The trainer took a value over at a step boundary. What lies between the last settled counters and `settled` and
    was not merged is lost."""

    learner: int
    generation: int
    fragment: int
    version: int
    clock: int
    settled: Count  # from here on the fragment's progress counts for the next hand-over
    count: Count  # the counters at that boundary


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The learner's last word: its counters as they stand in the memory it shares with its agent."""

    learner: int
    generation: int
    count: Count
    reason: str = ""


# ---------------------------------------------------------------- the drivers -> SyncerCore


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The layout is known and version 0 lies ready (from --init): no learner need be asked for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gone:
    """The link to a learner broke. It is dead until it joins again."""

    learner: int
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed: see to what fell due."""


# ---------------------------------------------------------------- syncer -> learner


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Answer to Join. A generation other than the one the learner named: its past is closed, it begins anew at zero
    counters and takes over every fragment (training goes on meanwhile if it has begun)."""

    learner: int
    generation: int
    clock: int
    first_step: int  # steps all earlier generations of this learner made: its batches go on there
    progress: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Answer to Join: no. `code` is one of layout, over, superseded."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInitial:
    """Send the initial value of every fragment: the run begins with your model."""

    learner: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Hand over a fragment at your next step boundary. `final`: the last round of the run. `learner`: -1 = all."""

    learner: int = -1
    fragment: int
    step: int
    progress: float
    final: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a contribution. `merged` is normally said by the delivery itself."""

    learner: int
    generation: int
    fragment: int
    step: int
    verdict: Outcome
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """The round brings no new version; its contributions stay with their learners."""

    fragment: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A version of a fragment (bulk: its value in the downward codec). `merged`: tokens of the receiver's generation up
    to which its contributions are in this value; 0 = none of them."""

    fragment: int
    version: int
    step: int
    merged: int
    progress: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReached:
    """The budget is reached: stop at the next step boundary; a final Ask for every fragment follows. `learner`: -1 = all."""

    learner: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOver:
    """The run is over. For the syncer: evaluate, export, exit 0. For a learner: leave."""


# ---------------------------------------------------------------- SyncerCore -> its driver


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Add the contribution that was just reported to the round's accumulator, weight = tokens^2 / steps."""

    learner: int
    generation: int
    fragment: int
    step: int
    tokens: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Outer step on what the round accumulated; it becomes `version`; deliver it to every learner."""

    fragment: int
    step: int
    version: int
    included: tuple[int, ...]  # learners, in order of arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Deliver the present version of these fragments to one learner."""

    learner: int
    fragments: tuple[int, ...]


# ---------------------------------------------------------------- the trainer -> LearnerCore


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped:
    """The trainer stands at a step boundary with these counters (cumulative since the process began)."""

    count: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedOut:
    """The order CopyOut was carried out at the boundary with these counters."""

    fragment: int
    step: int
    count: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The order TakeOver was carried out at the boundary with these counters."""

    fragment: int
    version: int
    count: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopLeft:
    """The trainer has left its loop: no further steps. It goes on carrying out orders until the end."""

    count: Count


# ---------------------------------------------------------------- LearnerCore -> trainer and agent


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOut:
    """Order: copy the fragment out at the next boundary. step -1: the initial value for Seed; -2: ahead of the question."""

    fragment: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Encode:
    """Make the body of a contribution of what was just copied out (with these counters), and keep it: Contribution sends it."""

    fragment: int
    until: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver:
    """Order: take the delivered version over at the next boundary by this rule."""

    fragment: int
    version: int
    rule: TakeOverRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """Order (synchronous policies): the boundary with this many steps may be left. steps 0: training may begin."""

    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A delivered value is not needed (no newer than what is held): its memory is free again. Where the same version was
    delivered twice, the copy that came first is meant."""

    fragment: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StopLoop:
    """Order: the run's budget is reached; the trainer's loop should end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warn:
    """For the learner's user: one line."""

    text: str


FromLearner: TypeAlias = Join | ProvideInitial | Report | Abstain | Contribution | Received | TakenOver | Leave
ToLearner: TypeAlias = Welcome | Refused | RequestInitial | Ask | Verdict | Cancel | Delivery | BudgetReached | RunOver
SyncerEvent: TypeAlias = FromLearner | Start | Gone | Tick
SyncerAction: TypeAlias = ToLearner | Merge | Close | Deliver
FromTrainer: TypeAlias = Stepped | CopiedOut | Applied | LoopLeft
LearnerEvent: TypeAlias = ToLearner | FromTrainer
LearnerAction: TypeAlias = FromLearner | CopyOut | Encode | TakeOver | Go | Drop | StopLoop | Warn | RunOver
