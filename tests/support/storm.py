"""Random events in random order on a FakeRun, and what must hold of the run when they are over.

A storm is a seeded sequence of blows: ordinary turns of a learner for the most part, in which messages overtake each other
between the channels, and harm of every kind. A calm is one without harm. FakeRun checks its invariants after every event;
`settle` looks at the end. Runs must get somewhere while they are harmed: links come back soon, and most turns carry on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from skerry.core.messages import Contribution
from skerry.core.policy import Policy
from support.fake_run import FakeLearner, FakeRun

HARMFUL = 0.15
"""Share of blows that do harm."""


def blow(run: FakeRun, random: Random, harmful: float) -> None:
    """One random thing happens to one learner."""
    learner = random.choice(list(run.learners.values()))
    if random.random() < harmful:
        random.choice(HARMS)(run, learner, random)
    elif random.random() < 0.05:
        run.wait(random.choice((0.01, 0.1, 0.5, 0.5, 3.0, 12.0)))
    else:
        turn(run, learner, random)


def turn(run: FakeRun, learner: FakeLearner, random: Random) -> None:
    """Its trainer makes a step, and of each queue none, one or all messages go on, the queues in any order."""
    if random.random() < 0.5:
        learner.link()
    learner.step(random.randint(1, 7))
    if random.random() < 0.1:
        learner.stop()
    moves: list[tuple[list | object, Callable[[], None]]] = [(learner.agent.inbox, learner.hear_trainer)]
    for channel in ("control", "bulk"):
        moves.append((learner.up[channel], lambda channel=channel: run.hear(learner, channel)))
        moves.append((learner.down[channel], lambda channel=channel: learner.receive(channel)))
    random.shuffle(moves)
    for queue, move in moves:
        for _ in range(random.choice((0, 1, len(queue), len(queue)))):
            if queue:
                move()


# ------------------------------------------------------------------ harm


def shuffle(run: FakeRun, learner: FakeLearner, random: Random) -> None:
    """A message to the syncer comes later than those sent after it."""
    queue = learner.up[random.choice(("control", "bulk"))]
    if len(queue) > 1 and learner.memory.generation:
        queue.rotate(-random.randrange(len(queue)))


def duplicate(run: FakeRun, learner: FakeLearner, random: Random) -> None:
    """A message comes again, at once or behind others."""
    for queue in random.sample([*learner.up.values(), *learner.down.values()], 2):
        if queue:
            queue.append(random.choice(queue))


def spoil(run: FakeRun, learner: FakeLearner, random: Random) -> None:
    """The next contribution of the learner turns out to hold a NaN."""
    queue = learner.up["bulk"]
    if queue and isinstance(queue[0][0], Contribution):
        queue[0] = (replace(queue[0][0], flaw="non-finite values in tensor 0.w"), queue[0][1])
        run.hear(learner, "bulk")


HARMS: list[Callable[[FakeRun, FakeLearner, Random], None]] = [
    *[shuffle] * 4,
    *[duplicate] * 4,
    *[spoil] * 2,
    *[lambda run, learner, random: learner.unlink()] * 2,
    *[lambda run, learner, random: learner.kill_agent()] * 4,
    lambda run, learner, random: run.kill_trainer(learner.id),
    lambda run, learner, random: run.kill_island(learner.id),
    *[lambda run, learner, random: run.save()] * 2,
    lambda run, learner, random: run.crash_syncer(),
]


# ------------------------------------------------------------------ whole runs


def storm(policy: Policy, learners: int, blows: int, seed: int, harmful: float = HARMFUL) -> FakeRun:
    """A run with so many blows from its first moment on, and then to its end."""
    run = FakeRun(policy, learners)
    random = Random(seed)
    for learner in run.learners.values():
        learner.link()
    while run.flow() and not harmful:  # in a calm everybody is there from the first step on
        pass
    for _ in range(blows):
        blow(run, random, harmful)
    run.run_to_end()
    settle(run)
    return run


def settle(run: FakeRun) -> None:
    """What must hold at the end of any run."""
    total = run.core.ledger.total()
    assert total.processed == total.merged + sum(total.lost.values())
    assert total.tokens * run.layout.total == total.processed
    assert total.tokens <= run.made, "more was counted than was done"
    if run.policy.on_excluded == "carry":
        assert not total.lost["excluded"], "what is carried is not lost"


def calm(policy: Policy, learners: int, blows: int, seed: int) -> FakeRun:
    """A run without faults: nothing may be lost but by overlap, and under `rebase` nothing at all."""
    patient = policy.replace(silent_after=1e6, sync_timeout=1e6, final_timeout=1e6)
    run = storm(patient, learners, blows, seed, harmful=0.0)
    total = run.core.ledger.total()
    allowed = {"overlap"} if policy.on_included != "rebase" else set()
    assert total.tokens == run.made
    assert all(not amount for cause, amount in total.lost.items() if cause not in allowed), f"lost in a calm: {total.lost}"
    return run
