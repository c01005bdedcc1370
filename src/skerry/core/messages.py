"""The one vocabulary: what the cores are told and what they decide.

The same dataclasses, frozen to every type checker, are the control messages of the wire, the orders to the training process
and the records of the tape. There is no second set and no translation layer. Rules:

- Counters are cumulative per (learner, generation): a lost message costs nothing, the next one says it all.
- A round is named by (fragment, step it was opened at); a version of a fragment by (fragment, version).
- A body that goes up is named (learner, generation, fragment, step): a Contribution names its own, Merge the one that it means.
  One that goes down is named (fragment, version).
- A message to or from one learner bears its id; one without an id, or with -1, goes to every learner.
- A message that comes twice changes nothing the second time.
"""

from __future__ import annotations

from typing import TypeAlias

from skerry.core.policy import Policy
from skerry.core.terms import CAUSES as CAUSES
from skerry.core.terms import INITIAL as INITIAL
from skerry.core.terms import BodyName as BodyName
from skerry.core.terms import Contributor as Contributor
from skerry.core.terms import Count as Count
from skerry.core.terms import LostCause as LostCause
from skerry.core.terms import Outcome as Outcome
from skerry.core.terms import TakeOverRule as TakeOverRule
from skerry.core.terms import message as message

# ---------------------------------------------------------------- learner -> syncer


@message
class Join:
    """A learner comes, or comes back. It bears the learner's whole state, so whatever was lost with a link is made good.

    `learner` -1: give me a free id. `generation` 0: I am new (a restarted trainer is new); else I go on as that one. `epoch`:
    the last start of the syncer that it heard of; 0 = none.
    """

    learner: int = -1
    generation: int = 0
    layout: str  # Layout.hash
    count: Count = Count()
    clock: int = 0
    bases: tuple[int, ...] = ()  # per fragment: version taken over, -1 = none; empty = none of any
    settled: tuple[Count, ...] = ()  # per fragment: the counters from which its progress is not yet handed in
    epoch: int = 0
    holds: tuple[int, ...] = ()  # per fragment: the newest version that it stands on, or that lies ready for its trainer
    leaving: bool = False  # its trainer has died, and nothing but Leave is to come


@message
class ProvideInitial:
    """The initial value of a fragment has arrived from the learner that was asked for it (bulk: the fragment in fp32).
    `flaw`: set by the receiver that screened the body; empty on the wire."""

    learner: int
    generation: int
    fragment: int
    flaw: str = ""

    @property
    def name(self) -> BodyName:
        """Of the body."""
        return BodyName(self.learner, self.generation, self.fragment, INITIAL)


@message
class Report:
    """Counters after a step; also the heartbeat when no step is made."""

    learner: int
    generation: int
    clock: int
    count: Count


@message
class Abstain:
    """Answer to Ask: no contribution to this round."""

    learner: int
    generation: int
    fragment: int
    step: int


@message
class Contribution:
    """A hand-over (bulk: v = base - theta in the upward codec), covering the learner's work in (since, until].

    `flaw` ("non-finite values in tensor X") and `norms` (one for each of the fragment's pieces): set by the receiver that
    screened the body; empty on the wire.
    """

    learner: int
    generation: int
    fragment: int
    step: int
    base: int  # version that v is measured from
    since: Count
    until: Count
    flaw: str = ""
    norms: tuple[float, ...] = ()

    @property
    def name(self) -> BodyName:
        """Of the body."""
        return BodyName(self.learner, self.generation, self.fragment, self.step)


@message
class Received:
    """A delivery has arrived whole at the learner's agent."""

    learner: int
    generation: int
    fragment: int
    version: int


@message
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


@message
class Leave:
    """The learner's last word: its counters as they stand in the memory it shares with its agent."""

    learner: int
    generation: int
    count: Count
    reason: str = ""


# ---------------------------------------------------------------- SyncerDriver -> SyncerCore


@message
class Start:
    """The layout is known and version 0 lies ready (from --init): no learner need be asked for it."""


@message
class Gone:
    """The link to a learner broke. It is dead until it joins again."""

    learner: int
    generation: int


@message
class Published:
    """The value of a version that was closed lies in the store: from now on the version exists."""

    fragment: int
    version: int


@message
class Failed:
    """The round that was closed came to no value, and the one before it stands: the round is cancelled after all."""

    fragment: int
    step: int
    why: str


