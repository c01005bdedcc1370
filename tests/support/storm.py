"""Random events in random order on a Fleet, and what must hold of the run when they are over.

A storm is a seeded sequence of blows: ordinary turns of a learner for the most part, in which messages overtake each other
between the connections and the plane takes its time, and harm of every kind. A calm is one without harm, and in gusts links
break as it ends, and no more. The fleet checks its invariants after every event; `settle` looks at the end. Runs must get
somewhere while they are harmed: links come back soon, and most turns carry on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from skerry.core.messages import Join, Readmit
from skerry.core.phase import ENDED, ENDING, FINAL
from skerry.core.policy import Policy
from support.fleet import Fleet
from support.learners import Learner
from support.wires import CHANNELS, Wire

Harm = Callable[[Fleet, Learner, Random], None]
HARMFUL = 0.15
"""Share of blows that do harm."""


def blow(fleet: Fleet, random: Random, harms: Sequence[Harm]) -> None:
    """One random thing happens to one learner."""
    learner = random.choice(fleet.learners)
    what = random.random()
    if learner.asleep:
        learner.asleep -= 1
    elif harms and what < HARMFUL:
        random.choice(harms)(fleet, learner, random)
    elif what > 0.95:
        fleet.wait(random.choice((0.01, 0.1, 0.5, 0.5, 3.0, 12.0)))
    else:
        turn(fleet, learner, random)


def turn(fleet: Fleet, learner: Learner, random: Random) -> None:
    """Its trainer makes a step, and of each queue none, one or all that waits goes on, the queues in any order."""
    if random.random() < 0.5:
        if learner.driver is None and not learner.ended:
            learner.begin_agent()
        learner.link()
    learner.step(random.randint(1, 7))
    if random.random() < 0.1:
        learner.stop()
        learner.beat()
    moves: list[tuple[Callable[[], int], Callable[[], None]]] = [
        (lambda: len(learner.inbox), learner.hear_trainer),
        (lambda: len(learner.bodies), learner.transmit),
    ]
    if random.random() < 0.4:
        moves.append((lambda: len(fleet.plane.jobs), lambda: fleet.plane.work()))
    for channel in CHANNELS:
        moves.append((partial(learner.incoming, channel), partial(learner.receive, channel)))
    for wire in fleet.wires_of(learner):
        for channel, queue in wire.up.items():
            moves.append((partial(len, queue), partial(fleet.hear, wire, channel)))
        moves.append((partial(is_going_out, wire), partial(fleet.sent, wire)))
        moves.append((partial(is_over, fleet, wire), partial(fleet.lose, wire)))
    if fleet.ghosts and random.random() < 0.3:
        moves.append((lambda: 1, fleet.haunt))
    for ghost in fleet.ghosts:
        moves.append((partial(ghost.incoming, "control"), partial(ghost.receive, "control")))
    random.shuffle(moves)
    for under_way, move in moves:
        here = under_way()
        for _ in range(random.choice((0, 1, here, here))):
            if under_way():
                move()


def is_going_out(wire: Wire) -> bool:
    """Whether a value has yet to leave on it."""
    return wire.outgoing is not None


def is_over(fleet: Fleet, wire: Wire) -> bool:
    """Whether the syncer comes to the end of what was said on a link."""
    return wire in fleet.wires and (wire.ended or (wire.cut and not any(wire.up.values())))


# ------------------------------------------------------------------ harm


def shuffle(fleet: Fleet, learner: Learner, random: Random) -> None:
    """A message to the syncer comes later than those sent after it."""
    if learner.wire is not None:
        queue = learner.wire.up[random.choice(CHANNELS)]
        if len(queue) > 1 and not any(type(message) is Join for message, _ in queue):
            queue.rotate(-random.randrange(len(queue)))


def duplicate(fleet: Fleet, learner: Learner, random: Random) -> None:
    """A message comes again, at once or behind others."""
    if learner.wire is not None:
        for queue in random.sample(learner.wire.queues, 2):
            if queue and type((again := random.choice(queue))[0]) is not Join:
                queue.append(again)


def drop(fleet: Fleet, learner: Learner, random: Random) -> None:
    """A message is lost; the link will be found broken, sooner or later."""
    if learner.wire is not None:
        queue = random.choice(learner.wire.queues)
        if queue:
            del queue[random.randrange(len(queue))]
            learner.wire.doomed = True


def spoil(fleet: Fleet, learner: Learner, random: Random) -> None:
    """The next body of the learner's turns out to hold a NaN."""
    learner.spoilt = True


