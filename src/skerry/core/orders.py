"""The vocabulary within an island: what LearnerCore is told by its trainer and its driver, and what it orders.

The rules are those of messages.py; what goes to the syncer and comes from it is there.
"""

from __future__ import annotations

from typing import TypeAlias

from skerry.core.messages import Amend, Count, FromLearner, TakeOverRule, ToLearner, message

# ---------------------------------------------------------------- the trainer -> LearnerCore


@message
class Stepped:
    """The trainer stands at a step boundary with these counters (cumulative since the process began). `progress`: the share
    of the run's budget that the step went by (its learning rate followed from it)."""

    count: Count
    progress: float = 0.0


@message
class CopiedOut:
    """The order CopyOut was carried out at the boundary with these counters."""

    fragment: int
    step: int
    count: Count


@message
class Applied:
    """The order TakeOver was carried out at the boundary with these counters."""

    fragment: int
    version: int
    count: Count


@message
class LoopLeft:
    """The trainer has left its loop: no further steps. It goes on carrying out orders until the end."""

    count: Count


# ---------------------------------------------------------------- LearnerDriver -> LearnerCore


@message
class Linked:
    """There is a link to the syncer, on which nothing was said yet."""


@message
class Unlinked:
    """The link is gone."""


@message
class Beat:
    """It is time for a heartbeat."""


@message
class TrainerEnded:
    """There is no trainer any more; these are the raw counters that it published last. Detach follows, at once or when the
    syncer has heard of it."""

    count: Count
    reason: str = ""


@message
class Recovered:
    """To a new agent's core, before anything else: the trainer carried out an earlier agent's TakeOver at the boundary with
    these counters, and nobody was there to hear of it. `until`: the hand-over's counters, for rebase; `step`: the round's."""

    fragment: int
    version: int
    rule: TakeOverRule
    step: int
    until: Count | None
    count: Count


# ---------------------------------------------------------------- LearnerCore -> trainer and agent


@message
class CopyOut:
    """Order: copy the fragment out. `at`: at the boundary with so many steps; 0 = the next one. step -1: the initial value for
    RequestInitial; -2: ahead of the question."""

    fragment: int
    step: int
    at: int = 0


@message
class Encode:
    """Make the body of a contribution of what was just copied out (with these counters), and keep it: Contribution sends it,
    Forget or TakeOver ends its use."""

    fragment: int
    until: Count


@message
class Forget:
    """The fragment's body that was encoded is needed no more: its work is still in the parameters and not settled."""

    fragment: int


@message
class TakeOver:
    """Order: take the delivered version over by this rule, at the boundary with `at` steps (0 = the next one). `included`:
    the learner's own contributions since its base are in it. `until`: what was handed over and is in it, for rebase."""

    fragment: int
    version: int
    rule: TakeOverRule
    included: bool
    step: int
    until: Count | None = None
    at: int = 0


@message
class Go:
    """Order (synchronous policies): the boundary with this many steps may be left. steps 0: training may begin."""

    steps: int


@message
class Drop:
    """A delivered value is not needed (no newer than what is held): its memory is free again. Where the same version was
    delivered twice, the copy that came first is meant."""

    fragment: int
    version: int


@message
class StopLoop:
    """Order: the run's budget is reached; the trainer's loop should end."""


@message
class Detach:
    """Order: nothing more is needed of the trainer, and nothing more is to be said to the syncer."""


@message
class Reject:
    """The syncer will not have this learner, and training has not begun: the trainer raises it as an error."""

    code: str
    reason: str


@message
class Warn:
    """For the learner's user: one line."""

    text: str


FromTrainer: TypeAlias = Stepped | CopiedOut | Applied | LoopLeft
LearnerEvent: TypeAlias = ToLearner | FromTrainer | Linked | Unlinked | Beat | TrainerEnded | Recovered | Amend
Order: TypeAlias = CopyOut | TakeOver | Go | StopLoop | Detach
LearnerAction: TypeAlias = FromLearner | Order | Encode | Forget | Drop | Reject | Warn
