"""Links over real sockets: order, bodies in their own memory, backpressure, ends."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from skerry.core.messages import Ask, Contribution, Count, Delivery, Join, Report, Welcome
from skerry.errors import ProtocolError
from skerry.fabric.bodies import Bodies
from skerry.fabric.client import ask_status, connect
from skerry.fabric.link import Link
from skerry.fabric.messages import Chunk, StatusRequest, StatusText
from skerry.fabric.wire import LARGEST_CHUNK, encode

JOIN = Join(layout="abc")
WELCOME = Welcome(learner=0, generation=1, clock=0, first_step=0, progress=0.0)
BIG = bytes(range(256)) * (5 << 14)  # 20 MiB: more than the kernel buffers


def contribution(step: int = 0) -> Contribution:
    return Contribution(learner=0, generation=1, fragment=0, step=step, base=0, since=Count(), until=Count(1, 2, 3))


def report(steps: int) -> Report:
    return Report(learner=0, generation=1, clock=steps, count=Count(steps, steps, steps))


def test_messages_come_in_order_both_ways(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.linked(policy='{"fragments": 3}', heartbeat=0.5) as pair:
            assert pair.near.greeting.run == "run-1" and pair.near.greeting.heartbeat == 0.5
            assert pair.near.greeting.policy == '{"fragments": 3}'
            pair.near.send(JOIN)
            for steps in range(1000):
                pair.near.send(report(steps))
            await pair.server.until("message", report(999))
            assert pair.server.said("message") == [JOIN, *map(report, range(1000))]
            pair.far.send(WELCOME)
            pair.far.send(Ask(fragment=1, step=2, progress=0.5))
            await pair.client.until("message", Ask(fragment=1, step=2, progress=0.5))
            assert pair.client.said("message")[0] == WELCOME

    asyncio.run(run())


def test_a_body_is_received_into_the_memory_it_was_given(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.linked() as pair:
            memory = bytearray(len(BIG))
            pair.server.memory = memoryview(memory)
            await pair.near.send_bulk(contribution(), BIG)
            await pair.server.until("bulk", contribution())
            assert memory == BIG
            assert pair.server.events[0] == ("announced", contribution(), len(BIG))
            pair.client.memory = memoryview(bytearray(8))
            delivery = Delivery(fragment=0, version=1, step=0, merged=3, progress=0.1)
            await pair.far.send_bulk(delivery, memoryview(b"12345678"))
            assert await pair.client.until("bulk") == ("bulk", delivery, b"12345678")

    asyncio.run(run())


def test_several_senders_take_turns_frame_by_frame(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.linked() as pair:
            bodies = [bytes([i]) * (100_000 + i) for i in range(8)]
            await asyncio.gather(*(pair.near.send_bulk(contribution(i), body) for i, body in enumerate(bodies)))
            await pair.server.until("bulk", contribution(7))
            assert pair.server.said("bulk") == [contribution(i) for i in range(8)]
            assert [event[2] for event in pair.server.events if event[0] == "bulk"] == bodies

    asyncio.run(run())


def test_a_full_pool_holds_bodies_back_but_not_messages(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.linked() as pair:
            pair.server.memory = None
            sending = asyncio.create_task(pair.near.send_bulk(contribution(), BIG))
            await pair.server.until("announced")
            pair.near.send(report(1))
            await pair.server.until("message", report(1))
            assert not sending.done() and not pair.server.said("bulk")
            pair.server.memory = memoryview(bytearray(len(BIG)))
            pair.far.resume_bulk()
            await sending
            assert (await pair.server.until("bulk"))[2] == BIG

    asyncio.run(run())


def test_messages_pass_bodies_that_the_peer_does_not_read(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.linked() as pair:
            pair.client.memory = None  # this learner reads no body
            delivery = Delivery(fragment=0, version=1, step=0, merged=0, progress=0.0)
            sending = asyncio.create_task(pair.far.send_bulk(delivery, BIG))
            await pair.client.until("announced")
            handler = fabric.Recorder(memoryview(bytearray(len(BIG))))
            other = await connect(pair.listener.address, token=fabric.TOKEN, handler=handler)
            await pair.host.until("opened", pair.host.links[-1])
            await pair.host.links[1].send_bulk(delivery, BIG)  # and harms no other
            assert (await handler.until("bulk"))[2] == BIG
            pair.far.send(WELCOME)
            await pair.client.until("message", WELCOME)
            assert not sending.done()
            other.close()
            pair.near.close()
            with pytest.raises(ConnectionError):
                await sending

    asyncio.run(run())


def test_traffic_is_counted_alike_on_both_sides(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.linked() as pair:
            await pair.near.send_bulk(contribution(), b"x" * 50_000)
            await pair.server.until("bulk")
            pair.far.send(WELCOME)
            await pair.client.until("message")
            assert pair.far.bytes_in == pair.near.bytes_out > 50_000
            assert pair.near.bytes_in == pair.far.bytes_out > 0
            total = pair.listener.traffic
            assert total == (pair.far.bytes_in, pair.far.bytes_out)
            pair.near.close()
            await pair.far.wait_closed()
            assert pair.listener.traffic == total

    asyncio.run(run())


def test_an_end_is_told_to_both_handlers_once(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.linked() as pair:
            pair.near.send(report(7))
            pair.near.close("enough")
            await pair.server.until("closed")
            assert pair.server.said("message") == [report(7)]  # what was sent before the end arrives
            assert await pair.client.until("closed") == ("closed", "enough")
            assert pair.near.closed and pair.far.closed
            pair.far.send(WELCOME)  # dropped
            with pytest.raises(ConnectionError, match="enough"):
                await pair.near.send_bulk(contribution(), b"x")
            await pair.near.wait_closed()
            await pair.far.wait_closed()
            assert len(pair.client.said("closed")) == len(pair.server.said("closed")) == 1

    asyncio.run(run())


@pytest.mark.parametrize("ended_by", ["near", "far"])
def test_the_memory_of_a_body_cut_short_comes_back(fabric: SimpleNamespace, ended_by: str) -> None:
    async def run() -> None:
        async with fabric.linked() as pair:
            pair.server.memory = memoryview(bytearray(len(BIG)))
            halt = asyncio.Event()
            pair.server.react = lambda link, message: halt.set()
            sending = asyncio.create_task(pair.near.send_bulk(contribution(), BIG))
            await halt.wait()
            getattr(pair, ended_by).close("cut")
            with pytest.raises(ConnectionError):
                await sending
            await pair.server.until("closed")
            assert [event[0] for event in pair.server.events] == ["announced", "bulk lost", "closed"]
            assert pair.server.events[1][2].obj is pair.server.memory.obj

    asyncio.run(run())


def test_giving_a_send_up_ends_the_link(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.linked() as pair:
            pair.server.memory = None
            sending = asyncio.create_task(pair.near.send_bulk(contribution(), BIG))
            await pair.server.until("announced")
            sending.cancel()
            assert "half sent" in (await pair.client.until("closed"))[1]
            await pair.server.until("closed")

    asyncio.run(run())


def test_a_handler_ends_the_link_for_what_the_peer_sent(fabric: SimpleNamespace) -> None:
    def react(link: Link, message: Any) -> None:
        raise ProtocolError(f"fragment {message.fragment} has 8 bytes")

    async def run() -> None:
        async with fabric.linked() as pair:
            pair.server.react = react
            await pair.near.send_bulk(contribution(), b"x")
            assert await pair.server.until("closed") == ("closed", "protocol error: fragment 0 has 8 bytes")
            assert await pair.client.until("closed") == (
                "closed", "the peer gave this side up: fragment 0 has 8 bytes")  # fmt: skip
            other = await connect(pair.listener.address, token=fabric.TOKEN, handler=fabric.Recorder())
            other.close()  # the listener goes on

    asyncio.run(run())


def test_a_peer_that_lets_messages_pile_up_is_cut_off(fabric: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skerry.fabric.connection.LARGEST_BACKLOG", 100_000)

    async def run() -> None:
        async with fabric.linked() as pair:
            text = StatusText(text="x" * 100_000)
            for _ in range(1000):  # nothing is read in between: this is one thread
                pair.far.send(text)
                if pair.far.closed or pair.far._control.reason:
                    break
            assert "messages wait" in (await pair.server.until("closed"))[1]
            await pair.client.until("closed")

    asyncio.run(run())


@pytest.mark.parametrize("said", [b"only this", b"0" * 500], ids=["in a chunk", "between two"])
def test_a_peer_that_stops_in_a_body_gives_its_memory_back(fabric: SimpleNamespace, said: bytes) -> None:
    async def run() -> None:
        async with fabric.linked(stall=0.2) as pair:
            pair.server.memory = memoryview(bytearray(1000))
            pair.near._bulk._write(encode(contribution(), 1000, number=0) + encode(Chunk(body=0, offset=0), 500) + said)
            assert "stopped in the middle" in (await pair.server.until("closed"))[1]
            assert [event[0] for event in pair.server.events] == ["announced", "bulk lost", "closed"]

    asyncio.run(run())


def test_who_fills_one_body_and_waits_for_the_memory_of_another_is_given_up(fabric: SimpleNamespace) -> None:
    """It would hold memory for ever that others need."""

    def room(link: Link, message: Any, nbytes: int) -> memoryview | None:
        return memoryview(bytearray(nbytes)) if message.step == 0 else None

    async def run() -> None:
        async with fabric.linked(stall=0.2) as pair:
            pair.server.bulk_buffer = room
            for number in (0, 1):
                pair.near._bulk._write(encode(contribution(number), 10, number=number))
                pair.near._bulk._write(encode(Chunk(body=number, offset=0), 5) + b"01234")
            assert "stopped in the middle" in (await pair.server.until("closed"))[1]
            assert [event[:2] for event in pair.server.events[:-1]] == [("bulk lost", contribution(0))]

    asyncio.run(run())


@pytest.mark.parametrize("side", ["near", "far"])
def test_bodies_mixed_on_one_connection_arrive_whole(fabric: SimpleNamespace, side: str) -> None:
    near = [contribution(i) for i in range(3)]
    far = [Delivery(fragment=0, version=i, step=0, merged=0, progress=0.0) for i in range(3)]
    messages, bodies = near if side == "near" else far, [bytes([65 + i]) * 100 for i in range(3)]

    async def run() -> None:
        async with fabric.linked() as pair:
            end, handler = (pair.near, pair.server) if side == "near" else (pair.far, pair.client)
            handler.bulk_buffer = lambda link, message, nbytes: memoryview(bytearray(nbytes))
            for i, message in enumerate(messages):
                end._bulk._write(encode(message, 100, number=7 - i))
            for at in (50, 0):
                for i, body in enumerate(bodies):
                    end._bulk._write(encode(Chunk(body=7 - i, offset=at), 50) + body[at : at + 50])
            await handler.until("bulk", messages[-1])
            assert handler.events == [("bulk", *pair) for pair in zip(messages, bodies, strict=True)]

    asyncio.run(run())


def test_a_long_body_travels_in_chunks_of_the_agreed_size(fabric: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    came: list[tuple[int, int]] = []
    place = Bodies.place

    def note(self: Bodies, chunk: Any) -> memoryview | None:
        came.append((chunk.message.offset, chunk.body))
        return place(self, chunk)

    monkeypatch.setattr(Bodies, "place", note)

    async def run() -> None:
        async with fabric.linked() as pair:
            size = 2 * LARGEST_CHUNK + 5
            pair.server.memory = memoryview(bytearray(size))
            await pair.near.send_bulk(contribution(), BIG[:size])
            assert (await pair.server.until("bulk"))[2] == BIG[:size]
            assert came == [(0, LARGEST_CHUNK), (LARGEST_CHUNK, LARGEST_CHUNK), (2 * LARGEST_CHUNK, 5)]

    asyncio.run(run())


def test_a_pause_of_the_receiver_is_no_stall_of_the_sender(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.linked(stall=0.1) as pair:
            pair.server.memory = None
            sending = asyncio.create_task(pair.near.send_bulk(contribution(), BIG))
            await pair.server.until("announced")
            checked = asyncio.Semaphore(0)
            check = pair.far._bulk._check_stall
            pair.far._bulk._check_stall = lambda: (check(), checked.release())
            for _ in range(3):
                await asyncio.wait_for(checked.acquire(), fabric.PATIENCE)
            pair.server.memory = memoryview(bytearray(len(BIG)))
            pair.far.resume_bulk()
            await sending
            await pair.server.until("bulk")

    asyncio.run(run())


def test_status_is_asked_by_an_observer(fabric: SimpleNamespace) -> None:
    def answer(link: Link, message: StatusRequest) -> None:
        link.send(StatusText(text='{"phase": "running"}'))

    async def run() -> None:
        async with fabric.listening() as (listener, host):

            def handler() -> Any:
                made = fabric.Recorder()
                made.react = answer
                return made

            host.handler = handler
            assert await ask_status(listener.address, token=fabric.TOKEN) == '{"phase": "running"}'
            assert host.links[0].role == "observer"
            await host.handlers[0].until("closed")

    asyncio.run(run())


def test_closing_the_listener_ends_its_links(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.linked() as pair:
            pair.far.send(WELCOME)
            await pair.listener.close("over and out")
            assert await pair.server.until("closed") == ("closed", "over and out")
            await pair.client.until("closed")
            assert pair.client.said("message") == [WELCOME]

    asyncio.run(run())
