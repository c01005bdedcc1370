"""One learner's core and a network that says anything in any order: what must hold after every event, whatever comes.

The trainer carries out what it is told, in the order in which it is told it, sooner or later; everything else is chance.
"""

from __future__ import annotations

from collections import Counter, deque
from random import Random
from typing import Any

import pytest

from skerry.core.fragment import INITIAL, State
from skerry.core.learner import LearnerCore
from skerry.core.memory import LearnerMemory
from skerry.core.messages import (
    Ask,
    BudgetReached,
    Cancel,
    Contribution,
    Count,
    Delivery,
    Leave,
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
    Encode,
    Forget,
    Go,
    LearnerAction,
    Linked,
    LoopLeft,
    Recovered,
    Stepped,
    TakeOver,
    TrainerEnded,
    Unlinked,
)
from skerry.core.policy import ALL, Policy
from support.layouts import tiny_layout


class Anything:
    """The core, its trainer, and the books that are kept on what it does."""

    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        synchronous, interval = random.random() < 0.3, random.randint(2, 6)
        overlap = random.randint(0 if synchronous else 1, min(3, interval - 1))
        self.policy = Policy(
            fragments=random.choice((1, 2, 4, 12)), interval=interval, overlap=overlap, synchronous=synchronous,
            quorum=ALL if synchronous else random.choice([ALL, 1, 2]), grace=random.choice([0.0, 0.9]),
            on_included=random.choice(["overwrite", "blend", *(["rebase"] if overlap else [])]),
            on_excluded=random.choice(["overwrite", "carry"]), steps=random.choice([0, 100]),
        )  # fmt: skip
        self.memory = LearnerMemory.empty(self.policy.fragments, 3)
        self.count, self.generation, self.newest = Count(), 1, 0
        self.go = self.waits = self.left = self.final = self.finishing = False
        self.now = 0.0
        self.said: Counter[type] = Counter()
        self.redo: dict[int, tuple[TakeOver, Count]] = {}  # carried out, and not heard of yet
        self.begin_agent()

    def begin_agent(self) -> None:
        """A new one; the trainer listens to nobody else from now on."""
        self.core = LearnerCore(self.policy, tiny_layout(self.policy), self.memory, self.count)
        self.orders: deque[CopyOut | TakeOver] = deque()
        self.replies: deque[CopiedOut | Applied] = deque()
        self.values: list[list[int]] = [[] for _ in range(self.policy.fragments)]
        self.bodies: dict[int, Count] = {}
        self.early: list[tuple[int, int]] = []
        self.detached = False
        for order, count in self.redo.values():
            self.feed(Recovered(fragment=order.fragment, version=order.version, rule=order.rule, step=order.step,
                                until=order.until, count=count))  # fmt: skip
        self.redo.clear()
        self.feed(Stepped(count=self.count))
        if self.left:
            self.feed(LoopLeft(count=self.count))

    # -------------------------------------------------------- what must hold

    def feed(self, event: Any) -> None:
        core, memory = self.core, self.memory
        before = (memory.generation, list(memory.base), list(memory.settled), core.clock, core.progress)
        if isinstance(event, Delivery):
            self.values[event.fragment].append(event.version)
        actions = core.handle(self.now, event)
        for action in actions:
            self.said[type(action)] += 1
            self.check(action)
        generation, base, settled, clock, progress = before
        assert (core.progress >= progress or type(event) is Welcome) and 0 <= core.progress <= 1
        if memory.generation == generation:
            assert core.clock >= clock
            assert all(map(int.__le__, base, memory.base)) and all(map(Count.__le__, settled, memory.settled))
        self.check_fragments()

    def check(self, action: LearnerAction) -> None:
        assert not self.detached or not isinstance(action, Leave | Detach), "all was said"
        match action:
            case CopyOut(fragment=p, step=step):
                assert step == INITIAL or self.is_free(p), "two orders of a fragment"
                self.orders.append(action)
            case TakeOver(fragment=p):
                assert self.is_free(p), "two orders of a fragment"
                assert action.rule != "rebase" or self.bodies.get(p) == action.until, "rebase without its copy"
                self.values[p].remove(action.version)
                self.bodies.pop(p, None)
                self.orders.append(action)
            case Encode(fragment=p):
                assert p not in self.bodies, "two hand-overs of a fragment"
                self.bodies[p] = action.until
            case Contribution(fragment=p):
                assert self.bodies[p] == action.until and action.until.tokens > action.since.tokens
                assert (action.base, action.since) == (self.memory.base[p], self.memory.settled[p])
            case Forget(fragment=p):
                del self.bodies[p]
            case Drop(fragment=p):
                self.values[p].remove(action.version)
            case Go(steps=steps):
                self.go = True
                self.waits = self.waits and steps < self.count.steps
            case Detach():
                self.detached = True

    def is_free(self, p: int) -> bool:
        mine = [o for o in (*self.orders, *self.replies) if o.fragment == p and getattr(o, "step", 0) != INITIAL]
        return not mine

    def check_fragments(self) -> None:
        core = self.core
        states = [fragment.state for fragment in core.fragments]
        for p, fragment in enumerate(core.fragments):
            assert (p in self.bodies) == (fragment.state in (State.AHEAD, State.HANDED))
            assert (fragment.message is not None) == (fragment.state is State.HANDED)
            assert fragment.state not in (State.IDLE, State.COPYING, State.AHEAD, State.HANDED) or self.memory.base[p] >= 0
            assert fragment.state not in (State.NO_BASE, State.VOID) or self.memory.base[p] < 0
            early = sum(q == p for q, _ in self.early)
            assert len(self.values[p]) == (fragment.delivery is not None) + early, "a value that nobody knows of"
        if not self.policy.synchronous and not self.final:
            assert states.count(State.COPYING) <= self.policy.slots
        waiting = {o.fragment for o in (*self.orders, *self.replies) if getattr(o, "step", 0) != INITIAL}
        assert waiting == {p for p, state in enumerate(states) if state in (State.COPYING, State.ORDERED, State.VOID)}

    # -------------------------------------------------------- what happens

    def trainer(self) -> None:
        """A step, an order, or one that is heard of."""
        step = self.go and not self.left and not self.waits and self.random.random() < 0.5
        if step:
            steps, tokens, busy = self.count
            self.count = Count(steps + 1, tokens + self.random.choice((0, 5, 5)), busy + 10)
            self.waits = self.policy.synchronous
        for _ in range(self.random.choice((0, 1, len(self.orders)))):
            if self.orders:
                self.carry_out(self.orders.popleft())
        if step:
            while self.replies:  # one channel keeps its order
                self.hear()
            self.feed(Stepped(count=self.count))
        for _ in range(self.random.choice((0, 1, len(self.replies)))):
            self.hear()

    def carry_out(self, order: CopyOut | TakeOver) -> None:
        if isinstance(order, CopyOut):
            self.replies.append(CopiedOut(fragment=order.fragment, step=order.step, count=self.count))
            return
        self.replies.append(Applied(fragment=order.fragment, version=order.version, count=self.count))
        if self.core.fragments[order.fragment].state is State.ORDERED:
            self.redo[order.fragment] = order, self.count

    def hear(self) -> None:
        if self.replies:
            reply = self.replies.popleft()
            if isinstance(reply, Applied):
                self.redo.pop(reply.fragment, None)
            self.feed(reply)

    def network(self) -> None:
        """Something of what it can say, whether or not it makes sense."""
        random, p = self.random, self.random.randrange(self.policy.fragments)
        step = max(0, self.core.clock + random.randint(-4, 4))
        opened = next((m.step for m in self.core.handed if m.fragment == p), step)
        what = random.random()
        if what < 0.3 and not self.policy.synchronous:
            for q in range(self.policy.fragments) if random.random() < 0.1 else (p,):
                self.feed(Ask(fragment=q, step=step, progress=random.random()))
        elif what < 0.305:
            self.final = True
            self.feed(Ask(fragment=p, step=1000 + random.randrange(2), progress=1.0, final=True))
        elif what < 0.65:
            self.newest = max(0, self.newest + random.choice((-2, 0, 0, 1, 1)))
            if not self.core.joined:
                self.early.append((p, self.newest))
            merged = random.choice((0, 0, max(0, self.count.tokens - self.memory.origin.tokens)))
            step = random.choice((opened, step))
            self.feed(Delivery(fragment=p, version=self.newest, step=step, merged=merged, progress=0.0))
        elif what < 0.8:
            self.feed(Verdict(learner=3, generation=self.generation, fragment=p, step=random.choice((opened, step)),
                              verdict=random.choice(("late", "stale", "refused", "merged"))))  # fmt: skip
        elif what < 0.9:
            self.feed(Cancel(fragment=p, step=random.choice((opened, step))))
        elif what < 0.91:
            self.feed(RequestInitial(learner=3))
        elif what < 0.92:
            self.finishing = True
            self.feed(BudgetReached())

    def link(self) -> None:
        """It breaks, or comes back, for the same generation or another one."""
        self.now += self.random.random()
        if self.core.joined:
            self.feed(Unlinked())
            return
        self.feed(Linked())
        if self.random.random() < 0.2:
            self.early.clear()
            self.feed(Unlinked())
            return
        self.generation += self.random.random() < 0.3
        if self.generation != self.memory.generation:
            self.redo.clear()
        if not self.detached:
            self.early.clear()
        progress = 1.0 if self.finishing else self.random.random()
        self.feed(Welcome(learner=3, generation=self.generation, clock=self.core.clock, first_step=0, progress=progress))

    def happen(self) -> None:
        what = self.random.random()
        if what < 0.5:
            self.trainer()
        elif what < 0.93:
            self.network()
        elif what < 0.97 or not self.core.joined:
            self.link()
        elif what < 0.98:
            self.feed(Beat())
        elif what < 0.985:
            self.early.clear()
            self.begin_agent()
        elif what < 0.986 and not self.orders and not self.replies:
            self.left = True
            self.feed(LoopLeft(count=self.count))


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_whatever_comes_a_learner_keeps_its_books(first: int) -> None:
    said: Counter[type] = Counter()
    for seed in range(first, first + 20):
        anything = Anything(seed)
        for _ in range(300):
            anything.happen()
        anything.feed(RunOver())
        anything.feed(TrainerEnded(count=anything.count))
        said += anything.said
    for kind in (CopyOut, TakeOver, Encode, Forget, Contribution, Drop, Go, Detach):
        assert said[kind] > 20 - (kind is Detach), f"hardly any {kind.__name__}: this tries little"
