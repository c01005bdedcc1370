"""Goodput: closed forms of every rule, and the fast loop against a plain one that keeps every slice's state."""

from __future__ import annotations

import heapq
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.errors import ConfigError
from skerry.simulate.goodput import DAY, YEAR, Job, follow, simulate, without
from skerry.simulate.returns import Returns

CLOSE = 0.002
LAWS = [Returns(law="constant"), Returns(law="exponential"), Returns(shape=0.8, power=2.0), Returns(shape=1.5, power=1.0)]
# Slices of one chip, so that next to no failure hits a slice that is away or waits: the closed forms know no slices.
ELASTIC = Job(chips=1_200_000, learners=1, kind="elastic", slice_chips=1, days=40, returns=Returns(law="constant", mean=40.0))


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("returns", LAWS, ids=str)
@pytest.mark.parametrize("chips", [150_000, 600_000])
def test_rigid_runs_1_over_1_plus_failures_in_a_return(returns, chips):
    job = Job(chips=chips, kind="rigid", days=30_000_000 / chips, returns=returns)
    found = simulate(job, 1)
    assert found.goodput == pytest.approx(1 / (1 + job.rate * returns.mean), abs=CLOSE)
    assert found.uptime == pytest.approx(found.goodput, abs=1e-9)


@pytest.mark.parametrize("returns", LAWS, ids=str)
def test_a_stop_that_every_failure_lengthens(returns):
    """Running is an empty queue with a server for everyone: exp(-load), whatever the law."""
    job = Job(chips=400_000, kind="rigid", stops="lengthened", days=75, returns=returns)
    assert simulate(job, 0).goodput == pytest.approx(math.exp(-job.rate * returns.mean), abs=CLOSE)


@pytest.mark.parametrize(("stalls", "expected"), [
    ("absorbed", lambda load: 1 / (1 + load)),
    ("restarting", lambda load: math.exp(-load)),
    ("queued", lambda load: 1 / (1 + load * math.exp(load))),
])  # fmt: skip
def test_shrink_stalls_alone(stalls, expected):
    job = replace(ELASTIC, stalls=stalls, grow=0.0)
    assert simulate(job, 0).uptime == pytest.approx(expected(job.rate * job.shrink), abs=CLOSE)


@pytest.mark.parametrize("chips", [150_000, 600_000, 1_200_000])
def test_shrink_and_grow_stalls(chips):
    job = replace(ELASTIC, chips=chips, days=50_000_000 / chips)
    load, left = job.rate * job.shrink, job.rate * job.grow * math.exp(-job.rate * job.returns.mean)
    assert simulate(job, 0).uptime == pytest.approx((1 - left) / (1 + load), abs=CLOSE)


def test_goodput_is_uptime_less_the_slices_that_are_out():
    """Failures so rare that each is over before the next: a slice is out while the learner runs without it."""
    job = Job(chips=25_600, learners=1, kind="elastic", days=1000, returns=Returns(law="constant", mean=77.0))
    cycle = 1 / job.rate + 77.0
    lost = (job.shrink + job.grow + (77.0 - job.shrink) / job.slices) / cycle
    assert simulate(job, 0).goodput == pytest.approx(1 - lost, abs=lost / 20)


@pytest.mark.parametrize("learners", [2, 3, 6])
def test_some_learner_runs(learners):
    job = replace(ELASTIC, chips=800_000 * learners, learners=learners, kind="decoupled", days=20)
    load, left = job.rate * job.shrink, job.rate * job.grow * math.exp(-job.rate * job.returns.mean)
    stands = 1 - (1 - left) / (1 + load)
    assert simulate(job, 0).uptime == pytest.approx(1 - stands**learners, abs=CLOSE)


def test_decoupled_learners_do_as_well_as_one_job_of_their_size():
    whole = simulate(Job(chips=2_400_000, learners=8, days=10), 0)
    part = simulate(Job(chips=300_000, kind="elastic", days=80), 0)
    assert whole.goodput == pytest.approx(part.goodput, abs=0.003)


# ---------------------------------------------------------------- against a plain loop


def plain(job: Job, failures: list) -> tuple[float, float]:
    """One elastic learner, slice by slice and event by event: (slice seconds trained, seconds run)."""
    members, waiting, away = set(range(job.slices)), set(), set()
    events = [(at, 0, place, delay) for at, place, delay in failures]
    heapq.heapify(events)
    stall, again = None, False  # the present stall's end event; whether one more follows
    trained = run = now = 0.0

    def begin(seconds):
        nonlocal stall
        stall = (now + seconds, 2, 0, 0.0)
        heapq.heappush(events, stall)

    def let_in():
        members.update(waiting)
        waiting.clear()

    while events and events[0][0] < job.seconds:
        event = heapq.heappop(events)
        if stall is None:
            trained += (event[0] - now) * len(members)
            run += (event[0] - now) * bool(members)
        now, kind, place, delay = event
        if kind == 0 and place not in away:
            was_member = place in members
            members.discard(place), waiting.discard(place), away.add(place)
            heapq.heappush(events, (now + delay, 1, place, 0.0))
            if was_member and (stall is None or job.stalls == "restarting"):
                begin(job.shrink)
            elif was_member and job.stalls == "queued":
                again = True
        elif kind == 1:
            away.discard(place), waiting.add(place)
            if not away and stall is None:
                let_in()
                begin(job.grow)
        elif kind == 2 and event is stall:  # not one that a restart has replaced
            stall = None
            if again:
                again = False
                begin(job.shrink)
            elif not away:
                let_in()
    if stall is None:
        trained += (job.seconds - now) * len(members)
        run += (job.seconds - now) * bool(members)
    return trained, run


