"""One fragment at a learner: what is under way for it, as data.

TABLE says how its state may change, and nothing else changes it; docs/states.md is made from it. What does not depend on the
state, or outlives it, stands in fields: a value that waits, a refusal, the last round's question.

Rules: at most one hand-over of a fragment is open, and at most one order is with the trainer; a delivery that does not settle
the hand-over waits for its answer. Whether a delivery includes the learner's work is said by its `merged` count alone, so the
rule survives lost messages and a lost agent. When a new generation begins, an order of the old one is void: deliveries wait for
its end. What the table does not list is an AssertionError if it is our own or our trainer's, and old news if it is the
network's. Orders are for the next boundary (`at` 0): an island has one rank.
"""

from __future__ import annotations

import sys
from enum import Enum

from skerry.core.ahead import Ahead
from skerry.core.maker import maker
from skerry.core.memory import LearnerMemory
from skerry.core.messages import Abstain, Contribution, Count, Delivery, Outcome, Received, TakeOverRule
from skerry.core.orders import Applied, CopiedOut, CopyOut, Drop, Encode, Forget, LearnerAction, Recovered, TakeOver
from skerry.core.policy import Policy

INITIAL = -1  # the step of a CopyOut whose copy is the run's first model
UNASKED = -2  # and of one that no question has asked for yet
AT_ONCE = sys.maxsize  # the pace of a learner that takes over whatever lies ready


make_copy_out = maker(CopyOut)
make_encode = maker(Encode)
make_contribution = maker(Contribution)
make_received = maker(Received)
make_take_over = maker(TakeOver)

class State(Enum):
    """What is under way."""

    NO_BASE = "no value was taken over in this generation"
    IDLE = "there is a base, and nothing is under way"
    COPYING = "the trainer is to copy it out"
    AHEAD = "it is copied out, and nobody has asked for it yet"
    HANDED = "it is handed over, and not answered yet"
    ORDERED = "the trainer is to take a value over"
    VOID = "no base; the trainer still has an order of an earlier generation"
    __hash__ = object.__hash__  # it is looked up with every event, and an enum's own hash is slow

    def __init__(self, _: str) -> None:
        self.number = len(type(self).__members__)  # its place in a list


class Input(Enum):
    """What changes the state."""

    ASKED = "an Ask that a copy made at the next boundary, or ahead, answers"
    AFRESH = "an Ask that no copy made ahead answers: the last round's, or more than tau steps after it"
    DUE = "a copy falls due: ahead of the question, or (synchronous) by the step itself"
    DELIVERED = "a Delivery that may be taken over"
    ANSWERED = "a Verdict late, stale or refused, or the Cancel, of its question"
    ANEW = "a Welcome to another generation"
    COPIED = "CopiedOut"
    NOTHING = "CopiedOut, and nothing was done since the base"
    APPLIED = "Applied"
    RECOVERED = "Recovered"
    __hash__ = object.__hash__


NO_BASE, IDLE, COPYING, AHEAD, HANDED, ORDERED, VOID = State  # to look them up by their class takes ten times as long
ASKED, AFRESH, DUE, DELIVERED, ANSWERED, ANEW, COPIED, NOTHING, APPLIED, RECOVERED = Input

OWN = frozenset({DUE, COPIED, NOTHING, APPLIED, RECOVERED})  # the others are the network's

TABLE: dict[State, dict[Input, State]] = {
    NO_BASE: {DELIVERED: ORDERED, ANEW: NO_BASE, RECOVERED: IDLE},
    IDLE: {ASKED: COPYING, AFRESH: COPYING, DUE: COPYING, DELIVERED: ORDERED, ANEW: NO_BASE, RECOVERED: IDLE},
    COPYING: {ASKED: COPYING,  # made ahead: now it is for a question
              ANEW: VOID, NOTHING: IDLE, COPIED: AHEAD},  # and, if there is a question, ASKED at once
    AHEAD: {ASKED: HANDED, AFRESH: COPYING, DELIVERED: ORDERED, ANEW: NO_BASE},
    HANDED: {ANSWERED: IDLE, DELIVERED: ORDERED, ANEW: NO_BASE},
    ORDERED: {APPLIED: IDLE, ANEW: VOID},
    VOID: {COPIED: NO_BASE, NOTHING: NO_BASE, APPLIED: NO_BASE, ANEW: VOID},
}  # fmt: skip


class Tally:
    """What a learner's fragments count together: how many are in which state, and the hand-overs that were begun."""

    __slots__ = ("begun", "of")

    def __init__(self) -> None:
        self.of = [0] * len(State)  # by the state's number: of a list there is less to fetch than of a dictionary
        self.begun = 0


