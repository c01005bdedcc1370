"""The world of a run in virtual time: what it refuses, and its randomness: whose it is, and its statistics.

Tolerances are four standard errors of what is estimated, or more; the seeds are fixed, so a test passes always or never.
"""

import math
import statistics
from itertools import islice, pairwise, takewhile

import pytest

from skerry.errors import ConfigError
from skerry.world.links import Link
from skerry.world.world import World

DAY = 86400.0


def _steps(world: World, learner: int, count: int = 500) -> list[float]:
    return list(islice(world.step_times(learner), count))


def _kills(world: World, learner: int, count: int = 100) -> list[str]:
    return [str(fault) for fault in islice(world.random_faults(learner), count)]


@pytest.mark.parametrize(
    ("values", "says", "allowed"),
    [
        ({"learners": 0}, "world.learners = 0", "1 or more"),
        ({"learners": 2.0}, "world.learners = 2.0", "whole number"),
        ({"learners": 10_001}, "world.learners = 10001", "at most 10,000"),
        ({"faults": f"join:{2**64}@3s"}, "world.faults = ", "numbers below 10,000"),
        ({"step_s": 0.0}, "world.step_s = 0.0", "a number above 0"),
        ({"step_s": math.nan}, "world.step_s = nan", "a number above 0"),
        ({"step_s": math.inf}, "world.step_s = inf", "a number above 0"),
        ({"downtime": 0.0}, "world.downtime = 0.0", "a number above 0"),
        ({"restart": -1.0}, "world.restart = -1.0", "give 0 or more"),
        ({"restart": math.inf}, "world.restart = inf", "give 0 or more"),
        ({"speeds": (1.0, 0.0)}, "world.speeds = (1.0, 0.0)", "0.0 is no speed: give numbers above 0"),
        ({"speeds": (math.nan,)}, "world.speeds = (nan,)", "nan is no speed"),
        ({"learners": 2, "speeds": (1.0, 1.0, 2.0)}, "world.speeds = (1.0, 1.0, 2.0)", "at most one a learner (2)"),
        ({"jitter": -0.1}, "world.jitter = -0.1", "at least 0 and below 1"),
        ({"jitter": 1.0}, "world.jitter = 1.0", "at least 0 and below 1"),
        ({"fault_rate": 1.0}, "world.fault_rate = 1.0", "at least 0 and below 1"),
        ({"fault_rate": math.nan}, "world.fault_rate = nan", "at least 0 and below 1"),
        ({"seed": -1}, "world.seed = -1", "at least 0"),
        ({"seed": 2**64}, f"world.seed = {2**64}", "below 2**64"),
        ({"seed": 0.5}, "world.seed = 0.5", "whole number"),
        ({"link": "1ms,fast"}, "link '1ms,fast': cannot read 'fast'", "Gbit"),
        ({"faults": "kill:1@3w"}, "unit 'w' is none of ms, s, m, min, h, d, y", "write faults like"),
        ({"faults": "kill:4@30s"}, "there is no learner 4", "strike 0 to 3 until they leave, others once they have joined"),
        ({"faults": "kill:4@30s join:4@40s"}, "there is no learner 4 by then", "once they have joined"),
        ({"link": "1ms;"}, "link '1ms;' has an empty part", "Gbit"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_made(values, says, allowed):
    with pytest.raises(ConfigError) as error:
        World(**values)
    assert says in error.value.message and allowed in error.value.remedy


def test_what_is_read():
    world = World(learners=2, link="100ms,1Gbit", faults="join:2@5s kill:2@9s+3s")
    assert world.link_of(3) == Link(latency=0.1, bandwidth=1e9)
    turns = World(link="100ms,1Gbit; 5ms")
    assert [turns.link_of(learner).latency for learner in range(3)] == [0.1, 0.005, 0.1]
    assert str(world.script) == world.faults
    assert World().link_of(0) == Link() and len(World().script) == 0


def test_who_may_be_there_may_be_struck():
    """Random kills, and returns from scripted ones: nobody knows who is there, so nothing is refused."""
    World(faults="join:0@3s", fault_rate=0.1)
    World(faults="kill:0@3s join:0@5s kill:0@7s leave:0@9s kill:0@11s")
    World(faults="leave:0@3s join:0@5s kill:0@7s")


def test_speeds_are_repeated_in_turn():
    world = World(learners=4, step_s=6.0, speeds=(1.0, 2.0, 0.5))
    assert [_steps(world, learner, 3) for learner in range(5)] == [[6.0] * 3, [3.0] * 3, [12.0] * 3, [6.0] * 3, [3.0] * 3]


@pytest.mark.parametrize("draw", [_steps, _kills])
def test_what_is_random_depends_on_seed_and_learner_alone(draw):
    world = World(learners=3, jitter=0.3, fault_rate=0.1, seed=7)
    first = draw(world, 1)
    draw(world, 0), draw(world, 2), _steps(world, 1), _kills(world, 1)  # whatever else is drawn
    elsewhere = World(learners=3, jitter=0.3, fault_rate=0.1, seed=7, link="1s", faults="kill:0@5s", speeds=(2.0, 1.0))
    assert draw(world, 1) == draw(elsewhere, 1) == draw(World(learners=9, jitter=0.3, fault_rate=0.1, seed=7), 1) == first
    seeds = (7, 8, 2**63 + 7, 2**63 + 8, 2**64 - 1)  # large ones are told apart, too
    made = [draw(World(learners=3, jitter=0.3, fault_rate=0.1, seed=seed), learner) for seed in seeds for learner in range(3)]
    assert all(len(set(column)) == len(column) for column in zip(*made, strict=True))


def test_two_readers_of_one_learner_do_not_disturb_each_other():
    world = World(jitter=0.3)
    pairs = list(islice(zip(world.step_times(0), world.step_times(0), strict=False), 600))  # more than are drawn at once
    assert all(one == other for one, other in pairs) and len(set(pairs)) == len(pairs)


def test_times_are_plain_floats():
    world = World(jitter=0.3, fault_rate=0.1)
    [fault] = islice(world.random_faults(0), 1)
    assert {type(value) for value in (*_steps(world, 0, 2), fault.at, fault.duration)} == {float}


@pytest.mark.parametrize("jitter", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("learner", [0, 1])
def test_mean_and_spread_of_step_times(jitter, learner):
    """20 000 steps: the mean to 4 jitter / sqrt(n), the spread to 5 %; fast and slow learners spread alike."""
    mean, count = (2.0, 0.5)[learner], 20_000
    steps = _steps(World(learners=2, step_s=2.0, speeds=(1.0, 4.0), jitter=jitter), learner, count)
    assert min(steps) > 0
    assert statistics.mean(steps) == pytest.approx(mean, rel=4 * jitter / math.sqrt(count))
    assert statistics.stdev(steps) / mean == pytest.approx(jitter, rel=0.05)


def test_steps_of_two_learners_have_nothing_to_do_with_each_other():
    world = World(jitter=0.3)
    columns = [_steps(world, learner, 10_000) for learner in (0, 1)] + [_steps(World(jitter=0.3, seed=1), 0, 10_000)]
    for one, other in ((0, 1), (0, 2)):
        assert abs(statistics.correlation(columns[one], columns[other])) < 0.04


@pytest.mark.parametrize(("rate", "downtime"), [(0.02, 60.0), (0.3, 600.0)])
def test_random_kills_take_their_share_of_the_time(rate, downtime):
    """Some 4000 kills of each of two learners: share of time and mean downtime to 10 %, times up and down exponential
    (their spread is their mean, to 10 %)."""
    world = World(learners=2, fault_rate=rate, downtime=downtime)
    horizon = 4000 * downtime / rate
    for learner in range(2):
        faults = list(takewhile(lambda fault: fault.ends < horizon, world.random_faults(learner)))
        assert {(fault.kind, fault.learner, fault.part) for fault in faults} == {("kill", learner, "")}
        down = [fault.duration for fault in faults]
        up = [after.at - before.ends for before, after in pairwise(faults)]
        assert min(up) >= 0, "a learner is killed while it is down"
        assert sum(down) / horizon == pytest.approx(rate, rel=0.1)
        assert statistics.mean(down) == pytest.approx(downtime, rel=0.1)
        for times in (up, down):
            assert statistics.stdev(times) == pytest.approx(statistics.mean(times), rel=0.1)


def test_without_a_fault_rate_nobody_is_killed():
    assert list(World().random_faults(0)) == []


def test_kills_and_steps_are_drawn_apart():
    """The same steps, whether learners are killed at random or not; and no stream of random numbers is used twice."""
    world = World()
    assert len({world._generator(stream, learner).random() for stream in (1, 2) for learner in range(50)}) == 100
    assert _steps(World(jitter=0.3, fault_rate=0.2), 0) == _steps(World(jitter=0.3), 0)
