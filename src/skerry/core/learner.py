"""LearnerCore: every decision of a learner's agent. Events from the trainer and the syncer in, orders and messages out.

Per fragment:   base ---Ask (or, synchronous, the step itself)---> copying ---> handed over ---> answered
                  |----too late the last time----> copying ---> ready ---Ask----^  (hands.py)
                  ^                                                                |
                  '-- applied <-- ordered <-- a delivery that settles the hand-over'

Rules: at most one hand-over of a fragment is open; a delivery that does not settle it waits for its answer. Whether a
delivery includes the learner's work is said by its `merged` count alone, so the rule survives lost messages and a lost
agent. Nothing here waits, except that in synchronous policies a boundary is left only with `Go`. What must outlive the
agent stands in LearnerMemory; everything else may be forgotten at any moment without harm to the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skerry.core.hands import AHEAD, SEED_STEP, Ahead, Hand, Order
from skerry.core.layout import Layout
from skerry.core.memory import LearnerMemory
from skerry.core.messages import (
    Abstain,
    Applied,
    Ask,
    BudgetReached,
    Cancel,
    Contribution,
    CopiedOut,
    CopyOut,
    Count,
    Delivery,
    Drop,
    Encode,
    Go,
    Join,
    LearnerAction,
    LearnerEvent,
    Leave,
    LoopLeft,
    ProvideInitial,
    Received,
    Refused,
    Report,
    RequestInitial,
    RunOver,
    Stepped,
    StopLoop,
    TakenOver,
    TakeOver,
    TakeOverRule,
    Verdict,
    Warn,
    Welcome,
)
from skerry.core.policy import Policy


class LearnerCore:
    """One learner's state machine. `memory` is kept true at every moment; give the same one to the next agent."""

    def __init__(self, policy: Policy, layout: Layout, memory: LearnerMemory, count: Count = Count(),
                 progress: float = 0.0) -> None:  # fmt: skip
        """A new agent's gets what the trainer's shared memory knows: its raw counters, and the progress that it goes by."""
        self.policy = policy
        self.layout = layout
        self.memory = memory
        self.count = count  # the trainer's raw counters
        self._told = Count()  # those that the last Join bore
        self.progress = progress
        self.begun = memory.generation > 0 and min(memory.base) >= 0  # training has been let go
        self.joined = False
        self.finishing = False
        self._hands: dict[int, Hand] = {}
        self._ahead = Ahead()
        self._ready: dict[int, Delivery] = {}
        self._early: list[Delivery] = []  # came before the Welcome, which travels on another connection
        self._orders: dict[int, Order] = {}
        self._refused: set[int] = set()
        self._final: dict[int, Ask] = {}  # final asks that wait until the fragment's present business is done
        self._boundary: int | None = None  # synchronous: the boundary at which the trainer waits for Go
        self._taken_step = [-1] * policy.fragments
        self._out: list[LearnerAction] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            Stepped: self._stepped, CopiedOut: self._copied_out, Applied: self._applied, LoopLeft: self._stopped,
            Welcome: self._welcome, Refused: self._refused_join, RequestInitial: self._seed, Ask: self._ask,
            Verdict: self._answer,
            Cancel: self._cancel, Delivery: self._delivery, BudgetReached: self._finish, RunOver: self._end,
        }  # fmt: skip

    # ------------------------------------------------------------------ for the driver

    def handle(self, event: LearnerEvent) -> list[LearnerAction]:
        """What follows from the event."""
        self._handlers[type(event)](event)
        self._let_go()
        out, self._out = self._out, []
        return out

    def join(self) -> Join:
        """What to say first on every new link."""
        memory = self.memory
        self._told = self.count
        return Join(learner=memory.learner, generation=memory.generation, layout=self.layout.hash,
                    count=self._done(self.count), clock=self.clock, bases=tuple(memory.base),
                    settled=tuple(memory.settled))  # fmt: skip

    def report(self) -> Report:
        """The counters as they stand; also the heartbeat."""
        return Report(learner=self.memory.learner, generation=self.memory.generation, clock=self.clock,
                      count=self._done(self.count))  # fmt: skip

    def leave(self, count: Count, reason: str = "") -> Leave:
        """The last word, with the trainer's last raw counters."""
        return Leave(learner=self.memory.learner, generation=self.memory.generation, count=self._done(count), reason=reason)

    def link_lost(self) -> list[LearnerAction]:
        """The link broke: until the next Welcome nothing is sent. What was delivered stays."""
        self.joined = False
        early, self._early = self._early, []
        return [Drop(fragment=delivery.fragment, version=delivery.version) for delivery in early]

    @property
    def clock(self) -> int:
        """t_m."""
        return self.count.steps + self.memory.shift

    def open_contributions(self) -> list[Contribution]:
        """Hand-overs without an answer: to be sent again after a link was lost."""
        return [hand.message for hand in self._hands.values() if hand.message is not None]

    def prepared(self) -> dict[int, Count]:
        """Of which fragments there is, or will be, use for the body that was prepared, and its counters."""
        return {p: hand.until for p, hand in self._hands.items() if hand.until is not None}

    def _done(self, count: Count) -> Count:
        return count.minus(self.memory.origin)

    def _name(self) -> dict[str, Any]:
        return {"learner": self.memory.learner, "generation": self.memory.generation}

    # ------------------------------------------------------------------ joining

    def _welcome(self, event: Welcome) -> None:
        memory = self.memory
        self.joined = True
        self._saw(event.progress)
        memory.learner = event.learner
        if event.generation == memory.generation:
            self._out.extend(self.open_contributions())
        else:
            self._begin_anew(event)
        early, self._early = self._early, []
        for delivery in early:
            self._delivery(delivery)

    def _begin_anew(self, event: Welcome) -> None:
        """A new generation: forget what was under way; every fragment will be delivered."""
        memory = self.memory
        memory.generation = event.generation
        memory.origin = self._told  # what was done since is the new generation's
        memory.shift = event.clock - self.count.steps
        memory.base[:] = [-1] * len(memory.base)
        memory.settled[:] = [Count()] * len(memory.settled)
        self._hands.clear()
        self._final.clear()
        self._refused.clear()
        for delivery in self._ready.values():
            self._out.append(Drop(fragment=delivery.fragment, version=delivery.version))
        self._ready.clear()
        for order in self._orders.values():
            order.void = True

    def _refused_join(self, event: Refused) -> None:
        self._out.append(Warn(text=f"the syncer refused this learner ({event.code}): {event.reason}"))

    def _seed(self, event: RequestInitial) -> None:
        self._out.extend(CopyOut(fragment=p, step=SEED_STEP) for p in range(self.policy.fragments))

    # ------------------------------------------------------------------ steps

    def _stepped(self, event: Stepped) -> None:
        self.count = event.count
        if self.policy.steps and (self.policy.synchronous or self.policy.quorum == 1):  # the run is as far, at least
            self._saw(self.clock / self.policy.steps)
        if self.joined:
            self._out.append(self.report())
        if self.policy.synchronous:
            self._boundary = event.count.steps
            self._take_over_due()
            self._hand_over_by_schedule()
        else:
            self._copy_ahead()

    def _stopped(self, event: LoopLeft) -> None:
        self.count = event.count
        if self.joined:
            self._out.append(self.report())

    def _hand_over_by_schedule(self) -> None:
        clock = self.clock
        for p in self._scheduled(clock):
            if not self._idle(p) or self._taken_step[p] >= clock:
                self._out.append(Abstain(**self._name(), fragment=p, step=clock))
            else:
                self._copy_out(p, clock)

    def _copy_ahead(self) -> None:
        """Order what is to be copied out at the next boundary, though nobody has asked for it yet. Without a grace window
        being late is nothing to be mended."""
        if self.policy.synchronous or self.finishing or not self.joined or not self.policy.grace:
            return
        for p in self._ahead.due(self.count.steps + 1):
            if self._idle(p) and self._may_copy():
                self._copy_out(p, AHEAD)

    def _scheduled(self, clock: int) -> list[int]:
        """Synchronous policies: the fragments to be handed over at this step."""
        if not self.policy.synchronous or self.finishing or not self.joined:
            return []
        return [p for p in range(self.policy.fragments) if clock % self.policy.interval == self.policy.offset(p)]

    def _let_go(self) -> None:
        """Let the trainer begin; in synchronous policies let it leave the boundary when nothing holds it there."""
        if not self.begun and min(self.memory.base) >= 0:
            self.begun = True
            self._boundary = None
            self._out.append(Go(steps=self.count.steps))
        if self._boundary is None or not self.begun:
            return
        held = any(hand.until is None or hand.step + self.policy.overlap <= self.clock for hand in self._hands.values())
        if self.finishing or not (held or self._orders):
            self._out.append(Go(steps=self._boundary))
            self._boundary = None

    def _saw(self, progress: float) -> None:
        self.progress = max(self.progress, min(1.0, progress))

    # ------------------------------------------------------------------ hand-over

    def _ask(self, event: Ask) -> None:
        p = event.fragment
        self._saw(event.progress)
        if event.final:
            self._final[p] = event
            self._final_hand_over(p)
            return
        hand = self._hands.get(p)
        if hand is not None and hand.step == event.step:
            return
        self._ahead.asked(p, self.count.steps)
        if hand is not None and hand.step == AHEAD and not self._too_old(hand):
            hand.step = event.step
            self._hand_in(p, hand)
        elif (hand is not None and hand.step != AHEAD) or p in self._orders or self.memory.base[p] < 0:
            self._out.append(Abstain(**self._name(), fragment=p, step=event.step))
        elif not self._may_copy():
            self._ahead.late(p)
            self._out.append(Abstain(**self._name(), fragment=p, step=event.step))
        else:
            self._copy_out(p, event.step)

    def _idle(self, p: int) -> bool:
        """There is a base to measure from, and nothing of the fragment is under way."""
        return p not in self._hands and p not in self._orders and self.memory.base[p] >= 0

    def _may_copy(self) -> bool:
        """There is a slot. Who is asked for more in a step than it has slots says so at once: in a queue all would be late."""
        return sum(hand.until is None for hand in self._hands.values()) < self.policy.slots

    def _too_old(self, hand: Hand) -> bool:
        """It was copied out for a question that came much later: what was done since would be lost."""
        return hand.until is not None and self._done(self.count).steps - hand.until.steps > self.policy.overlap

    def _final_hand_over(self, p: int) -> None:
        """Answer the final ask as soon as nothing else of the fragment is under way."""
        hand = self._hands.get(p)
        if p in self._final and hand is not None and hand.step == AHEAD and hand.until is not None:
            del self._hands[p]  # more was done since
        if p in self._final and p not in self._hands and p not in self._orders and p not in self._ready:
            event = self._final.pop(p)
            if self.memory.base[p] < 0:
                self._out.append(Abstain(**self._name(), fragment=p, step=event.step))
            else:
                self._copy_out(p, event.step)

    def _copy_out(self, p: int, step: int) -> None:
        self._hands[p] = Hand(step, order=step)
        self._out.append(CopyOut(fragment=p, step=step))

    def _copied_out(self, event: CopiedOut) -> None:
        p = event.fragment
        self.count = max(self.count, event.count)
        if event.step == SEED_STEP:
            self._out.append(ProvideInitial(**self._name(), fragment=p))
            return
        hand = self._hands.get(p)
        if hand is None or hand.order != event.step or hand.until is not None:
            return
        until = self._done(event.count)
        if until.tokens <= self.memory.settled[p].tokens:
            del self._hands[p]
            if hand.step != AHEAD:
                self._out.append(Abstain(**self._name(), fragment=p, step=hand.step))
        else:
            hand.until = until
            self._out.append(Encode(fragment=p, until=until))
            self._hand_in(p, hand)
        self._consider(p)

    def _hand_in(self, p: int, hand: Hand) -> None:
        """Contribute, as soon as it is copied out and asked for."""
        if hand.until is not None and hand.step != AHEAD:
            hand.message = Contribution(**self._name(), fragment=p, step=hand.step, base=self.memory.base[p],
                                        since=self.memory.settled[p], until=hand.until)  # fmt: skip
            self._out.append(hand.message)

    def _answer(self, event: Verdict) -> None:
        p = event.fragment
        if event.verdict == "refused":
            self._out.append(Warn(text=f"fragment {p} was refused: {event.reason}"))
        hand = self._hands.get(p)
        if hand is None or hand.step != event.step or hand.until is None or event.verdict == "merged":
            return
        del self._hands[p]
        if event.verdict == "refused":
            self._refused.add(p)
        elif event.verdict == "late":
            self._ahead.late(p)
        self._consider(p)

    def _cancel(self, event: Cancel) -> None:
        hand = self._hands.get(event.fragment)
        if hand is not None and hand.step == event.step and hand.until is not None:
            del self._hands[event.fragment]
            self._consider(event.fragment)

    # ------------------------------------------------------------------ take-over

    def _delivery(self, event: Delivery) -> None:
        if not self.joined:
            self._early.append(event)
            return
        p = event.fragment
        self._saw(event.progress)
        held, base = self._ready.get(p), self.memory.base[p]
        ordered = self._orders[p].delivery.version if p in self._orders and not self._orders[p].void else -1
        again = event.version == base and p in self._refused
        if event.version <= max(base - again, ordered, held.version if held else -1):
            self._out.append(Drop(fragment=p, version=event.version))
            return
        if held is not None:
            self._out.append(Drop(fragment=p, version=held.version))
        self._ready[p] = event
        self._out.append(Received(**self._name(), fragment=p, version=event.version))
        self._consider(p)

    def _take_over_due(self) -> None:
        for p in list(self._ready):
            self._consider(p)

    def _consider(self, p: int) -> None:
        """Order the take-over of what lies ready, if it may be taken over now."""
        delivery, hand = self._ready.get(p), self._hands.get(p)
        if delivery is None or p in self._orders or not self._due(p, delivery):
            self._final_hand_over(p)
            return
        included = delivery.merged > self.memory.settled[p].tokens
        if hand is not None and (hand.until is None or (included and delivery.step < hand.step)):
            return
        if hand is not None and delivery.step < hand.step:
            # An older round's value, as they come in heaps after a freeze: it must not take the memory that the value
            # with the hand-over in it will need.
            del self._ready[p]
            self._out.append(Drop(fragment=p, version=delivery.version))
            return
        until = hand.until if hand is not None else None
        if hand is not None and hand.message is not None and not included:
            self._ahead.late(p)
        self._hands.pop(p, None)
        rule = self._rule(p, included, until is not None and until.tokens == delivery.merged)
        del self._ready[p]
        self._orders[p] = Order(delivery, rule, until)
        self._out.append(TakeOver(fragment=p, version=delivery.version, rule=rule))

    def _due(self, p: int, delivery: Delivery) -> bool:
        """In synchronous policies values are taken over tau steps after their hand-over, not when they happen to arrive;
        at once by a learner that has fallen behind."""
        if not self.policy.synchronous or self.finishing or self.memory.base[p] < 0 or delivery.step > self.clock:
            return True
        hand = self._hands.get(p)
        handed = delivery.step if hand is None else min(hand.step, delivery.step)
        return self.clock >= handed + self.policy.overlap

    def _rule(self, p: int, included: bool, handed_copy: bool) -> TakeOverRule:
        if self.memory.base[p] < 0 or p in self._refused:
            return "overwrite"
        if not included:
            return self.policy.on_excluded
        if self.policy.on_included == "rebase" and not handed_copy:
            return "overwrite"  # the copy that was handed over is gone with an earlier agent
        return self.policy.on_included

    def _applied(self, event: Applied) -> None:
        p, memory = event.fragment, self.memory
        self.count = max(self.count, event.count)
        order = self._orders.get(p)
        if order is None or order.delivery.version != event.version:
            return
        del self._orders[p]
        if not order.void:
            old = self.clock
            self.take(event, order.rule, order.until, order.delivery.step)
            self._refused.discard(p)
            self._out.append(TakenOver(**self._name(), fragment=p, version=event.version, clock=self.clock,
                                       settled=memory.settled[p], count=self._done(event.count)))  # fmt: skip
            for step in range(old + 1, self.clock + 1):  # passed over in a jump: nobody shall wait for these
                self._out.extend(Abstain(**self._name(), fragment=q, step=step) for q in self._scheduled(step))
            if self.clock > old:
                self._take_over_due()  # what was to wait for steps that are passed over now
        self._consider(p)
        self._copy_ahead()

    def take(self, event: Applied, rule: TakeOverRule, until: Count | None, step: int) -> None:
        """Set down in memory that the trainer took the version over. A new agent calls it for an order that was carried
        out while there was no agent to hear of it (until: rebase's hand-over counters, else None)."""
        p, memory = event.fragment, self.memory
        memory.base[p] = event.version
        if rule == "rebase":
            assert until is not None
            memory.settled[p] = until
        elif rule != "carry":
            memory.settled[p] = self._done(event.count)
        memory.shift = max(memory.shift, step - event.count.steps)
        self._taken_step[p] = step

    # ------------------------------------------------------------------ the end

    def _finish(self, event: BudgetReached) -> None:
        self.finishing = True
        self.progress = 1.0
        self._out.append(StopLoop())
        self._take_over_due()

    def _end(self, event: RunOver) -> None:
        self.finishing = True
        self._out.append(event)
