"""What strikes a world: one blow is a kind and a number that all its chances follow from, so that any may be left out.

Beside the harms of the storms (support/storm.py): deaths of the syncer at any effect of its, of its machine, of everybody at
once; links that fall silent; a disk that is slow or full; learners that come and leave; hostile ones, as far as the driver
hears of them (syncer/session.py ends the link of who says what cannot be).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from skerry.core.members import LIVE
from skerry.core.messages import Abstain, Contribution, Count, Join, Leave, Readmit, Received, Report, TakenOver
from support import storm
from support.counting import NAN, NOTHING
from support.learners import Learner
from worlds.wires import WorldWire
from worlds.world import SyncerDied, World

Strike = Callable[[World, Learner, Random], None]
HUGE = 1 << 62
"""No counter reaches it (syncer/session.py)."""


def turn(world: World, learner: Learner, random: Random) -> None:
    """Ordinary life; the disk takes some of what waits for it."""
    if learner.asleep:
        learner.asleep -= 1
        return
    storm.turn(world, learner, random)
    if random.random() < 0.5:
        world.commit(random.choice((1, 3, 10, None)))
    if not world.up and random.random() < 0.3:
        world.restart()


def wait(world: World, learner: Learner, random: Random) -> None:
    world.wait(random.choice((0.01, 0.1, 0.3, 0.6) if world.gentle else (0.01, 0.1, 0.5, 0.5, 3.0, 12.0)))


# ------------------------------------------------------------------ the syncer


def kill_syncer(world: World, learner: Learner, random: Random) -> None:
    """Now, or in the middle of what it does next."""
    if random.random() < 0.6:
        world.fuse = random.randint(1, 15)
    else:
        world.die(random)
    if random.random() < 0.5:
        world.restart()


def end_machine(world: World, learner: Learner, random: Random) -> None:
    if world.machine_level or world.may_go_back:
        world.die(random, machine=True)


def restart_syncer(world: World, learner: Learner, random: Random) -> None:
    world.restart()


def kill_all(world: World, learner: Learner, random: Random) -> None:
    """Everybody's process dies at once; of the trainers' none where nothing may be lost by it."""
    world.die(random)
    for each in [*world.learners, *world.ghosts]:
        if each.driver is not None:
            each.die()
        if not world.gentle and each in world.learners:
            world.kill_island(each)


def roll(world: World, learner: Learner, random: Random) -> None:
    world.roll()


# ------------------------------------------------------------------ the disk


def slow_disk(world: World, learner: Learner, random: Random) -> None:
    world.disk_slow = random.random() < 0.8
    if not world.disk_slow:
        world.commit()


def fill(world: World, learner: Learner, random: Random) -> None:
    """The disk is full, and for so long that nobody's patience would last if the run's time went on. A learner that has no
    link has a time of its own, and leaves a run that is over; where nothing may be lost nobody is kept from one so long."""
    here = [each for each in world.learners if not each.ended]
    if world.gentle and not all(is_linked(each) for each in here):
        return
    world.fill()
    if not world.paused:
        return
    for _ in range(random.randint(1, 3)):
        for each in here:
            each.step(random.randint(1, 7))
            each.beat()
            turn(world, each, random)
        world.wait(50.0)
    if world.gentle:
        world.clear()


def is_linked(learner: Learner) -> bool:
    """Whether it has a link, and that is a good one."""
    wire, driver = learner.wire, learner.driver
    if not isinstance(wire, WorldWire) or driver is None or wire.ended or wire.doomed or wire.silent_since is not None:
        return False
    return driver.core.joined and wire.world.driver.speaks(wire)


def clear(world: World, learner: Learner, random: Random) -> None:
    world.clear()


# ------------------------------------------------------------------ links


def fall_silent(world: World, learner: Learner, random: Random) -> None:
    wire = learner.wire
    if isinstance(wire, WorldWire) and wire.silent_since is None and not wire.ended:
        wire.fall_silent()


# ------------------------------------------------------------------ learners


def come(world: World, learner: Learner, random: Random) -> None:
    if len(world.learners) < 6:
        place = len(world.learners)
        world.learners.append(Learner(world, place, -1 if place % 3 == 1 else 10 + place))


def leave(world: World, learner: Learner, random: Random) -> None:
    """For good, with a last word. So many stay as the run needs."""
    here = [each for each in world.learners if not each.ended]
    if len(here) > max(2, world.policy.quorum, world.policy.wait_for) and not learner.ended:
        learner.ended = True
        learner.end()
        if learner.driver is not None and not learner.driver.over:
            world.ghosts.append(learner)
        else:
            learner.die()


def shout(world: World, learner: Learner, random: Random) -> None:
    """One learner's values are a thousand times too large; never two learners', for that might be the run."""
    if world.loud_place in (None, learner.place):
        world.loud_place = learner.place
        storm.shout(world, learner, random)


def readmit(world: World, learner: Learner, random: Random) -> None:
    if world.up and (quarantined := world.core.members.quarantined):
        world.driver.feed(Readmit(learner=random.choice(quarantined)))


def be_hostile(world: World, learner: Learner, random: Random) -> None:
    """It joins, under an id of its own; from then on it says things. Not before there is a model, for which it may be asked."""
    stranger = world.stranger
    if not world.up or not world.core.versions:
        return
    if stranger.wire is None or stranger.wire.ended or stranger.wire not in world.wires:
        wire = stranger.wire = world.connect(stranger)
        wire.joined_as = Join(learner=99, generation=random.choice((0, 0, 1, 2)), layout=world.layout.hash,
                              clock=random.randint(0, 50), epoch=random.choice((0, 0, 1, 2, HUGE - 1)))  # fmt: skip
        world.strangers.add(99)
        world.driver.join(wire, wire.joined_as)
    for _ in range(random.randint(1, 4)):
        _say_anything(world, stranger.wire, random)
    if random.random() < 0.2 and stranger.wire in world.wires:
        world.lose(stranger.wire)


def _edge(random: Random) -> Count:
    """So much was done more, it says."""
    steps = random.choice((0, 1, 5))
    return Count(steps, steps * random.choice((1, 5, 9, HUGE // 100)), steps * random.choice((1, 1000)))


def _say_anything(world: World, wire: WorldWire, random: Random) -> None:
    core, driver = world.core, world.driver
    if wire.outgoing is not None and random.random() < 0.5:
        world.sent(wire)
    if not wire.generation or wire.ended:
        return
    another = random.random() < 0.1 and core.members.by_id
    learner = random.choice(list(core.members.by_id)) if another else wire.learner
    generation = wire.generation if random.random() < 0.9 else random.randint(0, 3)
    p = random.randrange(world.policy.fragments)
    version = random.randint(0, core.versions[p]) if core.versions else -1
    step = random.choice((core.step, core.step + 1, *(round_.step for round_ in core.rounds.open.values()), HUGE - 1))
    settled = world.stranger.count  # counters grow together; what of that is true, nobody knows
    count = world.stranger.count = Count(*map(sum, zip(settled, _edge(random), strict=True)))
    who: dict[str, Any] = {"learner": learner, "generation": generation}
    match random.randrange(8):
        case 0:
            driver.hear(wire, Report(**who, clock=core.step + random.choice((0, 1, 20)), count=count))
        case 1:
            driver.hear(wire, Abstain(**who, fragment=p, step=step))
        case 2:
            driver.hear(wire, Received(**who, fragment=p, version=random.choice((version, HUGE - 1))))
        case 3 | 4 | 5 if version >= 0:
            driver.hear(wire, TakenOver(**who, fragment=p, version=version, clock=core.step, settled=settled, count=count))
        case 6 if version >= 0:
            step = min(step, core.step + 20)  # synchronous policies: a fragment's rounds go on from there
            since, until = settled, count
            if until.tokens == since.tokens or until.steps > since.steps:
                message = Contribution(**who, fragment=p, step=step, base=version, since=since, until=until)
                if driver.is_own(wire, message):
                    world.plane.put(message.name, NOTHING if random.random() < 0.8 else frozenset({NAN}))
                    driver.contributed(wire, message)
        case 7 if random.random() < 0.1:
            driver.hear(wire, Leave(**who, count=count))


# ------------------------------------------------------------------ all of them, with their weights

GENTLE: dict[str, tuple[int, Strike]] = {
    "turn": (240, turn),
    "wait": (25, wait),
    "message overtaken": (4, storm.shuffle),
    "message twice": (4, storm.duplicate),
    "link broken": (4, storm.break_link),
    "link broken at both ends": (3, storm.flap),
    "link half-open": (4, fall_silent),
    "value slow": (3, storm.hinder),
    "plane slow": (3, storm.burden),
    "agent killed": (5, storm.kill_agent),
    "learner frozen": (3, storm.freeze),
    "syncer killed": (7, kill_syncer),
    "syncer's machine died": (2, end_machine),
    "syncer started": (3, restart_syncer),
    "everybody killed": (1, kill_all),
    "segment begun": (3, roll),
    "disk slow": (4, slow_disk),
    "disk full": (2, fill),
    "disk has room": (4, clear),
}
ROUGH: dict[str, tuple[int, Strike]] = GENTLE | {
    "trainer killed": (2, lambda world, learner, _: world.kill_trainer(learner)),
    "trainer and agent killed": (2, lambda world, learner, _: world.kill_island(learner)),
    "segment begun": (5, roll),
    "syncer's machine died": (4, end_machine),
    "learner leaves": (1, leave),
    "no value of a round": (2, storm.fill_disk),
    "learner comes": (1, come),
    "message lost with its link": (2, storm.drop),
    "values flawed": (2, storm.spoil),
    "values too large": (4, shout),
    "readmitted": (2, readmit),
    "hostile peer": (8, be_hostile),
}
ORDINARY = ("turn", "wait")


def strike(world: World, kind: str, seed: int) -> None:
    """One blow. It counts if it changed anything."""
    random = Random(seed)
    here = [each for each in world.learners if not each.ended] or world.learners
    learner = random.choice(here)
    world.say(f"{kind} ({learner.place})")
    before = None if kind in ORDINARY else _state(world, learner)
    try:
        ROUGH[kind][1](world, learner, random)
    except SyncerDied:
        world.die(random, within=True)
    if before is not None and before != _state(world, learner):
        world.counts[f"fault: {kind}"] += 1


def _state(world: World, learner: Learner) -> tuple[Any, ...]:
    """What a blow may change."""
    wire = learner.wire
    queues = () if wire is None else tuple(id(message) for queue in wire.queues for message, _ in queue)
    return (queues, wire, wire is not None and (wire.slow, wire.doomed, wire.ended, wire.cut), learner.asleep, learner.spoilt,
            learner.driver, learner.fuse, learner.fatal, learner.ended, world.up, world.paused, world.fuse, world.disk_slow,
            world.plane.slow, world.plane.failures, world.events, len(world.learners), len(world.heads), learner.loud,
            sum(each.standing is LIVE for each in world.core.members))  # fmt: skip
