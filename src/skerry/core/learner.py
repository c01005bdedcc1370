"""LearnerCore: every decision of a learner's agent. Events from the trainer, the syncer and the driver in, orders and messages
out.

Here is what concerns all fragments: joining, room for copies, the clock and its jumps, progress, the end. What is under way for
one of them is in fragment.py, what only synchronous policies do in pacing.py.

Rules: nothing here waits, except that in synchronous policies a boundary is left only with `Go`. What must outlive the agent
stands in LearnerMemory; everything else may be forgotten at any moment without harm to the ledger. A new agent's core is told
first what is Recovered, then (Stepped) where the trainer stands.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skerry.core.ahead import Ahead
from skerry.core.fragment import AT_ONCE, COPYING, DUE, IDLE, INITIAL, UNASKED, Fragment, Tally
from skerry.core.layout import Layout
from skerry.core.memory import LearnerMemory
from skerry.core.messages import (
    Amend,
    Ask,
    BudgetReached,
    Cancel,
    Contribution,
    Count,
    Delivery,
    Farewell,
    Join,
    ProvideInitial,
    Quarantined,
    Refused,
    RequestInitial,
    RunOver,
    Verdict,
    Welcome,
)
from skerry.core.orders import (
    Applied,
    Beat,
    CopiedOut,
    CopyOut,
    Detach,
    Drop,
    Go,
    LearnerAction,
    LearnerEvent,
    Linked,
    LoopLeft,
    Recovered,
    Reject,
    Stepped,
    StopLoop,
    TrainerEnded,
    Unlinked,
    Warn,
)
from skerry.core.pacing import Pacing
from skerry.core.policy import Policy


class LearnerCore:
    """One learner's state machine. `memory` is kept true at every moment; give the same one to the next agent. Everything
    that is public besides `handle` is to be read only."""

    __slots__ = ("_ahead", "_detached", "_early", "_finishing", "_join", "_leaves", "_leaves_at", "_left", "_looks_ahead",
                 "_lost_at", "_now", "_pacing", "_quarantined", "_run_steps", "_slots", "_tally", "_told",
                 "_welcomed", "begun", "count", "fragments", "joined", "layout", "memory", "policy", "progress")  # fmt: skip

    def __init__(self, policy: Policy, layout: Layout, memory: LearnerMemory, count: Count = Count()) -> None:
        """`count`: the trainer's raw counters, as far as a new agent knows them."""
        self.policy = policy
        self.layout = layout
        self.memory = memory
        self.count = count
        self.progress = 0.0
        self.begun = memory.generation > 0 and min(memory.base) >= 0  # training has been let go
        self.joined = False
        self._ahead, self._tally = Ahead(policy.fragments), Tally()
        self.fragments = [Fragment(p, policy, memory, self._tally, self._ahead) for p in range(policy.fragments)]
        self._pacing = Pacing(policy, self.fragments, self._tally, self.clock) if policy.synchronous else None
        self._slots = policy.slots
        self._go_by(policy)
        self._finishing = False
        self._quarantined = False
        self._welcomed = False  # the run has said how far it is
        self._left = False  # the trainer has left its loop
        self._leaves: str | None = None  # why it leaves the run for good, from the time on
        self._leaves_at = 0.0
        self._detached = False
        self._told = Count()  # the raw counters that the last Join bore
        self._join: Join | None = None  # the last one
        self._early: list[Delivery] = []  # came before the Welcome, which travels on another connection
        self._now = 0.0
        self._lost_at: float | None = None  # when it was last joined; None: never lost yet

    def _go_by(self, policy: Policy) -> None:
        # The run is as far as its K-th learner. 0: whether this one is that cannot be said
        self._run_steps = policy.steps if policy.synchronous or policy.quorum == 1 else 0
        self._looks_ahead = policy.grace > 0 and not policy.synchronous  # without grace being late is nothing to be mended

    def handle(self, now: float, event: LearnerEvent) -> list[LearnerAction]:
        """What follows from the event. `now`: seconds, never falling."""
        self._now = now
        if self._leaves is not None and type(event) not in _TO_THE_LAST:
            return []
        out = _HANDLERS[type(event)](self, event)
        if self._pacing is not None and self.begun:
            self._pacing.let_go(self.clock, out)
        return out

    @property
    def clock(self) -> int:
        """t_m."""
        return self.count.steps + self.memory.shift

    @property
    def handed(self) -> list[Contribution]:
        """Hand-overs without an answer, in the order in which they were begun."""
        return [message for _, message in sorted((f.turn, f.message) for f in self.fragments if f.message is not None)]

    @property
    def _pace(self) -> int:
        return AT_ONCE if self._pacing is None else self._pacing.pace(self.clock)

    @property
    def _takes_part(self) -> bool:
        """Whether the syncer waits for what it has to say."""
        return self.joined and not self._quarantined

    def _saw(self, progress: float) -> None:
        """The run's. It falls at a Welcome only: whoever calls this often has looked for that himself."""
        if progress > self.progress:
            self.progress = progress if progress < 1.0 else 1.0

    # ------------------------------------------------------------------ the link

    def _linked(self, event: Linked) -> list[LearnerAction]:
        if self._detached:
            return []
        self._told, holds = self.count, [fragment.holds for fragment in self.fragments]
        self._join = self.memory.join(self.layout.hash, self.count, holds, self._leaves is not None)
        return [self._join]

    def _unlinked(self, event: Unlinked) -> list[LearnerAction]:
        """Until the next Welcome nothing is sent. What was delivered stays."""
        if self.joined:
            self.joined, self._lost_at = False, self._now
            if self._pacing is not None:
                self._pacing.lost_link(self.clock)
        early, self._early = self._early, []
        return [Drop(fragment=delivery.fragment, version=delivery.version) for delivery in early]

    def _welcome(self, event: Welcome) -> list[LearnerAction]:
        if self._detached:
            return []
        memory, self.joined, self._quarantined = self.memory, True, False
        self._welcomed, self.progress = True, min(event.progress, 1.0)
        anew = (event.learner, event.generation) != (memory.learner, memory.generation)
        memory.learner, memory.epoch = event.learner, event.epoch
        out: list[LearnerAction]
        out = self._begin_anew(event) if anew else [*memory.taken_since(self._join, self.clock, self.count), *self.handed]
        if self._pacing is not None and not anew:
            self._pacing.came_back(self.clock, out)
        if self._leaves is None and self._finishing and event.progress < 1.0:
            out.append(Warn(text="the run's budget was raised after this learner had stopped: start it again to train on"))
            self._leaves, self._leaves_at = "its loop had ended before the budget was raised", self._now
        if self._leaves is not None:
            out.append(memory.leave(self.count, self._leaves))
        early, self._early = self._early, []
        for delivery in early:
            out += self._delivery(delivery)
        return out

    def _begin_anew(self, event: Welcome) -> list[LearnerAction]:
        """A new generation: every fragment will be delivered."""
        memory = self.memory
        memory.generation = event.generation
        memory.origin = self._told  # what was done since is the new generation's
        memory.shift = event.clock - self.count.steps
        return [action for fragment in self.fragments for action in fragment.begin_anew()]

    def _refused(self, event: Refused) -> list[LearnerAction]:
        """An unwilling syncer ends it only before training has begun; later, training goes on and so do the attempts."""
        if event.code == "over":
            return self._detach("the run is over")
        if self._leaves is not None:
            return self._detach()
        if self.begun or self.count.steps or self._left:
            return [Warn(text=f"the syncer refused this learner ({event.code}): {event.reason}")]
        self._detached = True
        return [Reject(code=event.code, reason=event.reason)]

    def _provide(self, event: RequestInitial) -> list[LearnerAction]:
        return [CopyOut(fragment=p, step=INITIAL) for p in range(self.policy.fragments)]

    def _beat(self, event: Beat) -> list[LearnerAction]:
        """The counters, so that nobody takes silence for death. The end is not waited for without a syncer."""
        if self.joined and self._leaves is None:
            return [self.memory.report(self.count)]
        if self._lost_at is None:
            self._lost_at = self._now
        if self._leaves is not None and self._now - self._leaves_at > self.policy.final_timeout:
            return self._detach()
        if self._left and self._now - self._lost_at > self.policy.final_timeout:
            return self._detach("the syncer cannot be reached for the last round; leaving without it")
        return []

    # ------------------------------------------------------------------ steps

    def _stepped(self, event: Stepped) -> list[LearnerAction]:
        count = self.count = event.count
        if event.progress > self.progress and not self._welcomed:  # an earlier agent heard it
            self._saw(event.progress)
        if self._run_steps:
            share = (count.steps + self.memory.shift) / self._run_steps
            if share > self.progress:
                self._saw(share)
        out: list[LearnerAction] = [self.memory.report(self.count)] if self.joined else []
        if self._pacing is not None:
            self._pacing.stepped(count.steps, self.clock, self._takes_part, out)
            return out
        if self.begun and not count.steps:  # it stands before its first step: an earlier agent may have died before it said so
            out.append(Go(steps=0))
        if self.count.steps + 1 >= self._ahead.soonest:
            self._copy_ahead(out)
        return out

    def _loop_left(self, event: LoopLeft) -> list[LearnerAction]:
        self.count = event.count
        self._left = True
        return [self.memory.report(self.count)] if self.joined else []

    def _copy_ahead(self, out: list[LearnerAction]) -> None:
        """Order what is to be copied out at the next boundary, though nobody has asked for it yet."""
        if not self._looks_ahead or not self.joined or self._finishing or self._quarantined:
            return
        for p in self._ahead.due(self.count.steps + 1):
            if self.fragments[p].state is IDLE and self._has_room():
                out += self.fragments[p].copy_out(DUE, UNASKED)

    def _has_room(self) -> bool:
        """For another copy. Who is asked for more in a step than it has slots says so at once: in a queue all would be late."""
        return self._tally.of[COPYING.number] < self._slots

    # ------------------------------------------------------------------ hand-over and take-over

    def _ask(self, event: Ask) -> list[LearnerAction]:
        if event.progress > self.progress:
            self._saw(event.progress)
        if self._quarantined:
            return []
        fragment = self.fragments[event.fragment]
        if event.final:
            return fragment.asked_last(event.step, self._pace)
        return fragment.asked(event.step, self.count, self._has_room())

    def _copied_out(self, event: CopiedOut) -> list[LearnerAction]:
        if event.count > self.count:
            self.count = event.count
        if event.step == INITIAL:
            memory = self.memory
            provided = ProvideInitial(learner=memory.learner, generation=memory.generation, fragment=event.fragment)
            return [provided] if self.joined else []  # it is requested anew
        out = self.fragments[event.fragment].copied(event, AT_ONCE if self._pacing is None else self._pace)
        if not self.joined:  # the next Welcome sends it
            out = [action for action in out if type(action) is not Contribution]
        return out

    def _verdict(self, event: Verdict) -> list[LearnerAction]:
        out: list[LearnerAction] = []
        if event.verdict == "refused":
            out.append(Warn(text=f"fragment {event.fragment} was refused: {event.reason}"))
        if event.verdict != "merged":  # that is said by the delivery
            out += self.fragments[event.fragment].answered(event.step, event.verdict, self._pace)
        return out

    def _cancel(self, event: Cancel) -> list[LearnerAction]:
        return self.fragments[event.fragment].answered(event.step, None, self._pace)

    def _delivery(self, event: Delivery) -> list[LearnerAction]:
        if not self.joined:
            self._early.append(event)
            return []
        if self._leaves is not None:
            return [Drop(fragment=event.fragment, version=event.version)]
        if event.progress > self.progress:
            self._saw(event.progress)
        fragment = self.fragments[event.fragment]
        first = fragment.delivery is None
        out = fragment.delivered(event, AT_ONCE if self._pacing is None else self._pace)
        if self._pacing is not None and fragment.delivery is not None:
            self._pacing.delivered(fragment, first)
        return out

    def _applied(self, event: Applied) -> list[LearnerAction]:
        memory, p = self.memory, event.fragment
        if event.count > self.count:
            self.count = event.count
        old, fragment = self.count.steps + memory.shift, self.fragments[p]
        out: list[LearnerAction] = []
        order = fragment.applied(event)
        if order is not None:
            clock = self._catch_up(order.step, event.count)
            if self.joined:  # if it is between its Join and the Welcome, that one makes it good
                out.append(memory.taken_over(p, order.version, clock, event.count))
            if self._pacing is not None and clock > old:
                self._pacing.jumped(old, clock, self._takes_part, out)
        fragment.settle(out, AT_ONCE if self._pacing is None else self._pace)
        if self.count.steps + 1 >= self._ahead.soonest:
            self._copy_ahead(out)
        return out if self.begun else self._begin(out)

    def _recovered(self, event: Recovered) -> list[LearnerAction]:
        self.count = max(self.count, event.count)
        self.fragments[event.fragment].recovered(event)
        self._catch_up(event.step, event.count)
        return self._begin([])

    def _catch_up(self, step: int, count: Count) -> int:
        """The clock of who takes over a round's value is that round's step, at least. Returns it."""
        memory = self.memory
        if step - count.steps > memory.shift:
            memory.shift = step - count.steps
        return self.count.steps + memory.shift

    def _begin(self, out: list[LearnerAction]) -> list[LearnerAction]:
        """Let training begin, once every fragment is there."""
        if not self.begun and min(self.memory.base) >= 0:
            self.begun = True
            if self._pacing is not None:
                self._pacing.boundary = None
            out.append(Go(steps=self.count.steps))
        return out

    # ------------------------------------------------------------------ the end

    def _finish(self, event: BudgetReached) -> list[LearnerAction]:
        if self._finishing:
            return []
        self._finishing = True
        self.progress = 1.0
        out: list[LearnerAction] = [StopLoop()]
        if self._pacing is not None:
            self._pacing.over = True
            self._pacing.take_over(self.clock, out)
        return out

    def _run_over(self, event: RunOver) -> list[LearnerAction]:
        return self._detach()

    def _quarantine(self, event: Quarantined) -> list[LearnerAction]:
        self._quarantined = bool(event.reason)
        if not event.reason:
            return [Warn(text="quarantine is over: the run asks for this learner's work again")]
        return [Warn(text=f"quarantined by the run, which asks for none of this learner's work any more: {event.reason}")]

    def _amend(self, event: Amend) -> list[LearnerAction]:
        assert not self.policy.differences(event.policy), "these cannot change while a run lives"
        self.policy = event.policy
        self._go_by(event.policy)
        return []

    def _farewell(self, event: Farewell) -> list[LearnerAction]:
        return self._detach() if self._leaves is not None else []

    def _detach(self, why: str = "") -> list[LearnerAction]:
        """Let the trainer go, and say nothing more; once."""
        if self._detached:
            return []
        self._detached = self._finishing = True
        self.joined = False
        if self._pacing is not None:
            self._pacing.over = True
        return [Warn(text=why), Detach()] if why else [Detach()]

    def _leave(self, event: TrainerEnded) -> list[LearnerAction]:
        """The last word is said now, or when there is a link again, until it is known that it was heard."""
        if event.count > self.count:
            self.count = event.count
        self._leaves, self._leaves_at = event.reason, self._now
        if self._detached or not self.memory.generation:
            return self._detach()
        return [self.memory.leave(self.count, event.reason)] if self.joined else []


