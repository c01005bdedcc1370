"""Heartbeats: silence is noticed by the side that connected, on either connection, and nothing else is taken for it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from skerry.core.messages import Contribution, Count, Delivery, Join
from skerry.fabric import pulse
from skerry.fabric.client import connect
from skerry.fabric.link import Link
from skerry.fabric.messages import Ping
from support.relay import relayed

HEARTBEAT = 0.1


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "LEAST", 0.0)


async def through_a_relay(fabric: SimpleNamespace, play) -> None:
    async with fabric.listening(heartbeat=HEARTBEAT) as (listener, host), relayed(str(listener.address)) as relay:
        client = fabric.Recorder()
        link = await connect(relay.address, token=fabric.TOKEN, handler=client)
        await host.until("opened")
        await play(SimpleNamespace(near=link, far=host.links[0], relay=relay, client=client, server=host.handlers[0]))
        link.close()
        await link.wait_closed()


async def beats(link: Link, count: int) -> None:
    """Wait until so many heartbeats' worth of looks were made on the link."""
    while link._pulse is None:
        await asyncio.sleep(0)
    looked = asyncio.Semaphore(0)
    look = link._pulse._look
    link._pulse._look = lambda: (look(), looked.release())
    for _ in range(count * pulse.LOOKS):
        await asyncio.wait_for(looked.acquire(), 20)


def test_a_link_on_which_nothing_is_said_lives(fabric: SimpleNamespace) -> None:
    async def play(pair: SimpleNamespace) -> None:
        before = pair.near.bytes_in
        await beats(pair.near, 3 * pulse.SILENT)
        assert pair.near.bytes_in > before and not pair.near.closed and not pair.far.closed
        assert pair.client.events == pair.server.events == [], "nobody hears of a Ping"

    asyncio.run(through_a_relay(fabric, play))


@pytest.mark.parametrize(("number", "name"), [(0, "control"), (1, "bulk")])
def test_a_connection_that_is_half_open_ends_the_link_of_who_connected(fabric: SimpleNamespace, number: int, name: str) -> None:
    async def play(pair: SimpleNamespace) -> None:
        pair.relay.mute.add(number)
        asked = asyncio.get_running_loop().time()
        reason = (await pair.client.until("closed"))[1]
        assert reason.startswith(f"nothing came on its {name} connection for 0.3 s")
        assert asyncio.get_running_loop().time() - asked < (pulse.SILENT + 1) * HEARTBEAT + 1.0

    asyncio.run(through_a_relay(fabric, play))


def test_who_accepted_ends_no_link_for_silence(fabric: SimpleNamespace) -> None:
    async def play(pair: SimpleNamespace) -> None:
        await beats(pair.near, 1)
        pair.near._pulse.stop()  # a client that says nothing and judges nothing
        await beats(pair.far, 3 * pulse.SILENT)
        assert not pair.far.closed and not pair.server.events

    asyncio.run(through_a_relay(fabric, play))


def test_a_pause_of_ones_own_is_not_the_peers_silence(fabric: SimpleNamespace) -> None:
    async def play(pair: SimpleNamespace) -> None:
        pair.client.memory = None
        body = bytes(20 << 20)  # more than the kernels hold
        sending = asyncio.create_task(pair.far.send_bulk(Delivery(fragment=0, version=1, step=0, merged=0, progress=0.0), body))
        await pair.client.until("announced")
        await beats(pair.near, 3 * pulse.SILENT)
        assert not pair.near.closed
        pair.client.memory = memoryview(bytearray(len(body)))
        pair.near.resume_bulk()
        await sending
        await pair.client.until("bulk")

    asyncio.run(through_a_relay(fabric, play))


def test_a_ping_does_not_cut_a_body(fabric: SimpleNamespace) -> None:
    async def play(pair: SimpleNamespace) -> None:
        message = Contribution(learner=0, generation=1, fragment=0, step=0, base=0, since=Count(), until=Count(1, 2, 3))
        body = bytes(range(256)) * (5 << 14)
        pair.server.memory = None
        sending = asyncio.create_task(pair.near.send_bulk(message, body))
        await pair.server.until("announced")
        await beats(pair.near, 2)
        pair.server.memory = memoryview(bytearray(len(body)))
        pair.far.resume_bulk()
        await sending
        assert (await pair.server.until("bulk"))[2] == body

    asyncio.run(through_a_relay(fabric, play))


def test_time_in_which_this_process_slept_is_nobodys_silence(fabric: SimpleNamespace) -> None:
    """As after SIGSTOP: the clock has jumped, the loop has made one look."""

    async def play(pair: SimpleNamespace) -> None:
        loop = asyncio.get_running_loop()
        clock, jump = loop.time, 0.0
        loop.time = lambda: clock() + jump
        jump = 100.0
        await beats(pair.near, 1)
        assert not pair.near.closed

    asyncio.run(through_a_relay(fabric, play))


def test_a_ping_is_taken_on_both_connections_and_answered_by_nothing(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.linked() as pair:
            for end in (pair.near, pair.far):
                for connection in (end._control, end._bulk):
                    connection.send(Ping())
            pair.near.send(Join(layout="x"))
            await pair.server.until("message")
            assert len(pair.server.events) == 1 and not pair.client.events

    asyncio.run(run())
