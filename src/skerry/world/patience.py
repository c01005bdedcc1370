"""Where a policy meets learners and a world: whether a run could begin and end, and whether the policy's patience, in seconds,
is enough for the world's steps and links.

Rules of patience: refused is what would lose every round (be it only until learners have seen that they are late, and
answer ahead), or the last one; not what leaves a few slow learners behind. (A run whose rounds are all given up trains
nothing, and would end like any other.)
"""

from __future__ import annotations

import math

from skerry.codecs import get_codec
from skerry.core.layout import Layout
from skerry.core.policy import Policy
from skerry.errors import ConfigError, cannot_work
from skerry.world.world import World

SPREAD = 2.0  # standard deviations above the mean that a step may well take
BEATS = 4000  # signs of life in a step of the run; more would be most of what there is to do


def check_budget(policy: Policy) -> None:
    """Raise ConfigError for a run in virtual time that would never end."""
    if not policy.steps and not policy.tokens:
        raise ConfigError("policy.steps = 0 and policy.tokens = 0: the run would never end", remedy="give one of them")


def check_learners(policy: Policy, learners: int) -> None:
    """Raise ConfigError for a run that would never begin: it waits for more learners than start."""
    for name in ("quorum", "wait_for"):
        if getattr(policy, name) > learners:
            raise ConfigError(f"policy.{name} = {getattr(policy, name)} is more than learners = {learners}: "
                              "the run could never begin", remedy="lower it, or start more learners")  # fmt: skip


def check_data_parallel(steps: int, world: World) -> None:
    """Raise ConfigError for what has no meaning without a policy: one job that stops whenever a part of it does is the
    simulator's business."""
    if steps < 1:
        raise cannot_work("policy.steps", steps, "give 1 or more: without them the run would never end")
    for name in ("faults", "fault_rate"):
        if getattr(world, name):
            raise ConfigError(f"world.{name} = {getattr(world, name)!r}, but data-parallel has no faults here",
                              remedy="leave it out, or choose another method")  # fmt: skip


def check_patience(policy: Policy, layout: Layout, world: World) -> None:
    """Raise ConfigError where a timeout of the policy is shorter than what it waits for."""
    answer = _answer(policy, layout, world)
    late = "a learner answers at the end of its step, which with jitter and its link takes"
    if policy.synchronous:
        takes = "from the first learner's hand-over to the last one's it takes"
        _check(policy, "sync_timeout", _gap(policy, layout, world), takes)
    else:
        _check(policy, "round_timeout", answer, late)
    _check(policy, "final_timeout", answer, late)
    _check(policy, "silent_after", 4 * world.run_step(policy.quorum) / BEATS,
           f"learners say four times in it that they live, and that {BEATS:,} times a step takes")  # fmt: skip


def _check(policy: Policy, name: str, seconds: float, what: str) -> None:
    if getattr(policy, name) <= seconds:
        enough = math.floor(seconds) + 1 if seconds > 1 else float(f"{1.1 * seconds:.2g}")
        takes = f"{seconds:,.{1 if seconds < 100 else 0}f} s"
        raise cannot_work(f"policy.{name}", getattr(policy, name), f"{what} {takes} in this world: give at least {enough}")


def _answer(policy: Policy, layout: Layout, world: World) -> float:
    """Seconds from a question to the answer that completes a quorum."""
    trips = _trips(policy, layout, world)
    times = [world.mean_step(m) * (1 + SPREAD * world.jitter) + trip for m, trip in enumerate(trips)]
    return sorted(times)[policy.quorum - 1]  # quorum 0, all: the last


def _gap(policy: Policy, layout: Layout, world: World) -> float:
    """Synchronous: seconds from the first hand-over at a step to the last. Who is faster gains between two hand-overs, and is
    let tau steps ahead."""
    between = math.ceil(policy.interval / policy.fragments)
    steps = [world.mean_step(m) for m in range(world.learners)]
    times = [between * step + trip for step, trip in zip(steps, _trips(policy, layout, world), strict=True)]
    gap = max(times) - min(times) + SPREAD * world.jitter * max(steps) * math.sqrt(between)
    return gap + policy.overlap * max(steps) if gap > 1e-9 * max(times) else 0.0


def _trips(policy: Policy, layout: Layout, world: World) -> list[float]:
    """Of each learner: seconds for a question, and for the largest fragment as the answer."""
    body = max(map(get_codec(policy.codec_up).nbytes, layout.sizes))
    return [2 * link.latency + link.seconds(body) for link in map(world.link_of, range(world.learners))]