@pytest.mark.parametrize("stalls", ["absorbed", "restarting", "queued"])
@pytest.mark.parametrize("slices", [1, 3, 40])
def test_the_same_as_slice_by_slice(stalls, slices):
    draws = np.random.default_rng(slices)
    job = Job(chips=slices, learners=1, kind="elastic", slice_chips=1, days=0.5, stalls=stalls)
    for mean_gap in (10.0, 40.0, 200.0) * 5:
        times = np.cumsum(draws.exponential(mean_gap, int(job.seconds / mean_gap)))
        times = times[times < job.seconds]
        places, delays = draws.integers(slices, size=len(times)), draws.exponential(50.0, len(times))
        failures = list(zip(times.tolist(), places.tolist(), delays.tolist(), strict=True))
        course = follow(job, failures)
        assert (course.trained, float(np.sum(course.ends - course.begins))) == pytest.approx(plain(job, failures), abs=1e-3)


@given(st.lists(st.integers(0, 60), max_size=20, unique=True), st.lists(st.integers(0, 60), max_size=20, unique=True))
def test_intervals_less_intervals(ours, theirs):
    def intervals(points):
        points = sorted(points)[: len(points) // 2 * 2]
        return np.array(points[::2], float), np.array(points[1::2], float)

    def covered(begins, ends):
        return {x for a, b in zip(begins.astype(int), ends.astype(int), strict=True) for x in range(a, b)}

    begins, ends = without(*intervals(ours), *intervals(theirs))
    assert covered(begins, ends) == covered(*intervals(ours)) - covered(*intervals(theirs))
    assert (begins < ends).all() and (ends[:-1] <= begins[1:]).all()


# ---------------------------------------------------------------- what the draws and the laws are


def test_portions_of_the_draws_do_not_show(monkeypatch):
    job = Job(chips=300_000, learners=2, days=3)
    whole = simulate(job, 5)
    monkeypatch.setattr("skerry.simulate.goodput.CHUNK", 100)
    assert simulate(job, 5).failures == whole.failures
    assert simulate(job, 5).goodput == pytest.approx(whole.goodput, abs=1e-9)
    assert simulate(job, 6).failures != whole.failures


def test_failures_come_at_their_rate():
    job = Job(chips=1_000_000, learners=4, mtbi=YEAR / 2, days=30)
    heard = []
    found = simulate(job, 0, heard.append)
    assert found.failures == sum(heard) == pytest.approx(job.failures, abs=4 * math.sqrt(job.failures))
    assert job.failures == pytest.approx(1_000_000 * 2 * 30 / 365)


@pytest.mark.parametrize("returns", [*LAWS, Returns(shape=0.5, power=3.0), Returns(shape=3.0, power=0.4)], ids=str)
def test_delays_have_their_mean(returns):
    uniform = (np.arange(2_000_000) + 0.5) / 2_000_000
    assert returns.delays(uniform).mean() == pytest.approx(returns.mean, rel=2e-3)


def test_delays_have_their_law():
    uniform = np.array([0.1, 0.5, 0.99])
    delays = Returns(mean=10.0, shape=0.7, power=1.0).delays(uniform)
    assert 1 - np.exp(-((delays * math.gamma(1 + 1 / 0.7) / 10.0) ** 0.7)) == pytest.approx(uniform)
    # Raised to its power, the law of one slice is that of the longest of so many.
    one, three = Returns(shape=0.7, power=1.0), Returns(shape=0.7, power=3.0)
    ratio = three.delays(uniform**3) / one.delays(uniform)
    assert ratio == pytest.approx(ratio[0]) and ratio[0] < 1


@pytest.mark.parametrize(("wrong", "named"), [
    ({"learners": 0}, "learners = 0"), ({"chips": 3, "learners": 4}, "learners = 4"), ({"chips": -1}, "chips = -1"),
    ({"mtbi": -YEAR}, "mtbi = "), ({"mtbi": math.nan}, "mtbi = nan"), ({"days": 0.0}, "days = 0.0"),
    ({"shrink": -1.0}, "shrink = -1.0"), ({"grow": math.inf}, "grow = inf"), ({"kind": "soft"}, "kind = 'soft'"),
    ({"stalls": "x"}, "stalls = 'x'"), ({"stops": "x"}, "stops = 'x'"), ({"slice_chips": 0}, "slice_chips = 0"),
    ({"mtbi": DAY, "days": 1e5}, "days = 100000.0"),
])  # fmt: skip
def test_what_a_job_cannot_be(wrong, named):
    with pytest.raises(ConfigError, match=named) as error:
        Job(**wrong)
    assert error.value.remedy


@pytest.mark.parametrize("wrong", [{"mean": -1.0}, {"law": "normal"}, {"shape": 0.0}, {"power": math.nan}])
def test_what_returns_cannot_be(wrong):
    with pytest.raises(ConfigError, match="cannot work; "):
        Returns(**wrong)
