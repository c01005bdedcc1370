"""Slow and broken links: they wait or end, and cost the others nothing."""

from __future__ import annotations

import asyncio
import json
import urllib.request

import numpy as np

from skerry.core.messages import Ask, Contribution, Count, Delivery
from skerry.core.policy import ALL, Policy
from skerry.fabric.client import ask_status
from skerry.fabric.messages import Chunk
from skerry.fabric.wire import encode
from skerry.store.metrics import read
from skerry.store.records import Begin
from skerry.syncer.pool import Pool
from skerry.syncer.shelf import Edition, Shelf
from support.puppet import PATIENCE, TOKEN, Puppet, running, small_layout, train, until

POLICY = Policy(fragments=2, interval=4, grace=0.9, silent_after=30.0)
LAYOUT = small_layout(POLICY, width=200)


def scenario(tmp_path, play, policy=POLICY, **config):
    async def all_of_it():
        async with running(tmp_path / "run", policy, **config) as server:
            return await play(server)

    return asyncio.run(all_of_it())


async def begun(server, count: int, layout=LAYOUT) -> list[Puppet]:
    puppets = [Puppet(server.policy, layout, seed=i) for i in range(count)]
    for puppet in puppets:
        await puppet.join(server.address)
    await until(lambda: all(puppet.begun for puppet in puppets))
    return puppets


def test_a_full_pool_is_backpressure_and_nothing_is_lost(tmp_path):
    async def play(server):
        puppets = await begun(server, 6)
        most = 0

        def enough():
            nonlocal most
            most = max(most, server.run.plane.pool.count - server.run.plane.pool.free)
            return server.run.core.rounds.closed >= 6

        await train(puppets, enough)
        assert most == 1 and server.run.core.rounds.contributors == 6 * server.run.core.rounds.closed
        assert not any(puppet.ended for puppet in puppets)
        await until(lambda: server.run.plane.pool.free == 1)

    scenario(tmp_path, play, policy=POLICY.replace(quorum=ALL), buffers=1)


def test_a_body_half_sent_gives_its_buffer_back(tmp_path):
    async def play(server):
        good, bad = await begun(server, 2)
        message = Contribution(learner=bad.memory.learner, generation=1, fragment=0, step=0, base=0, since=Count(),
                               until=Count(1, 1, 1))  # fmt: skip
        nbytes = 2 * LAYOUT.sizes[0]
        part = encode(Chunk(body=99, offset=0), nbytes // 2) + bytes(nbytes // 2)
        bad.link._bulk._write(encode(message, nbytes, number=99) + part)
        await until(lambda: server.run.plane.pool.free == 0)
        await train([good], lambda: good.all(Ask))  # whose contribution must wait
        await bad.end()
        await train([good], lambda: server.run.core.rounds.closed >= 3)
        await until(lambda: server.run.plane.pool.free == 1)

    scenario(tmp_path, play, buffers=1)


def test_a_contribution_whose_sender_vanishes_while_it_is_screened(tmp_path):
    async def play(server):
        good, bad = await begun(server, 2)
        run = server.run
        for step in range(20):  # whenever its link breaks, nothing is left behind
            message = Contribution(learner=bad.memory.learner, generation=bad.memory.generation, fragment=0, step=step,
                                   base=0, since=Count(), until=Count(1, 1, 1))  # fmt: skip
            await bad.link.send_bulk(message, bytes(2 * LAYOUT.sizes[0]))
            await bad.leave()
            await bad.join(server.address)
            await until(lambda: bad.core.joined)
        await train([good, bad], lambda: run.core.rounds.closed >= 3)
        await until(lambda: run.plane.pool.free == run.plane.pool.count)

    scenario(tmp_path, play)


def test_a_slow_reader_delays_nobody(tmp_path):
    async def play(server):
        fast, slow = await begun(server, 2, small_layout(POLICY, width=800))
        slow.reading = False
        before = len(slow.bodies)
        await train([fast], lambda: server.run.core.rounds.closed >= 24)
        assert len(slow.bodies) == before and slow.ended is None
        plane = server.run.plane
        assert plane.shelf.old <= 1 and plane.merger.spare <= 2 * POLICY.fragments, "no queue of old versions"
        slow.reading = True
        slow.link.resume_bulk()

        def all_that_is_newest():  # a round may still have closed
            return {(d.fragment, d.version) for d in slow.all(Delivery)} >= set(enumerate(server.run.core.versions))

        await until(all_that_is_newest)
        assert len(slow.all(Delivery)) < len(fast.all(Delivery)) - 6, "what was overtaken is never sent"

    scenario(tmp_path, play)


def test_a_newer_link_of_a_learner_takes_its_place(tmp_path):
    async def play(server):
        first, other = await begun(server, 2)
        again = Puppet(POLICY, LAYOUT, learner=first.memory.learner, seed=7)
        await again.join(server.address)
        await until(lambda: first.ended and again.begun)
        assert again.memory.generation == 2
        assert server.run.core.members.get(first.memory.learner).linked
        await train([again, other], lambda: server.run.core.rounds.closed >= 3)

    scenario(tmp_path, play)


def test_status_and_metrics(tmp_path):
    async def play(server):
        before = json.loads(await ask_status(server.address, token=TOKEN))
        assert before["phase"] == "waiting" and before["learners"] == []
        puppets = await begun(server, 2)
        puppets[0].link.send(puppets[0].vitals(loss=2.5, pid_trainer=7, host="here"))
        await train(puppets, lambda: any(one.tokens_s for one in server._status.learners))
        status = json.loads(await ask_status(server.address, token=TOKEN))
        assert status["run"] == server.name and status["phase"] == "running" and status["params"] == LAYOUT.total
        assert [one["state"] for one in status["learners"]] == ["training", "training"]
        assert status["learners"][0]["loss"] == 2.5 and status["learners"][0]["tokens_s"] > 0
        assert status["bytes_up"] > 0 and status["bytes_down"] > status["bytes_up"]
        begun_at, *_ = read(tmp_path / "run" / "metrics.jsonl")
        assert isinstance(begun_at, Begin) and begun_at.metrics == f"127.0.0.1:{server._exporter.port}"
        text = await asyncio.to_thread(_get, server._exporter.port)
        found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert float(found['skerry_rounds_total{result="closed"}']) >= 3
        assert float(found['skerry_learner_up{learner="1",state="training"}']) == 1
        assert float(found['skerry_tokens_total{fate="processed"}']) == status["ledger"]["processed"] / LAYOUT.total

    scenario(tmp_path, play, metrics_port=0)


def _get(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        return answer.read().decode()


def test_pool_wakes_who_still_wants():
    pool, got = Pool(1, 8), []
    held = pool.take(lambda: None)
    assert pool.take(lambda: None) is None  # who is gone by then
    assert pool.take(lambda: got.append(pool.take(lambda: None))) is None
    pool.give(held)
    assert got == [held] and pool.free == 0


def test_shelf_keeps_old_versions_only_while_they_are_read():
    reused, cut = [], []
    shelf = Shelf(2, lambda p, bodies: reused.extend(bodies), cut.append)
    bodies = [np.zeros(1, np.uint8) for _ in range(9)]
    for version in range(4):
        shelf.put(Edition(0, version, version, bodies[version]))
        if version < 3:
            shelf.take(0, f"reader {version}")
    assert reused == [] and cut == ["reader 0"], "more than one model's worth of old bodies"
    shelf.give(next(iter(shelf._old)), "reader 0")
    assert reused == [bodies[0]] and shelf.present[0].version == 3 and shelf.present[1] is None