def break_link(fleet: Fleet, learner: Learner, random: Random) -> None:
    """At one end first; what was sent before arrives at the other end, or it does not."""
    wire = learner.wire
    if wire is None:
        return
    arrives = random.random() < 0.5
    if random.random() < 0.5:
        learner.unlink()
        left = wire.up
    else:
        if not wire.ended:
            fleet.lose(wire)
        left = wire.down
    if not arrives:
        for queue in left.values():
            queue.clear()


def flap(fleet: Fleet, learner: Learner, random: Random) -> None:
    """Its link breaks, and both ends see it at once."""
    wire = learner.wire
    if wire is not None:
        learner.unlink()
        if not wire.ended:
            fleet.lose(wire)


def kill_agent(fleet: Fleet, learner: Learner, random: Random) -> None:
    """At once, or in the middle of what it does next; preferably of one that waits for an answer."""
    handed = [each for each in fleet.learners if each.driver is not None and each.driver.core.handed]
    if handed and random.random() < 0.5:
        learner = random.choice(handed)
    if learner.driver is None or learner.ended:
        return
    how = random.random()
    if how < 0.3:
        learner.fuse = random.randint(1, 12)
    elif how < 0.5:
        learner.fatal = True
    else:
        learner.die()
        if random.random() < 0.5:
            learner.begin_agent()
            learner.link()


def freeze(fleet: Fleet, learner: Learner, random: Random) -> None:
    """Trainer and agent stand still for a while."""
    learner.asleep = random.randint(3, 20)


def hinder(fleet: Fleet, learner: Learner, random: Random) -> None:
    """Values leave slowly, or at once again."""
    if learner.wire is not None:
        learner.wire.slow = random.random() < 0.8


def burden(fleet: Fleet, learner: Learner, random: Random) -> None:
    """The plane takes its time, or none again."""
    fleet.plane.slow = random.random() < 0.8


def fill_disk(fleet: Fleet, learner: Learner, random: Random) -> None:
    """The next version comes to nothing."""
    fleet.plane.failures = 1


def crash(fleet: Fleet, learner: Learner, random: Random) -> None:
    """The syncer's, with its log kept. Some come back at once, and some of their links break before the Welcome has arrived."""
    fleet.crash(random.choice((0.0, 0.5, 1.0)))
    _come_back(fleet, random)


def fall_back(fleet: Fleet, learner: Learner, random: Random) -> None:
    """The syncer's, with its log lost."""
    if fleet.fall_back():
        _come_back(fleet, random)


def _come_back(fleet: Fleet, random: Random) -> None:
    for each in fleet.learners:
        if random.random() < 0.8:
            each.link()
        if each.wire is not None and each.wire.up["control"] and random.random() < 0.3:
            fleet.hear(each.wire, "control")
            each.unlink()
            each.link()


def shout(fleet: Fleet, learner: Learner, random: Random) -> None:
    """The learner's next bodies are a thousand times too large."""
    learner.loud = random.randint(1, 6)


def readmit(fleet: Fleet, learner: Learner, random: Random) -> None:
    """The operator lets somebody in again, needed or not."""
    fleet.driver.feed(Readmit(learner=random.choice([*fleet.core.members.by_id, 77])))


