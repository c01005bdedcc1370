"""What must not reach the model does not, its sender hears why, and the run goes on for everybody else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random

import numpy as np
import pytest
from safetensors.numpy import save_file

from skerry.core.layout import TensorSpec, build_layout
from skerry.core.ledger import Ledger
from skerry.core.members import Member
from skerry.core.messages import (
    Abstain,
    Contribution,
    Count,
    Delivery,
    Join,
    ProvideInitial,
    Refused,
    Report,
    RequestInitial,
    TakenOver,
    Verdict,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.errors import ConfigError, DataError, ProtocolError, RunDirError
from skerry.fabric.messages import LayoutText, Vitals
from skerry.store.snapshot import by_name, split
from skerry.syncer.meters import Meters
from support.puppet import Puppet, Raw, running, small_layout, train, until

POLICY = Policy(fragments=2, interval=4, grace=0.0, silent_after=30.0)
LAYOUT = small_layout(POLICY)


async def held(server) -> np.ndarray:
    """The global model, when all that was asked for is done."""
    await until(lambda: not server._worker.queued)
    return np.concatenate(server.run.plane.merger.slots.thetas())


def scenario(tmp_path, play, policy=POLICY, **config):
    """Run `play(server)` against a syncer."""

    async def all_of_it():
        async with running(tmp_path / "run", policy, **config) as server:
            return await play(server)

    return asyncio.run(all_of_it())


async def begun(server, count: int = 1) -> list[Puppet]:
    puppets = [Puppet(POLICY, LAYOUT, seed=i) for i in range(count)]
    for puppet in puppets:
        await puppet.join(server.address)
    await until(lambda: all(puppet.begun for puppet in puppets))
    return puppets


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_and_named(tmp_path, bad, capfd):
    async def play(server):
        (puppet,) = await begun(server)

        spoiled = []

        def spoil(order, values):
            values[-1] = bad  # the last element of the fragment
            spoiled.append(order)

        puppet.spoil = spoil
        theta = await held(server)
        await train([puppet], lambda: spoiled)
        await until(lambda: puppet.all(Verdict))
        answer = puppet.all(Verdict)[0]
        tensor = LAYOUT.tensors[LAYOUT.fragments[answer.fragment][-1].tensor].name
        assert answer.verdict == "refused"
        assert answer.reason.startswith("non-finite") and answer.reason.endswith(f"in tensor {tensor}")
        assert np.array_equal(await held(server), theta), "the model is untouched"
        puppet.spoil = lambda order, values: None
        await until(lambda: puppet.memory.base == [0, 0] and len(puppet.all(Delivery)) >= 3)  # given again
        await train([puppet], lambda: server.run.core.rounds.closed >= 3)
        assert np.isfinite(await held(server)).all()
        assert server.run.core.ledger.total().lost["refused"] > 0
        await until(lambda: server.run.plane.pool.free == server.run.plane.pool.count)
        return tensor

    tensor = scenario(tmp_path, play)
    said = [json.loads(line) for line in capfd.readouterr().err.splitlines() if "non-finite" in line]
    assert said[0]["learner"] == 0 and tensor in said[0]["text"] and "fragment" in said[0]["text"]


def test_a_model_that_is_not_finite_cannot_begin_a_run(tmp_path):
    async def play(server):
        bad, good = Puppet(POLICY, LAYOUT, seed=0), Puppet(POLICY, LAYOUT, seed=1)
        bad.theta[3] = np.nan
        await bad.join(server.address)
        assert (await bad.one(Verdict)).verdict == "refused"
        await until(lambda: bad.ended)
        assert "non-finite" in bad.ended or not server.run.core.versions
        await good.join(server.address)
        await until(lambda: good.begun)
        assert np.array_equal(await held(server), good.theta)
        assert good.all(Delivery)[0].version == 0

    scenario(tmp_path, play)


def test_the_next_one_gives_the_model_if_the_first_dies_of_it(tmp_path):
    async def play(server):
        first, second = Raw(LAYOUT), Puppet(POLICY, LAYOUT, seed=1)
        await first.connect(server.address)
        first.link.send(Join(layout=LAYOUT.hash))
        await first.tell_layout()
        await first.one(RequestInitial)
        welcome = await first.one(Welcome)
        body = np.ones(LAYOUT.sizes[0], np.float32)
        await first.link.send_bulk(ProvideInitial(learner=welcome.learner, generation=1, fragment=0), body.tobytes())
        await second.join(server.address)
        await first.end()
        await until(lambda: second.begun)
        assert np.array_equal(await held(server), second.theta) and np.array_equal(second.base, second.theta)

    scenario(tmp_path, play)


def test_another_layout_is_refused(tmp_path):
    other = build_layout([TensorSpec(name="w", shape=(3, 3)), TensorSpec(name="v", shape=(3,))], 2, "balanced")

    async def play(server):
        (puppet,) = await begun(server)
        stranger = Puppet(POLICY, other)
        await stranger.join(server.address)
        refused = await stranger.one(Refused)
        assert refused.code == "layout" and "join with the same model" in refused.reason
        await until(lambda: stranger.ended)
        await train([puppet], lambda: server.run.core.rounds.closed > 2)

    scenario(tmp_path, play)


@pytest.mark.parametrize(
    ("layout", "why"),
    [
        (build_layout([TensorSpec(name="w", shape=(9,))], 1, "balanced"), "in 1 fragments, the run's policy has 2"),
        (build_layout([TensorSpec(name=n, shape=(1 << 24, 1 << 24)) for n in "ab"], 2, "balanced"), "of the syncer's memory"),
    ],
)
def test_a_first_layout_that_cannot_be(tmp_path, layout, why):
    async def play(server):
        first = Raw(layout)
        await first.connect(server.address)
        first.link.send(Join(layout=layout.hash))
        await first.tell_layout()
        refused = await first.one(Refused)
        assert refused.code == "layout" and why in refused.reason
        await begun(server)

    scenario(tmp_path, play)


@pytest.mark.parametrize(
    "text", [b"{}", b"\xff\xfe", b"[1]", b'{"layout": {"tensors": 3}, "aliases": {}, "config": 0}',
             b'{"layout": {"tensors": [["a", [2], false]], "fragments": [[[0, 0, 1]]]}, "aliases": {}, "config": 0}'],
)  # fmt: skip
def test_no_layout_at_all(tmp_path, text):
    async def play(server):
        first = Raw(LAYOUT)
        await first.connect(server.address)
        await first.link.send_bulk(LayoutText(hash=LAYOUT.hash), text)
        await until(lambda: first.ended)
        assert "gave this side up" in first.ended and "LayoutText" in first.ended
        await begun(server)

    scenario(tmp_path, play)


IMPOSSIBLE = {
    "a generation beyond all": Join(layout=LAYOUT.hash, generation=2**64 - 1),
    "a learner beyond all": Join(layout=LAYOUT.hash, learner=2**63 - 1),
    "more fragments than there are": Join(layout=LAYOUT.hash, generation=1, learner=0, bases=(0, 0, 7), settled=(Count(),) * 3),
    "counters of fewer fragments than bases": Join(layout=LAYOUT.hash, generation=1, learner=0, bases=(0, 0), settled=()),
    "a clock from nowhere": Join(layout=LAYOUT.hash, generation=1, learner=0, clock=1 << 50),
    "counters below zero": Join(layout=LAYOUT.hash, count=Count(0, -1, 0)),
    "a generation far ahead": Join(layout=LAYOUT.hash, learner=0, generation=1 << 40),
    "more steps than there was time for": Join(layout=LAYOUT.hash, learner=0, generation=1, count=Count(10**6, 5, 5)),
    "more tokens than there was time for": Join(layout=LAYOUT.hash, learner=0, generation=1, count=Count(5, 10**12, 5)),
    "more tokens settled than there was time for": Join(layout=LAYOUT.hash, learner=0, generation=1, bases=(0, 0),
                                                        settled=(Count(), Count(1, 10**12, 1))),
    "a clock that leads by more than there was time for": Join(layout=LAYOUT.hash, learner=0, generation=1, clock=10**6),
}  # fmt: skip


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_a_join_that_no_learner_could_say_ends_its_link_and_nothing_else(tmp_path, what):
    async def play(server):
        (good,) = await begun(server)
        bad = Raw(LAYOUT)
        await bad.connect(server.address)
        bad.link.send(IMPOSSIBLE[what])
        await until(lambda: bad.ended)
        assert "gave this side up" in bad.ended
        await train([good], lambda: server.run.core.rounds.closed > 2)
        assert len(server.run.core.members) == 1 and server.run.core.step < 10_000

    scenario(tmp_path, play)


SENSELESS = {
    "a version that is not": lambda n: TakenOver(**n, fragment=0, version=99, clock=0, settled=Count(), count=Count()),
    "a fragment that is not": lambda n: Abstain(**n, fragment=7, step=1),
    "a clock from nowhere": lambda n: Report(**n, clock=1 << 50, count=Count()),
    "more steps than there was time for": lambda n: Report(**n, clock=0, count=Count(10**6, 5, 5)),
    "more tokens than there was time for": lambda n: Report(**n, clock=0, count=Count(5, 10**12, 5)),
    "a clock that leads by more than there was time for": lambda n: Report(**n, clock=10**6, count=Count()),
    "a take-over with more work than there was time for": lambda n: TakenOver(**n, fragment=0, version=0, clock=10**6,
                                                                             settled=Count(), count=Count()),
    "another learner's work": lambda n: Report(learner=n["learner"] ^ 1, generation=1, clock=0, count=Count(1, 1, 1)),
    "another learner's vitals": lambda n: Vitals(learner=n["learner"] ^ 1, generation=1, median_step_us=1, max_gap_us=1,
                                                 max_hook_us=1, hook_us=1, span_us=1),
    "what a later generation says": lambda n: Report(learner=n["learner"], generation=2, clock=0, count=Count(1, 1, 1)),
    "counters below zero": lambda n: Report(**n, clock=0, count=Count(-1, 0, 0)),
    "a second Join": lambda n: Join(layout=LAYOUT.hash),
}


@pytest.mark.parametrize("what", SENSELESS)
def test_senseless_messages_end_the_link_and_nothing_else(tmp_path, what):
    async def play(server):
        good, bad = await begun(server, 2)
        bad.link.send(SENSELESS[what]({"learner": bad.memory.learner, "generation": 1}))
        await until(lambda: bad.ended)
        assert "gave this side up" in bad.ended
        await train([good], lambda: server.run.core.rounds.closed > 2)
        assert good.ended is None

    scenario(tmp_path, play)


SENSELESS_BODIES = {
    "too short": lambda n: (Contribution(**n, fragment=0, step=0, base=0, since=Count(), until=Count(1, 1, 1)), 10),
    "of no fragment": lambda n: (Contribution(**n, fragment=-1, step=0, base=0, since=Count(), until=Count(1, 1, 1)), 10),
    "under another learner's name": lambda n: (
        Contribution(learner=n["learner"] ^ 1, generation=1, fragment=0, step=0, base=0, since=Count(), until=Count(1, 1, 1)),
        2 * LAYOUT.sizes[0]),
    "of a generation to come": lambda n: (
        Contribution(learner=n["learner"], generation=2, fragment=0, step=0, base=0, since=Count(), until=Count(1, 1, 1)),
        2 * LAYOUT.sizes[0]),
    "more work than there was time for": lambda n: (
        Contribution(**n, fragment=0, step=0, base=0, since=Count(), until=Count(10**6, 10**6, 1)), 2 * LAYOUT.sizes[0]),
    "no steps": lambda n: (Contribution(**n, fragment=0, step=0, base=0, since=Count(), until=Count(0, 1, 1)),
                           2 * LAYOUT.sizes[0]),
    "not asked for (again)": lambda n: (ProvideInitial(**n, fragment=0), 4 * LAYOUT.sizes[0]),
}  # fmt: skip


@pytest.mark.parametrize("what", SENSELESS_BODIES)
def test_senseless_bodies_end_the_link_and_nothing_else(tmp_path, what):
    async def play(server):
        bad, good = await begun(server, 2)  # the bad one is the one that was asked for the model
        theta = await held(server)
        message, nbytes = SENSELESS_BODIES[what]({"learner": bad.memory.learner, "generation": 1})
        with contextlib.suppress(ConnectionError):  # it may have ended before all of the body is gone
            await bad.link.send_bulk(message, bytes(nbytes))
        await until(lambda: bad.ended)
        assert "gave this side up" in bad.ended
        assert np.array_equal(await held(server), theta)
        await train([good], lambda: server.run.core.rounds.closed > 2)
        await until(lambda: server.run.plane.pool.free == server.run.plane.pool.count)

    scenario(tmp_path, play)


def test_of_a_generation_that_is_closed_nothing_is_heard(tmp_path):
    async def play(server):
        (puppet,) = await begun(server)
        again = Raw(LAYOUT)
        await again.connect(server.address)
        again.link.send(Join(learner=puppet.memory.learner, layout=LAYOUT.hash))
        name = {"learner": puppet.memory.learner, "generation": 1}
        assert (await again.one(Welcome)).generation == 2
        until_ = Count(9, 9, 9)
        again.link.send(Report(**name, clock=5, count=until_))
        late = Contribution(**name, fragment=0, step=0, base=9, since=Count(), until=until_)
        await again.link.send_bulk(late, bytes(2 * LAYOUT.sizes[0]))
        again.link.send(Report(learner=puppet.memory.learner, generation=2, clock=1, count=Count(1, 7, 1)))
        await until(lambda: server.run.core.ledger.tallies[puppet.memory.learner].tokens == 7)
        await until(lambda: server.run.plane.pool.free == server.run.plane.pool.count)
        assert not again.ended

    scenario(tmp_path, play)


def test_a_learner_whose_link_was_down_may_tell_of_all_that_it_did(tmp_path):
    """And one that was there before the syncer was resumed may have worked while there was none."""
    clock = [0.0]
    member = Member(0, Ledger([1]).open(0, 1), heard=0.0, first_join=1.0)
    meters = Meters(10.0, 1000.0, lambda: clock[0])
    clock[0] = 1.0
    meters.charge(member, 0, 1, Count(1, 10, 1))
    clock[0] = 601.0
    meters.charge(member, 0, 6000, Count(6000, 600_000, 1))
    with pytest.raises(ProtocolError, match=r"6,051 steps in 605 s: more than syncer\.max_steps_s = 10 allows"):
        meters.charge(member, 0, 6051, Count(6051, 600_000, 1))
    with pytest.raises(ProtocolError, match=r"605,001 tokens in 605 s: more than syncer\.max_tokens_s = 1000 allows"):
        meters.charge(member, 0, 6000, Count(6000, 605_001, 1))
    member.account = Ledger([1]).open(0, 2)  # a new generation counts from zero, and has no new allowance
    with pytest.raises(ProtocolError):
        meters.charge(member, 6000, 6000, Count(51, 0, 0))
    member.account.count = Count(100, 100, 100)
    resumed = Meters(10.0, 1000.0, lambda: 601.0 + clock[0] - 601.0, absent=600.0)
    resumed.charge(member, 100, 6100, Count(6100, 600_100, 100))


def test_who_leads_the_run_again_and_again_is_charged_for_all_of_it():
    """With a quorum of one the run follows whoever leads."""
    clock = [0.0]
    member = Member(0, Ledger([1]).open(0, 1), heard=0.0, first_join=0.5)
    meters = Meters(10.0, 1000.0, lambda: clock[0])
    with pytest.raises(ProtocolError, match="max_steps_s"):
        for step in range(0, 1000, 10):
            meters.charge(member, step, step + 10, Count())


def test_a_run_has_no_more_learners_than_it_may(tmp_path):
    async def play(server):
        await begun(server, 2)
        third, first = Raw(LAYOUT), Raw(LAYOUT)
        await third.connect(server.address)
        third.link.send(Join(layout=LAYOUT.hash))
        assert (await third.one(Refused)).code == "full"
        await first.connect(server.address)
        first.link.send(Join(learner=0, layout=LAYOUT.hash))
        assert (await first.one(Welcome)).generation == 2

    scenario(tmp_path, play, max_learners=2)


def test_garbage_is_only_its_senders_business(tmp_path):
    async def play(server):
        (puppet,) = await begun(server)
        host, port = server.address.rsplit(":", 1)
        rng = random.Random(5)
        for _ in range(30):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(rng.choice([b"SKRY", b"GET / HTTP/1.1\r\n\r\n", b""]) + rng.randbytes(rng.randrange(2000)))
            writer.write_eof()
            while await reader.read(1000):
                pass
            writer.close()
        await train([puppet], lambda: server.run.core.rounds.closed > 2)

    scenario(tmp_path, play)


def test_values_from_a_file_begin_the_run(tmp_path):
    flat = np.random.default_rng(3).normal(size=LAYOUT.total).astype(np.float32)
    save_file({**by_name(LAYOUT, split(LAYOUT, flat)), "another": np.zeros(3, np.float32)}, tmp_path / "init.safetensors")

    async def play(server):
        (puppet,) = await begun(server)
        assert np.array_equal(puppet.base, flat) and not puppet.all(RequestInitial)

    scenario(tmp_path, play, init=tmp_path / "init.safetensors")


def test_values_of_another_model_end_the_syncer(tmp_path):
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "init.safetensors")

    async def play(server):
        puppet = Puppet(POLICY, LAYOUT)
        await puppet.join(server.address)
        await until(server.outcome.done)

    with pytest.raises(ConfigError, match=r"is not this model: it has no tensor"):
        scenario(tmp_path, play, init=tmp_path / "init.safetensors")


def test_what_an_operator_can_get_wrong(tmp_path):
    async def play(server):
        await begun(server)

    with pytest.raises(DataError, match="cannot read"):
        scenario(tmp_path, play, init=tmp_path / "none")
    with pytest.raises(RunDirError, match="holds no run to go on with"):
        scenario(tmp_path, play, resume=True)
    scenario(tmp_path, play)
    with pytest.raises(RunDirError, match="holds a run already"):
        scenario(tmp_path, play)
    with pytest.raises(ConfigError, match=r"of that you changed policy\.fragments"):
        scenario(tmp_path, play, policy=POLICY.replace(fragments=3), resume=True)
    with pytest.raises(ConfigError, match="buffers"):
        scenario(tmp_path, play, buffers=0)