@message
class Restarted:
    """The syncer was restored from what it had saved: every link is gone, and what lay in open or closing rounds, too. A new
    epoch begins. `epoch`: at least this number, where what was restored may be older than a start that learners have seen."""

    epoch: int = 0


@message
class Amend:
    """The run's policy from now on; it differs in no more than Policy.amendable. Both cores are told."""

    policy: Policy


@message
class Readmit:
    """The operator lets a quarantined learner in again."""

    learner: int


@message
class Tick:
    """Time has passed: see to what fell due."""


# ---------------------------------------------------------------- syncer -> learner


@message
class Welcome:
    """Answer to Join. A generation other than the one the learner named: its past is closed, it begins anew at zero
    counters and takes over every fragment (training goes on meanwhile if it has begun). `epoch`: the number of the syncer's
    start."""

    learner: int
    generation: int
    clock: int
    first_step: int  # steps all earlier generations of this learner made: its batches go on there
    progress: float  # the run's, even if the learner knew of more
    epoch: int = 0


@message
class Refused:
    """Answer to Join: no. `code` is one of layout, over, superseded."""

    code: str
    reason: str


@message
class RequestInitial:
    """Send the initial value of every fragment: the run begins with your model."""

    learner: int


@message
class Ask:
    """Hand over a fragment at your next step boundary. `final`: the last round of the run. `learner`: -1 = all."""

    learner: int = -1
    fragment: int
    step: int
    progress: float
    final: bool = False


@message
class Verdict:
    """What became of a contribution. `merged` is normally said by the delivery itself."""

    learner: int
    generation: int
    fragment: int
    step: int
    verdict: Outcome
    reason: str = ""


@message
class Cancel:
    """The round brings no new version; its contributions stay with their learners. `learner`: -1 = all; or who came back with a
    contribution to a round that a restart of the syncer ended."""

    learner: int = -1
    fragment: int
    step: int


@message
class Delivery:
    """A version of a fragment (bulk: its value in the downward codec). `merged`: tokens of the receiver's generation up
    to which its contributions are in this value; 0 = none of them."""

    fragment: int
    version: int
    step: int
    merged: int
    progress: float


@message
class BudgetReached:
    """The budget is reached: stop at the next step boundary; a final Ask for every fragment follows. `learner`: -1 = all."""

    learner: int = -1


@message
class Farewell:
    """Answer to Leave: it was heard, and nothing more is wanted."""

    learner: int
    generation: int


@message
class Quarantined:
    """Too many of the learner's contributions in a row were refused: it may train on, and is asked for nothing more until it is
    a new generation or let in again. `reason`: the last refusal's; empty: it is let in again."""

    learner: int
    generation: int
    reason: str


@message
class RunOver:
    """The run is over. For the syncer: evaluate, export, exit 0. For a learner: leave."""


# ---------------------------------------------------------------- SyncerCore -> its driver


@message
class Merge:
    """Add the body of that name to the accumulator of its round (fragment, step), with that weight."""

    learner: int
    generation: int
    fragment: int
    step: int
    tokens: int
    steps: int
    weight: float

    @property
    def name(self) -> BodyName:
        """Of the body."""
        return BodyName(self.learner, self.generation, self.fragment, self.step)


@message
class Close:
    """Outer step on what the round accumulated; it is to become `version`. Published or Failed tells what became of it."""

    fragment: int
    step: int
    version: int
    included: tuple[Contributor, ...]  # in order of arrival


@message
class Distribute:
    """The version exists: deliver it to every learner. What each Delivery says of its receiver's work follows from
    `included`, the round's contributors in order of arrival."""

    fragment: int
    version: int
    step: int
    included: tuple[Contributor, ...]


@message
class Deliver:
    """Deliver the present version of these fragments to one learner."""

    learner: int
    fragments: tuple[int, ...]


FromLearner: TypeAlias = Join | ProvideInitial | Report | Abstain | Contribution | Received | TakenOver | Leave
ToLearner: TypeAlias = (
    Welcome | Refused | RequestInitial | Ask | Verdict | Cancel | Delivery | BudgetReached | Farewell | Quarantined | RunOver
)
SyncerEvent: TypeAlias = FromLearner | Start | Gone | Published | Failed | Restarted | Amend | Readmit | Tick
SyncerAction: TypeAlias = ToLearner | Merge | Close | Distribute | Deliver