HARMS: list[Harm] = [
    *[shuffle] * 4,
    *[duplicate] * 4,
    *[drop] * 2,
    *[spoil] * 2,
    *[break_link] * 4,
    *[kill_agent] * 7,
    *[freeze] * 4,
    *[hinder] * 4,
    *[burden] * 2,
    *[fill_disk] * 2,
    *[lambda fleet, learner, _: fleet.kill_trainer(learner)] * 2,
    *[lambda fleet, learner, _: fleet.kill_island(learner)] * 2,
    *[lambda fleet, *_: fleet.save()] * 3,
    *[crash] * 2,
    *[fall_back] * 4,
    *[shout] * 2,
    readmit,
]
GUST: list[Harm] = [*[flap] * 5, *[crash] * 2, freeze, hinder, burden]
"""What must not cost a token at the end."""
DEATHS: list[Harm] = [*[crash] * 5, *[flap] * 3, freeze, hinder, *[burden] * 2]
"""What must not cost a token at any time."""


# ------------------------------------------------------------------ whole runs


def storm(policy: Policy, learners: int, blows: int, seed: int, cut: int = -1, harms: Sequence[Harm] = HARMS,
          at_end: Sequence[Harm] = HARMS) -> Fleet:  # fmt: skip
    """A run with so many blows from its first moment on, and some more as it comes to its end."""
    fleet = Fleet(policy, learners, cut)
    random = Random(seed)
    for learner in fleet.learners:
        learner.link()
    while fleet.flow() and harms is not HARMS:  # in a calm everybody is there from the first step on
        pass
    for most, present in ((blows, harms), (blows // 3, at_end)):
        fleet.plane.slow = random.random() < 0.5
        fleet.ambush = present is HARMS
        for _ in range(most):
            blow(fleet, random, present)
        fleet.run_to(ENDING, FINAL, ENDED)
    fleet.finish()
    settle(fleet)
    return fleet


def settle(fleet: Fleet) -> None:
    """What must hold at the end of any run."""
    total = fleet.core.ledger.total()
    assert total.processed == total.merged + sum(total.lost.values())
    assert total.tokens * fleet.layout.total == total.processed
    assert total.tokens <= fleet.census.made, "more was counted than was done"
    forgotten = fleet.fell_back and fleet.any_refused  # what had been refused is not known any more, and lost by another cause
    if fleet.policy.on_excluded == "carry" and not forgotten:
        assert not total.lost["excluded"], "what is carried is not lost"


def calm(policy: Policy, learners: int, blows: int, seed: int) -> Fleet:
    """A run without faults: nothing may be lost but by overlap, and under `rebase` nothing at all."""
    fleet = _patient(policy, learners, blows, seed, ())
    total = fleet.core.ledger.total()
    assert policy.on_included != "rebase" or not total.lost["overlap"]
    return fleet


def gusts(policy: Policy, learners: int, blows: int, seed: int) -> Fleet:
    """A calm but for links that break as the run comes to its end: the last round waits for all, and nothing more is lost."""
    return _patient(policy, learners, blows, seed, GUST)


def deaths(policy: Policy, learners: int, blows: int, seed: int) -> Fleet:
    """The syncer dies again and again, and its log is kept: nobody begins a new generation, and nothing more is lost."""
    fleet = _patient(policy, learners, blows, seed, DEATHS, DEATHS)
    assert all(member.generation == 1 for member in fleet.core.members)
    return fleet


def _patient(policy: Policy, learners: int, blows: int, seed: int, at_end: Sequence[Harm],
             harms: Sequence[Harm] = ()) -> Fleet:  # fmt: skip
    patient = policy.replace(silent_after=1e6, sync_timeout=1e6, round_timeout=1e6, final_timeout=1e6)
    fleet = storm(patient, learners, blows, seed, harms=harms, at_end=at_end)
    total = fleet.core.ledger.total()
    assert total.tokens == fleet.census.made
    assert not any(amount for cause, amount in total.lost.items() if cause != "overlap"), f"lost in a calm: {total.lost}"
    return fleet