class Fragment:
    """One fragment's business. Its base and its settled counters stand in the learner's memory. `pace` in its methods: the
    learner's clock if values are taken over at their step (synchronous policies), else AT_ONCE."""

    __slots__ = ("_abstained", "_ahead", "_last", "_last_heard", "_memory", "_order", "_policy", "_refused", "_tally",
                 "delivery", "index", "message", "question", "state", "taken_step", "turn", "until")  # fmt: skip

    def __init__(self, index: int, policy: Policy, memory: LearnerMemory, tally: Tally, ahead: Ahead) -> None:
        self.index = index
        self.state = IDLE if memory.base[index] >= 0 else NO_BASE
        self.question = UNASKED  # the step of the question that is being answered
        self.until: Count | None = None  # the counters of what is copied out
        self.message: Contribution | None = None  # what is handed over
        self.turn = 0  # among all fragments' hand-overs
        self.delivery: Delivery | None = None  # a value that waits
        self.taken_step = -1  # the round's step of the value that is the base
        self._order: CopyOut | TakeOver | None = None  # what the trainer was told last
        self._refused = False  # the work since the base must be overwritten
        self._last = -1  # the last round's question, as long as it waits for the present business to end
        self._last_heard = -1  # and when it was heard already
        self._abstained = -1  # the question that was abstained from last
        self._policy, self._memory, self._tally, self._ahead = policy, memory, tally, ahead
        tally.of[self.state.number] += 1

    def _moved(self, given: Input) -> bool:
        """Go on into the state that the table names; False: old news."""
        after = TABLE[self.state].get(given)
        if after is None:
            assert given not in OWN, f"fragment {self.index}: {given.value!r} while {self.state.value!r}"
            return False
        counts = self._tally.of
        counts[self.state.number] -= 1
        counts[after.number] += 1
        self.state = after
        return True

    @property
    def holds(self) -> int:
        """The newest version that is its base, or may become it."""
        ordered = self._order.version if self.state is ORDERED and isinstance(self._order, TakeOver) else -1
        return max(self._memory.base[self.index], ordered, -1 if self.delivery is None else self.delivery.version)

    # ------------------------------------------------------------------ hand-over

    def asked(self, step: int, count: Count, room: bool) -> list[LearnerAction]:
        """A question of a round. `count`: the trainer's raw counters; `room`: there is some for another copy."""
        if step == self.question:
            return []
        self._ahead.asked(self.index, count.steps)
        state, given, made = self.state, ASKED, self.until
        if state is AHEAD and made and count.steps - self._memory.origin.steps - made.steps > self._policy.overlap:
            given = AFRESH  # what was done since would be lost
        if given not in TABLE[state] or (state is COPYING and self.question != UNASKED):
            return [self.abstain(step)]
        if state is not IDLE and given is ASKED:
            self.question = step
            if state is AHEAD:
                return [self._hand_in()]
            self._moved(given)
            return []
        if room:
            return self.copy_out(given, step)
        self._ahead.late(self.index)
        return [self.abstain(step)]

    def asked_last(self, step: int, pace: int) -> list[LearnerAction]:
        """The last round's question: answered when nothing else is under way. Heard again, it changes nothing, but the word
        that there is nothing may have been lost with its link."""
        if step == self._last_heard:
            return [self.abstain(step)] if step == self._abstained else []
        self._last_heard = self._last = step
        return self.settle([], pace)

    def copy_out(self, why: Input, step: int) -> list[LearnerAction]:
        """Order a copy for the question of that step, UNASKED for one that is still to come."""
        if self.state is IDLE:
            self._tally.begun = self.turn = self._tally.begun + 1
        self._moved(why)
        out: list[LearnerAction] = [] if self.until is None else self._forget()
        self.question = step
        self._order = order = make_copy_out(fragment=self.index, step=step)
        out.append(order)
        return out

    def copied(self, event: CopiedOut, pace: int) -> list[LearnerAction]:
        """The trainer has copied it out."""
        p, memory = self.index, self._memory
        out: list[LearnerAction] = []
        void, order, until = self.state is VOID, self._order, event.count.minus(memory.origin)
        nothing = until.tokens <= memory.settled[p].tokens
        self._moved(NOTHING if nothing else COPIED)
        if void:
            return self.settle(out, pace)
        assert isinstance(order, CopyOut) and order.step == event.step, "it was told to copy out for another step"
        if not nothing:
            self.until = until
            out.append(make_encode(fragment=p, until=until))
        if self.question != UNASKED:
            out.append(self.abstain(self.question) if nothing else self._hand_in())
            self.question = UNASKED if nothing else self.question
        return self.settle(out, pace) if self.delivery is not None or self._last >= 0 else out

    def _hand_in(self) -> Contribution:
        self._moved(ASKED)
        p, memory = self.index, self._memory
        assert self.until is not None
        self.message = make_contribution(learner=memory.learner, generation=memory.generation, fragment=p, step=self.question,
                                         base=memory.base[p], since=memory.settled[p], until=self.until)  # fmt: skip
        return self.message

    def abstain(self, step: int) -> Abstain:
        """There is nothing for that round."""
        self._abstained = step
        return Abstain(learner=self._memory.learner, generation=self._memory.generation, fragment=self.index, step=step)

    def answered(self, step: int, verdict: Outcome | None, pace: int) -> list[LearnerAction]:
        """What was handed over for that step is in no version, and none is to come of it; no verdict: a Cancel."""
        if step != self.question or not self._moved(ANSWERED):
            return []
        if verdict == "refused":
            self._refused = True
        elif verdict == "late":
            self._ahead.late(self.index)
        return self.settle(self._forget(), pace)

    def _forget(self) -> list[LearnerAction]:
        """The hand-over, if there is one, is over without a take-over."""
        out: list[LearnerAction] = [] if self.until is None else [Forget(fragment=self.index)]
        self.question, self.until, self.message = UNASKED, None, None
        return out

    # ------------------------------------------------------------------ take-over

    def delivered(self, event: Delivery, pace: int) -> list[LearnerAction]:
        """A value has come."""
        p, held, memory, newest = self.index, self.delivery, self._memory, self._memory.base[self.index]
        if self._refused and event.version == newest:
            newest -= 1  # the same one once more, to be rid of what was refused
        if self.state is ORDERED:
            assert isinstance(self._order, TakeOver)
            newest = max(newest, self._order.version)
        if event.version <= newest or (held is not None and event.version <= held.version):
            return [Drop(fragment=p, version=event.version)]
        out: list[LearnerAction] = []
        if held is not None:
            out.append(Drop(fragment=p, version=held.version))
        self.delivery = event
        out.append(make_received(learner=memory.learner, generation=memory.generation, fragment=p, version=event.version))
        return self.settle(out, pace)

    def settle(self, out: list[LearnerAction], pace: int) -> list[LearnerAction]:
        """Add what can be done now: what waits may be taken over, then the last question answered."""
        if self.delivery is not None and not self._took(self.delivery, out, pace):
            return out
        if self._last >= 0 and (self.state is NO_BASE or AFRESH in TABLE[self.state]):
            step, self._last = self._last, -1
            out += [self.abstain(step)] if self.state is NO_BASE else self.copy_out(AFRESH, step)
        return out

    def _took(self, delivery: Delivery, out: list[LearnerAction], pace: int) -> bool:
        p = self.index
        if DELIVERED not in TABLE[self.state] or not (pace == AT_ONCE or self._due(delivery, pace)):
            return False
        included = delivery.merged > self._memory.settled[p].tokens
        if self.state is HANDED and delivery.step < self.question:
            if included:
                return False
            # An older round's value, as they come in heaps after a freeze: it must not take the memory that the value
            # with the hand-over in it will need.
            out.append(Drop(fragment=p, version=delivery.version))
            self.delivery = None
            return True
        if self.state is HANDED and not included:
            self._ahead.late(p)
        rule = self.rule(delivery, included)
        self._order = order = make_take_over(
            fragment=p, version=delivery.version, rule=rule, included=included, step=delivery.step,
            until=self.until if rule == "rebase" else None,
        )  # fmt: skip
        self._moved(DELIVERED)
        self.question, self.until, self.message, self.delivery = UNASKED, None, None, None
        out.append(order)
        return True

    def _due(self, delivery: Delivery, pace: int) -> bool:
        """In synchronous policies values are taken over tau steps after their hand-over, not when they happen to arrive;
        at once by a learner that has fallen behind, or has none."""
        handed = delivery.step if self.question == UNASKED else min(self.question, delivery.step)
        return pace >= handed + self._policy.overlap or delivery.step > pace or self._memory.base[self.index] < 0

    def rule(self, delivery: Delivery, included: bool) -> TakeOverRule:
        """How the value is taken over."""
        if self._refused or self._memory.base[self.index] < 0:
            return "overwrite"
        if not included:
            return self._policy.on_excluded
        if self._policy.on_included == "rebase" and (self.until is None or self.until.tokens != delivery.merged):
            return "overwrite"  # the copy that was handed over is gone with an earlier agent
        return self._policy.on_included

    def applied(self, event: Applied) -> TakeOver | None:
        """The trainer has taken a value over: by this order; None: that means nothing any more. `settle` is to follow."""
        void, order, self._order = self.state is VOID, self._order, None
        self._moved(APPLIED)
        if void:
            return None
        assert isinstance(order, TakeOver) and order.version == event.version, "it was told to take over another version"
        self._refused = False
        self._set_down(order, event.count)
        return order

    def recovered(self, event: Recovered) -> None:
        """The trainer has carried an earlier agent's order out."""
        self._moved(RECOVERED)
        self._set_down(event, event.count)

    def _set_down(self, order: TakeOver | Recovered, count: Count) -> None:
        p, memory = self.index, self._memory
        memory.base[p] = order.version
        if order.rule == "rebase":
            assert order.until is not None
            memory.settled[p] = order.until
        elif order.rule != "carry":
            memory.settled[p] = count.minus(memory.origin)
        self.taken_step = order.step

    def begin_anew(self) -> list[LearnerAction]:
        """A new generation: nothing of what was under way means anything any more, and there is no base."""
        out = self._forget()
        self._moved(ANEW)
        if self.delivery is not None:
            out.append(Drop(fragment=self.index, version=self.delivery.version))
        self._memory.base[self.index], self._memory.settled[self.index] = -1, Count()
        self.delivery, self._refused = None, False
        self._last = self._last_heard = self._abstained = -1
        return out
