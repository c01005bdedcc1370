"""A world's plan, all that is chosen from its seed; carrying it out; and leaving out of it what its failure does not need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from skerry.core.phase import ENDED, ENDING, FINAL
from skerry.core.policy import Policy
from support.policies import some_policy
from support.storm import settle
from worlds.blows import GENTLE, ROUGH, strike
from worlds.world import BEAT, World

Blow = tuple[str, int]
"""Its kind, and the number that its chances follow from."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to happen from the first moment on, as the run comes to its end, and when it is over."""

    policy: Policy
    learners: int
    machine: bool
    gentle: bool
    cut: int
    stages: tuple[tuple[Blow, ...], ...]

    @staticmethod
    def of(seed: int) -> Plan:
        """The seed's."""
        random = Random(seed)
        policy = some_policy(random)
        gentle = random.random() < 0.5
        if gentle:  # patience outlasts whatever happens, but not the time in which the disk is full
            policy = policy.replace(silent_after=40.0, sync_timeout=40.0, final_timeout=40.0)
        kinds = GENTLE if gentle else ROUGH
        weights = [weight for weight, _ in kinds.values()]
        most = random.randint(20, 160)
        stages = tuple(tuple((kind, random.getrandbits(32)) for kind in random.choices(list(kinds), weights, k=count))
                       for count in (most, most // 3, most // 8))  # fmt: skip
        return Plan(policy=policy, learners=max(policy.quorum, policy.wait_for) + random.randint(0, 2),
                    machine=random.random() < 0.4, gentle=gentle, cut=random.choice((-1, -1, random.randint(0, 400))),
                    stages=stages)  # fmt: skip

    def carry_out(self, trace: bool = False) -> World:
        """Raises an AssertionError, or another error, where something does not hold."""
        world = World(self.policy, self.learners, machine=self.machine, gentle=self.gentle, cut=self.cut, trace=trace)
        if trace:
            print(f"{self.policy}\n{self.learners} learners, machine={self.machine}, gentle={self.gentle}")
        for learner in world.learners:
            learner.link()
        while self.gentle and world.flow():  # all are there from the first step on
            pass
        for phases, stage in zip(((ENDING, FINAL, ENDED), (ENDED,), ()), self.stages, strict=True):
            for kind, seed in stage:
                strike(world, kind, seed)
            if phases:
                world.run_to(*phases)
        let_go(world)
        world.finish()
        judge(world)
        return world


def let_go(world: World) -> None:
    """The run is over: every learner comes to know it, and nobody waits for ever."""
    world.heal()
    for _ in range(400):
        if all(learner.ended for learner in world.learners):
            return
        for learner in world.learners:
            if learner.driver is None and not learner.ended:
                learner.begin_agent()
            learner.link()
            learner.step(3)
            learner.stop()
            learner.beat()
        world.haunt()
        world.wait(BEAT)
        world.flow()
    raise AssertionError("the run is over, and a learner goes on")


def judge(world: World) -> None:
    """What must hold at the end."""
    if not world.strangers:
        settle(world)
    if world.gentle:
        total = world.core.ledger.total()
        assert total.tokens == world.census.made, "work that was done is not counted"
        lost = {cause: amount for cause, amount in total.lost.items() if amount and cause != "overlap"}
        assert not lost, f"lost, though no trainer died: {lost}"


KIND = 50
"""So many letters tell one failure from another."""


def failure(plan: Plan) -> str:
    """What goes wrong in it, in one line; "" if nothing does."""
    try:
        plan.carry_out()
    except Exception as error:
        return f"{type(error).__name__}: {error}".split("\n")[0]
    return ""


def shrunk(plan: Plan, tries: int = 400) -> Plan:
    """As few blows as fail still in the same way: in the manner of delta debugging, halves first."""
    kind = failure(plan)[:KIND]
    blows = [(at, blow) for at, stage in enumerate(plan.stages) for blow in stage]

    def with_only(those: Sequence[tuple[int, Blow]]) -> Plan:
        return replace(plan, stages=tuple(tuple(blow for at, blow in those if at == stage) for stage in range(3)))

    size = len(blows) // 2
    while size and tries:
        at = 0
        while at < len(blows) and tries:
            fewer = blows[:at] + blows[at + size :]
            tries -= 1
            if failure(with_only(fewer))[:KIND] == kind:
                blows = fewer
            else:
                at += size
        size //= 2
    return with_only(blows)