_HANDLERS: dict[type, Callable[[LearnerCore, Any], list[LearnerAction]]] = {
    Stepped: LearnerCore._stepped, CopiedOut: LearnerCore._copied_out, Applied: LearnerCore._applied,
    LoopLeft: LearnerCore._loop_left, Welcome: LearnerCore._welcome, Refused: LearnerCore._refused,
    RequestInitial: LearnerCore._provide, Ask: LearnerCore._ask, Verdict: LearnerCore._verdict, Cancel: LearnerCore._cancel,
    Delivery: LearnerCore._delivery, BudgetReached: LearnerCore._finish, RunOver: LearnerCore._run_over,
    Linked: LearnerCore._linked, Unlinked: LearnerCore._unlinked, Beat: LearnerCore._beat, TrainerEnded: LearnerCore._leave,
    Recovered: LearnerCore._recovered, Farewell: LearnerCore._farewell, Quarantined: LearnerCore._quarantine,
    Amend: LearnerCore._amend,
}  # fmt: skip
"""One table for all: of a thousand learners' own tables, none would ever be found in the processor's cache."""

_TO_THE_LAST = frozenset({Welcome, Refused, RunOver, Farewell, Delivery, Linked, Unlinked, Beat, Amend, TrainerEnded})
"""What a core hears that has its last word to say."""
