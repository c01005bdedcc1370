"""What must not reach the model does not, its sender hears why, and the run goes on for everybody else."""

from __future__ import annotations

import asyncio
import json
import random

import numpy as np
import pytest
from safetensors.numpy import save_file

from skerry.core.layout import TensorSpec, build_layout
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
from skerry.errors import ConfigError, DataError, RunDirError
from skerry.fabric.messages import LayoutText
from skerry.store.snapshot import by_name, split
from support.puppet import Puppet, Raw, running, small_layout, train, until

POLICY = Policy(fragments=2, interval=4, grace=0.0, silent_after=30.0)
LAYOUT = small_layout(POLICY)


def held(server) -> np.ndarray:
    """The global model, as it stands."""
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
        theta = held(server)
        await train([puppet], lambda: spoiled)
        await until(lambda: puppet.all(Verdict))
        answer = puppet.all(Verdict)[0]
        tensor = LAYOUT.tensors[LAYOUT.fragments[answer.fragment][-1].tensor].name
        assert answer.verdict == "refused"
        assert answer.reason.startswith("non-finite") and answer.reason.endswith(f"in tensor {tensor}")
        assert np.array_equal(held(server), theta), "the model is untouched"
        puppet.spoil = lambda order, values: None
        await until(lambda: puppet.memory.base == [0, 0] and len(puppet.all(Delivery)) >= 3)  # given again
        await train([puppet], lambda: server.run.core.rounds.closed >= 3)
        assert np.isfinite(held(server)).all()
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
        assert np.array_equal(held(server), good.theta)
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
        assert np.array_equal(held(server), second.theta) and np.array_equal(second.base, second.theta)

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
    "a clock from nowhere": Join(layout=LAYOUT.hash, generation=1, learner=0, clock=1 << 60),
    "counters below zero": Join(layout=LAYOUT.hash, count=Count(0, -1, 0)),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_a_join_that_no_learner_could_say_ends_its_link_and_nothing_else(tmp_path, what):
    async def play(server):
        (good,) = await begun(server)
        bad = Raw(LAYOUT)
        await bad.connect(server.address)
        bad.link.send(IMPOSSIBLE[what])
        await until(lambda: bad.ended)
        await train([good], lambda: server.run.core.rounds.closed > 2)
        assert len(server.run.core.members) == 1

    scenario(tmp_path, play)


SENSELESS = {
    "a version that is not": lambda n: TakenOver(**n, fragment=0, version=99, clock=0, settled=Count(), count=Count()),
    "a fragment that is not": lambda n: Abstain(**n, fragment=7, step=1),
    "a clock from nowhere": lambda n: Report(**n, clock=1 << 60, count=Count()),
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
    "no steps": lambda n: (Contribution(**n, fragment=0, step=0, base=0, since=Count(), until=Count(0, 1, 1)),
                           2 * LAYOUT.sizes[0]),
    "not asked for (again)": lambda n: (ProvideInitial(**n, fragment=0), 4 * LAYOUT.sizes[0]),
}  # fmt: skip


@pytest.mark.parametrize("what", SENSELESS_BODIES)
def test_senseless_bodies_end_the_link_and_nothing_else(tmp_path, what):
    async def play(server):
        bad, good = await begun(server, 2)  # the bad one is the one that was asked for the model
        theta = held(server)
        message, nbytes = SENSELESS_BODIES[what]({"learner": bad.memory.learner, "generation": 1})
        await bad.link.send_bulk(message, bytes(nbytes))
        await until(lambda: bad.ended)
        assert "gave this side up" in bad.ended
        assert np.array_equal(held(server), theta)
        await train([good], lambda: server.run.core.rounds.closed > 2)
        await until(lambda: server.run.plane.pool.free == server.run.plane.pool.count)

    scenario(tmp_path, play)


def test_under_another_name_nothing_is_heard(tmp_path):
    async def play(server):
        good, bad = await begun(server, 2)
        count = Count(1000, 10**9, 10**9)
        bad.link.send(Report(learner=good.memory.learner, generation=1, clock=5, count=count))
        bad.link.send(Report(learner=bad.memory.learner, generation=1, clock=1, count=Count(1, 7, 1)))
        await until(lambda: server.run.core.ledger.tallies[bad.memory.learner].tokens == 7)
        assert server.run.core.ledger.tallies[good.memory.learner].tokens == 0

    scenario(tmp_path, play)


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
    with pytest.raises(RunDirError, match="no snapshot"):
        scenario(tmp_path, play, resume=True)
    scenario(tmp_path, play)
    with pytest.raises(RunDirError, match="holds a run already"):
        scenario(tmp_path, play)
    with pytest.raises(ConfigError, match=r"policy\.fragments = 3, but the run"):
        scenario(tmp_path, play, policy=POLICY.replace(fragments=3), resume=True)
    with pytest.raises(ConfigError, match="buffers"):
        scenario(tmp_path, play, buffers=0)
