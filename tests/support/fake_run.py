"""A whole run in one object for tests of decisions: both cores wired by fake links, fake trainers, a fake merger.

A fragment's value is a dict {(learner, life, step): coefficient}: every inner step adds a unit of its own to each
fragment, and a merge adds up instead of averaging. So a global value tells exactly whose work is in it, and how often:
a coefficient other than 0 or 1 means that work was merged twice or undone. `check` holds that against the ledger.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, field

from skerry.core.layout import Layout, TensorSpec, build_layout
from skerry.core.learner import LearnerCore
from skerry.core.memory import LearnerMemory
from skerry.core.messages import (
    Applied,
    Ask,
    BudgetReached,
    Cancel,
    Close,
    Contribution,
    CopiedOut,
    CopyOut,
    Count,
    Deliver,
    Delivery,
    Drop,
    Encode,
    Go,
    Gone,
    LoopLeft,
    Merge,
    ProvideInitial,
    Refused,
    Report,
    RequestInitial,
    RunOver,
    Stepped,
    StopLoop,
    TakenOver,
    TakeOver,
    Tick,
    Verdict,
    Warn,
    Welcome,
)  # fmt: skip
from skerry.core.policy import ALL, Policy
from skerry.core.syncer import SyncerCore

Value = dict


def plus(first: Value, *terms: tuple[int, Value]) -> Value:
    """The sum of the first value and of sign * value, without zeros."""
    out = dict(first)
    for sign, value in terms:
        for key, coefficient in value.items():
            if new := out.get(key, 0) + sign * coefficient:
                out[key] = new
            else:
                del out[key]
    return out


def tiny_layout(policy: Policy) -> Layout:
    specs = [TensorSpec(name=f"{i}.w", shape=(i + 2,), direct=i == 0) for i in range(policy.fragments + 1)]
    return build_layout(specs, policy.fragments, policy.fragmentation)


@dataclass
class Agent:
    core: LearnerCore
    copied: Value | None = None  # what came with the event in hand
    handed: dict[int, tuple[Count, Value]] = field(default_factory=dict)  # fragment -> (counters, v)
    values: dict[tuple[int, int], list[Value]] = field(default_factory=dict)  # copies of (fragment, version) delivered
    orders: deque = field(default_factory=deque)
    inbox: deque = field(default_factory=deque)  # from the trainer


class FakeLearner:
    """One trainer's life with its agents. Base values, memory and the redo record are what shared memory holds."""

    def __init__(self, run: FakeRun, learner: int, life: int) -> None:
        self.run, self.id, self.life = run, learner, life
        self.memory = LearnerMemory.empty(run.policy.fragments, learner)
        self.theta = [{} for _ in range(run.policy.fragments)]
        self.base: list[Value] = [{} for _ in range(run.policy.fragments)]
        self.redo: list[tuple] = []  # take-overs carried out whose agent has not set them down yet
        self.count = Count()
        self.may_step = self.done = self.stopped = self.ended = self.waits = False
        self.linked = False
        self.up: dict[str, deque] = {"control": deque(), "bulk": deque()}
        self.down: dict[str, deque] = {"control": deque(), "bulk": deque()}
        self.begin_agent()

    # -------------------------------------------------------- agent

    def begin_agent(self) -> None:
        self.agent = Agent(LearnerCore(self.run.policy, self.run.layout, self.memory))
        for fragment, value, applied, rule, until, step, generation in self.redo:
            if generation == self.memory.generation:
                self.base[fragment] = value
                self.agent.core.count = applied.count
                self.agent.core.take(applied, rule, until, step)
        self.redo.clear()
        self.feed(Stepped(count=self.count))
        if self.done:
            self.agent.core.handle(BudgetReached())
        if self.stopped:
            self.feed(LoopLeft(count=self.count))

    def kill_agent(self) -> None:
        self.unlink()
        self.begin_agent()

    def link(self) -> None:
        if not self.linked and not self.ended:
            self.linked = True
            self.up["control"].append((self.agent.core.join(), None))

    def unlink(self) -> None:
        if self.linked:
            self.linked = False
            for action in self.agent.core.link_lost():
                self.carry_out(action)
            for queue in (*self.up.values(), *self.down.values()):
                queue.clear()
            self.run.lost_link(self)

    def send(self, channel: str, message, body=None) -> None:
        if self.linked:
            self.up[channel].append((message, body))

    def feed(self, event) -> None:
        for action in self.agent.core.handle(event):
            self.carry_out(action)

    def carry_out(self, action) -> None:
        agent = self.agent
        match action:
            case CopyOut() | TakeOver():
                agent.orders.append((action, self.memory.generation))
                if self.waits or self.stopped or not self.may_step:
                    self.do_orders()
            case Encode(fragment=p):
                agent.handed[p] = (action.until, plus(self.base[p], (-1, agent.copied)))
            case Contribution(fragment=p):
                assert agent.handed[p][0] == action.until
                self.send("bulk", action, agent.handed[p][1])
            case ProvideInitial(fragment=p):
                self.send("bulk", action, dict(self.theta[p]))
            case Go():
                self.may_step, self.waits = True, False
            case StopLoop():
                self.done = True
            case RunOver():
                self.ended = True
                self.unlink()
            case Drop():
                agent.values[action.fragment, action.version].pop()
            case Warn():
                pass
            case _:
                self.send("control", action)

    def receive(self, channel: str) -> None:
        message, body = self.down[channel].popleft()
        if isinstance(message, Delivery):
            self.agent.values.setdefault((message.fragment, message.version), []).append(body)
        self.feed(message)

    def hear_trainer(self) -> None:
        event, extra = self.agent.inbox.popleft()
        agent = self.agent
        agent.copied = extra
        if isinstance(event, Applied):
            record = next(r for r in self.redo if r[2] == event)
            self.redo.remove(record)
            self.base[event.fragment] = record[1]
        self.feed(event)

    # -------------------------------------------------------- trainer

    def do_orders(self) -> None:
        """Carry out what is ordered, at a boundary."""
        agent = self.agent
        while agent.orders:
            order, generation = agent.orders.popleft()
            p = order.fragment
            if isinstance(order, CopyOut):
                agent.inbox.append((CopiedOut(fragment=p, step=order.step, count=self.count), dict(self.theta[p])))
            else:
                self.take_over(order, generation)

    def take_over(self, order: TakeOver, generation: int) -> None:
        agent, p = self.agent, order.fragment
        while any(isinstance(event, CopiedOut) for event, _ in agent.inbox):  # the agent computes changes from copies it has
            self.hear_trainer()
        value, own = agent.values[p, order.version].pop(0), agent.core._orders[p]
        match order.rule:
            case "overwrite" | "blend":
                self.theta[p] = dict(value)
            case "carry":
                self.theta[p] = plus(value, (1, self.theta[p]), (-1, self.base[p]))
            case "rebase":
                self.theta[p] = plus(value, (1, self.theta[p]), (-1, self.base[p]), (1, agent.handed[p][1]))
        applied = Applied(fragment=p, version=order.version, count=self.count)
        self.redo.append((p, value, applied, order.rule, own.until, own.delivery.step, generation))
        agent.inbox.append((applied, None))

    def step(self, tokens: int) -> bool:
        if self.done or self.stopped or not self.may_step or self.waits:
            return False
        steps = self.count.steps + 1
        for p in range(self.run.policy.fragments):
            self.theta[p][self.id, self.life, steps, tokens] = 1
        self.run.made += tokens
        self.count = Count(steps, self.count.tokens + tokens, self.count.busy_us + 1000 + tokens)
        self.waits = self.run.policy.synchronous
        self.do_orders()
        self.agent.inbox.append((Stepped(count=self.count), None))
        return True

    def stop(self) -> None:
        if self.done and not self.stopped:
            self.stopped = True
            self.do_orders()
            self.agent.inbox.append((LoopLeft(count=self.count), None))


