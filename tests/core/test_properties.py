"""Random events in random order for both cores wired by fake links; the invariants and the ledger after each of them."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.core.messages import Contribution
from skerry.core.policy import ALL, Policy
from support.fake_run import FakeRun


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Every field of the policy, in every combination that can work."""
    synchronous = draw(st.booleans())
    interval = draw(st.integers(2, 6))
    overlap = draw(st.integers(0 if synchronous else 1, min(3, interval - 1)))
    included = ["overwrite", "blend"] + (["rebase"] if overlap else [])
    return Policy(
        fragments=draw(st.integers(1, 4)),
        fragmentation=draw(st.sampled_from(["balanced", "strided", "layer"])),
        interval=interval,
        overlap=overlap,
        synchronous=synchronous,
        quorum=ALL if synchronous else draw(st.sampled_from([ALL, 1, 1, 2])),
        grace=draw(st.sampled_from([0.0, 0.5, 0.9])),
        max_staleness=draw(st.integers(0, 2)),
        wait_for=draw(st.integers(1, 2)),
        merge=draw(st.sampled_from(["rda", "direct"])),
        on_included=draw(st.sampled_from(included)),
        on_excluded=draw(st.sampled_from(["overwrite", "carry"])),
        round_timeout=draw(st.sampled_from([1.0, 20.0])),
        sync_timeout=draw(st.sampled_from([5.0, 60.0])),
        silent_after=draw(st.sampled_from([2.0, 10.0])),
        final_timeout=draw(st.sampled_from([1.0, 30.0])),
        steps=draw(st.sampled_from([0, 8, 25])),
        tokens=draw(st.sampled_from([400, 2000])),
    )


def strike(run: FakeRun, op: int, who: int, how: int) -> None:
    """One random thing happens. Most are ordinary steps and messages, in any order between the channels."""
    learners = list(run.learners.values())
    learner = learners[who % len(learners)]
    channel = ("control", "bulk")[how % 2]
    if op < 70:
        learner.step(1 + how % 7)
    elif op < 120:
        if learner.up[channel]:
            run.hear(learner, channel)
    elif op < 170:
        if learner.down[channel]:
            learner.receive(channel)
    elif op < 200:
        while learner.agent.inbox:
            learner.hear_trainer()
    elif op < 212:
        run.wait((0.01, 0.1, 0.5, 3.0, 12.0)[how % 5])
    elif op < 220:
        learner.link()
    elif op < 224:
        learner.unlink()
    elif op < 227:
        learner.kill_agent()
    elif op < 230:
        run.kill_trainer(learner.id)
    elif op < 232:
        run.kill_island(learner.id)
    elif op < 236:
        shuffle(learner, channel, how)
    elif op < 242:
        duplicate(learner, channel, how)
    elif op < 246:
        run.save()
    elif op < 247:
        run.crash_syncer()
    elif op < 249:
        learner.stop()
    elif op < 251:
        spoil(run, learner)
    else:
        run.flow()


def shuffle(learner, channel: str, how: int) -> None:
    """A message to the syncer comes later than those sent after it."""
    queue = learner.up[channel]
    if len(queue) > 1 and learner.memory.generation:
        queue.rotate(-(how % len(queue)))


def duplicate(learner, channel: str, how: int) -> None:
    """A message comes again, at once or behind others."""
    for queue in (learner.up[channel], learner.down[channel]):
        if queue:
            queue.append(queue[how % len(queue)])


def spoil(run: FakeRun, learner) -> None:
    """The next contribution of the learner turns out to hold a NaN."""
    queue = learner.up["bulk"]
    if queue and isinstance(queue[0][0], Contribution):
        queue[0] = (replace(queue[0][0], flaw="non-finite values in tensor 0.w"), queue[0][1])
        run.hear(learner, "bulk")


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(policy=policies(), more=st.integers(0, 2), events=st.integers(0, 300), seed=st.integers(0, 2**32))
def test_any_events_in_any_order_keep_the_invariants(policy: Policy, more: int, events: int, seed: int) -> None:
    run = FakeRun(policy, max(policy.quorum, policy.wait_for) + more)
    random = Random(seed)
    for learner in run.learners.values():
        learner.link()
    run.flow()
    for _ in range(events):
        strike(run, random.randrange(256), random.randrange(256), random.randrange(256))
    run.run_to_end()
    total = run.core.ledger.total()
    assert total.processed == total.merged + sum(total.lost.values())
    assert total.tokens * run.layout.total == total.processed