class FakeRun:
    """The syncer's driver and all learners. `now` only moves by wait()."""

    def __init__(self, policy: Policy, learners: int) -> None:
        self.policy, self.layout = policy, tiny_layout(policy)
        self.core = SyncerCore(policy, self.layout)
        self.now = 0.0
        self.theta: list[Value] = [{} for _ in range(policy.fragments)]
        self.published: list[tuple[int, int]] = [(0, 0)] * policy.fragments  # (version, step)
        self.parts: dict[tuple[int, int], list[Value]] = {}
        self.saved: tuple | None = None
        self.actions: list = []
        self.learners = {i: FakeLearner(self, i, 0) for i in range(learners)}
        self.ended = False
        self.made = 0  # tokens, by all trainers
        self.looked_at: list[Value | None] = [None] * policy.fragments
        self.inside = [0] * policy.fragments  # tokens x parameters in the values looked at
        self.tape: list = []
        self.welcomed: dict[FakeLearner, int] = {}  # the generation each link was given

    # -------------------------------------------------------- the syncer's driver

    def feed(self, event, sender: FakeLearner | None = None, body=None) -> None:
        self.tape.append((self.now, event))
        versions = list(self.core.versions)
        for action in self.core.handle(self.now, event):
            self.actions.append(action)
            self.carry_out(action, sender, body)
        self.check(versions)

    def carry_out(self, action, sender, body) -> None:
        match action:
            case Merge(fragment=p, step=t):
                self.parts.setdefault((p, t), []).append(body)
            case Close(fragment=p, step=t, version=version, included=included):
                parts = self.parts.pop((p, t))
                assert len(parts) == len(included)
                self.theta[p] = plus(self.theta[p], *((-1, v) for v in parts))
                self.published[p] = (version, t)
                for learner in self.learners.values():
                    self.deliver(learner, p)
            case Cancel(fragment=p, step=t):
                self.parts.pop((p, t), None)
                self.to_all(action)
            case Deliver(learner=i, fragments=fragments):
                for p in fragments:
                    self.deliver(self.learners[i], p)
            case Ask() | BudgetReached() | RunOver():
                self.ended |= isinstance(action, RunOver)
                self.to_all(action)
            case Refused():
                self.to(sender, action)
            case Welcome() | RequestInitial() | Verdict():
                if isinstance(action, Welcome):
                    self.welcomed[self.learners[action.learner]] = action.generation
                self.to(self.learners[action.learner], action)
            case _:
                raise AssertionError(action)

    def to(self, learner: FakeLearner, message, channel: str = "control", body=None) -> None:
        if learner.linked:
            learner.down[channel].append((message, body))

    def to_all(self, message) -> None:
        for learner in self.learners.values():
            self.to(learner, message)

    def deliver(self, learner: FakeLearner, p: int) -> None:
        version, step = self.published[p]
        message = Delivery(fragment=p, version=version, step=step, merged=self.core.merged(learner.id, p, version),
                           progress=self.core.progress)  # fmt: skip
        self.to(learner, message, "bulk", self.theta[p])

    def hear(self, learner: FakeLearner, channel: str) -> None:
        message, body = learner.up[channel].popleft()
        if isinstance(message, ProvideInitial) and not self.core.versions:
            self.theta[message.fragment] = body
        self.feed(message, learner, body)

    def lost_link(self, learner: FakeLearner) -> None:
        self.feed(Gone(learner=learner.id, generation=self.welcomed.pop(learner, 0)))

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (at := self.core.deadline()) is not None and at <= until:
            self.now = max(self.now, at)
            self.feed(Tick())
        self.now = until

    # -------------------------------------------------------- faults

    def kill_trainer(self, i: int) -> None:
        """Its agent tells its last count and goes; the trainer returns as a new process."""
        old = self.learners[i]
        if old.ended:
            return
        if old.linked and old.memory.generation:
            self.feed(old.agent.core.leave(old.count, "killed"))
        self.kill_island(i)

    def kill_island(self, i: int) -> None:
        old = self.learners[i]
        if not old.ended:
            old.unlink()
            self.learners[i] = FakeLearner(self, i, old.life + 1)

    def save(self) -> None:
        if self.core.versions and self.core.phase == "running":
            self.saved = (json.dumps(self.core.state()), [dict(v) for v in self.theta], list(self.published))

    def crash_syncer(self) -> None:
        """kill -9, and --resume from the last snapshot."""
        if self.saved is None or self.core.phase != "running":
            return
        state, theta, published = self.saved
        for learner in self.learners.values():
            learner.linked = False
            for action in learner.agent.core.link_lost():
                learner.carry_out(action)
            for queue in (*learner.up.values(), *learner.down.values()):
                queue.clear()
        self.core = SyncerCore(self.policy, self.layout, json.loads(state))
        self.theta, self.published, self.parts = [dict(v) for v in theta], list(published), {}
        self.tape = []

    # -------------------------------------------------------- what must hold after every event

    def check(self, versions_before: list[int]) -> None:
        core, sizes = self.core, self.layout.sizes
        accounts = {id(m.account): m.account for m in core.members}
        for round_ in core.rounds.open.values():
            accounts |= {id(a): a for a, _ in round_.accepted.values()}
        total, pending = core.ledger.total(), sum(core.ledger.pending(a) for a in accounts.values())
        assert total.processed == total.merged + pending + sum(total.lost.values())
        assert pending >= 0 and all(amount >= 0 for amount in total.lost.values())
        for p, value in enumerate(self.theta):
            if value is not self.looked_at[p]:
                assert all(c == 1 for c in value.values()), "work was merged twice or undone"
                self.looked_at[p] = value
                self.inside[p] = sum(key[3] * sizes[p] for key in value if key[2] > 0)
        assert sum(self.inside) == total.merged, "what is in the model is not what the ledger says was merged"
        for before, after in zip(versions_before, core.versions, strict=False):
            assert after >= before
        if core.phase == "running":
            most = self.policy.fragments if self.policy.synchronous else max(1, self.policy.overlap)
            assert len(core.rounds.open) <= most
        if core.phase == "ended":
            assert pending == 0
        for action in self.actions:
            if isinstance(action, Close):
                assert len(set(action.included)) == len(action.included) > 0
                if self.policy.quorum != ALL and core.phase == "running":
                    assert len(action.included) >= self.policy.quorum
        self.actions.clear()

    # -------------------------------------------------------- letting things flow

    def flow(self) -> bool:
        """Carry every message that is under way; whether there was any."""
        moved = False
        for learner in list(self.learners.values()):
            for channel in ("control", "bulk"):
                while learner.up[channel]:
                    self.hear(learner, channel)
                    moved = True
                while learner.down[channel]:
                    learner.receive(channel)
                    moved = True
            while learner.agent.inbox:
                learner.hear_trainer()
                moved = True
        return moved

    def run_to_end(self, most: int = 800) -> None:
        """All links up, everybody steps: the run must end, whatever happened before."""
        for _ in range(most):
            for learner in self.learners.values():
                learner.link()
            while self.flow():
                pass
            if self.ended:
                return
            for learner in self.learners.values():
                learner.step(5)
                learner.stop()
            while self.flow():
                pass
            self.wait(0.3)
            for learner in self.learners.values():  # heartbeats
                if learner.linked and learner.memory.generation:
                    learner.send("control", learner.agent.core.report())
        raise AssertionError(f"the run does not end: {self.core.phase}, t={self.core.step}, open={list(self.core.rounds.open)}")


__all__ = ["FakeLearner", "FakeRun", "Report", "TakenOver", "plus", "tiny_layout"]
