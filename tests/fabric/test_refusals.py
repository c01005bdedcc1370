"""Who is not let in, and what strangers can send: each ends with one clear line, and the listener goes on."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.core.messages import Report, Welcome
from skerry.errors import ConfigError, RefusedError, UnreachableError
from skerry.fabric import listener as listener_module
from skerry.fabric.client import connect
from skerry.fabric.connection import Connection
from skerry.fabric.handshake import Arrival, ask_in
from skerry.fabric.handshake import hello as hello_of
from skerry.fabric.listener import Listener
from skerry.fabric.messages import Challenge, Chunk, Hello, StatusRequest
from skerry.fabric.tokens import Identity, Token
from skerry.fabric.wire import HEADER, MAGIC, VERSION, FrameReader, encode


def hello(role: str, **more: Any) -> Hello:
    return hello_of(role, Identity(), **more)


async def still_serves(fabric: SimpleNamespace, listener: Listener) -> None:
    link = await connect(listener.address, token=fabric.TOKEN, handler=fabric.Recorder())
    link.close()
    await link.wait_closed()


async def stranger(listener: Listener, data: bytes, *, finish: bool = False) -> bytes:
    """Send bytes to the listener; what it answered before it closed."""
    reader, writer = await asyncio.open_connection(listener.address.host, listener.address.port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(data)
            if finish:
                writer.write_eof()
            return await asyncio.wait_for(reader.read(), 20)
        return b""
    finally:
        writer.close()


async def strangers(listener: Listener, count: int, host: str = "127.0.0.1") -> list[Any]:
    """So many connections that say nothing, from that address."""
    before = listener.arrived
    streams = [await asyncio.open_connection(listener.address.host, listener.address.port, local_addr=(host, 0))
               for _ in range(count)]  # fmt: skip
    while listener.arrived < before + count:
        await asyncio.sleep(0)
    return streams


async def until_they_are_old(listener: Listener) -> None:
    """So old that they may lose their places."""
    loop = asyncio.get_running_loop()
    while any(loop.time() - one.since < listener_module.MOMENT for one in listener._strangers.values()):
        await asyncio.sleep(0.01)


def refusal(answer: bytes) -> Any:
    reader = FrameReader()
    reader.buffer()[: len(answer)] = answer
    reader.feed(len(answer))
    frame = reader.next()
    assert frame is not None
    return frame.message


def test_a_wrong_token_is_refused_both_ways(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.listening() as (listener, host):
            with pytest.raises(RefusedError, match=r"token is not this run's.*token file") as caught:
                await connect(listener.address, token=Token(b"quite another token"), handler=fabric.Recorder())
            assert caught.value.code == "token" and caught.value.exit_code == 4
            assert host.events == [("refused", "token", "the token is not this run's")]
            await still_serves(fabric, listener)

    asyncio.run(run())


def test_a_server_without_the_token_is_not_trusted(fabric: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lets_all_in(connection: Connection, *known: Any) -> Arrival:
        first = await connection.read()
        connection.send(Challenge(nonce=secrets.token_bytes(32), version=VERSION))
        proof = (await connection.read()).message
        return Arrival(first.message, "learner", Identity(), frozenset(), proof.mac)  # it can but send back what it got

    monkeypatch.setattr(listener_module, "let_in", lets_all_in)

    async def run() -> None:
        async with fabric.listening(patience=5) as (listener, _):
            with pytest.raises(RefusedError, match="does not know this run's token"):
                await connect(listener.address, token=fabric.TOKEN, handler=fabric.Recorder())

    asyncio.run(run())


def test_another_runs_learner_is_refused(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.listening(run="run-2") as (listener, host):
            with pytest.raises(RefusedError, match=r"this is run run-2, not run-1; join that run as a new learner") as caught:
                await connect(listener.address, token=fabric.TOKEN, handler=fabric.Recorder(), run="run-1")
            assert caught.value.code == "run"
            assert host.events[0][:2] == ("refused", "run")
            link = await connect(listener.address, token=fabric.TOKEN, handler=fabric.Recorder(), run="run-2")
            assert link.greeting.run == "run-2"
            link.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "protocol", "not a Skerry frame"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "protocol", "the peer speaks TLS"),
        (HEADER.pack(MAGIC, VERSION, 1, 1 << 31, 0), "protocol", "at most 4096 are allowed"),
        (HEADER.pack(MAGIC, VERSION, 15, 10, 1 << 62), "protocol", "a Contribution with a body of 4611686018427387904 bytes"),
        (HEADER.pack(MAGIC, VERSION, 15, 10, 1 << 50) + b"\x80" * 10, "protocol", "malformed Contribution"),
        (HEADER.pack(MAGIC, VERSION, 1, 4, 0) + b"\xc1\xc1\xc1\xc1", "protocol", "malformed Hello"),
        (encode(StatusRequest()), "protocol", "StatusRequest where the handshake wants a Hello"),
        (encode(hello("learner"))[:30], "lost", "in the middle of a frame"),
        (b"", "lost", "closed the connection"),
    ],
)  # fmt: skip
def test_what_strangers_send_ends_with_a_reason(fabric: SimpleNamespace, data: bytes, code: str, words: str) -> None:
    async def run() -> None:
        async with fabric.listening() as (listener, host):
            assert await stranger(listener, data, finish=code == "lost") == b""
            event = await host.until("refused")
            assert event[1] == code and words in event[2]
            await still_serves(fabric, listener)

    asyncio.run(run())


@given(data=st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=8))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_from_many_strangers_harms_nobody(fabric: SimpleNamespace, data: list[bytes]) -> None:
    async def run() -> None:
        async with fabric.linked(patience=20) as pair:
            await asyncio.gather(*(stranger(pair.listener, part, finish=True) for part in data))
            assert len(pair.host.said("refused")) == len(data)
            pair.far.send(Welcome(learner=0, generation=1, clock=0, first_step=0, progress=0.0))
            await pair.client.until("message")

    asyncio.run(run())


@pytest.mark.parametrize("first", [b"", HEADER.pack(MAGIC, VERSION, 1, 100, 0), encode(hello("learner"))])
def test_a_peer_that_says_nothing_is_given_up_and_delays_nobody(fabric: SimpleNamespace, first: bytes) -> None:
    async def run() -> None:
        async with fabric.listening(patience=0.3) as (listener, host):
            silent = [asyncio.create_task(stranger(listener, first)) for _ in range(3)]
            await asyncio.gather(*silent)
            assert [event[1] for event in host.events] == ["silent"] * 3
            listener._patience = 20
            await still_serves(fabric, listener)

    asyncio.run(run())


def test_the_number_of_strangers_is_bounded(fabric: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "MOST_STRANGERS", 2)

    async def run() -> None:
        async with fabric.listening() as (listener, host):
            streams = await strangers(listener, 2)
            await until_they_are_old(listener)
            streams += await strangers(listener, 1)
            assert "it was the oldest in its handshake" in (await host.until("refused", "silent"))[2]
            assert await asyncio.wait_for(streams[0][0].read(), 20) == b"" and not streams[1][0].at_eof()
            await until_they_are_old(listener)
            await still_serves(fabric, listener)
            for _, writer in streams:
                writer.close()

    asyncio.run(run())


def test_a_crowd_does_not_push_out_who_has_just_come(fabric: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "MOST_OF_ONE", 2)
    monkeypatch.setattr(listener_module, "MOMENT", 1000.0)

    async def run() -> None:
        async with fabric.listening() as (listener, host):
            streams = await strangers(listener, 3)
            assert await asyncio.wait_for(streams[2][0].read(), 20) == b""
            assert "too many connections" in (await host.until("refused", "silent"))[2]
            assert not streams[0][0].at_eof() and not streams[1][0].at_eof()
            for _, writer in streams:
                writer.close()

    asyncio.run(run())


def test_strangers_of_one_address_take_no_place_from_another(fabric: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """On loopback every address of 127.0.0.0/8 can be a host."""
    monkeypatch.setattr(listener_module, "MOST_OF_ONE", 2)
    monkeypatch.setattr(listener_module, "MOMENT", 0.0)

    async def run() -> None:
        async with fabric.listening() as (listener, host):
            honest = await strangers(listener, 1, "127.0.0.2")
            crowd = await strangers(listener, 8)
            while len(host.said("refused")) < 6:
                await host.until("refused")
                await asyncio.sleep(0)
            assert not honest[0][0].at_eof(), "the oldest of all, but of another address"
            assert all([await asyncio.wait_for(reader.read(), 20) == b"" for reader, _ in crowd[:6]])
            for _, writer in honest + crowd:
                writer.close()

    asyncio.run(run())


def test_five_hundred_idle_strangers_keep_no_learner_out(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.listening() as (listener, _):
            crowd = await strangers(listener, 500)
            loop = asyncio.get_running_loop()
            began = loop.time()
            while True:
                try:
                    link = await connect(listener.address, token=fabric.TOKEN, handler=fabric.Recorder())
                    break
                except UnreachableError:
                    await asyncio.sleep(0.1)  # as an agent does
            assert loop.time() - began < 5
            link.close()
            await link.wait_closed()
            for _, writer in crowd:
                writer.close()

    asyncio.run(run())


def test_a_learner_whose_bulk_connection_never_comes_is_given_up(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.listening(patience=0.3) as (listener, host):
            loop = asyncio.get_running_loop()
            _, half = await loop.create_connection(lambda: Connection("x", stall=5), "127.0.0.1", listener.address.port)
            greeting, _ = await ask_in(half, fabric.TOKEN, hello("learner"))
            assert (await host.until("refused"))[1] == "silent"
            listener._patience = 20
            _, late = await loop.create_connection(lambda: Connection("x", stall=5), "127.0.0.1", listener.address.port)
            with pytest.raises(RefusedError, match="no session of that name") as caught:
                await ask_in(late, fabric.TOKEN, hello("bulk", session=greeting.session))
            assert caught.value.code == "session"
            late.end("done", abort=True)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("role", "message", "words"),
    [
        ("observer", encode(Report(learner=0, generation=1, clock=0, count=(0, 0, 0))), "a Report on the control"),  # type: ignore[arg-type]
        ("learner", encode(Welcome(learner=0, generation=1, clock=0, first_step=0, progress=0)), "a Welcome on the control"),
        ("learner", encode(hello("learner")), "a Hello on the control"),
        ("learner", b"complete nonsense!!!", "not a Skerry frame"),
        ("learner", HEADER.pack(MAGIC, VERSION, 13, 1 << 30, 0), "a Report of 1073741824 bytes"),
        ("learner", encode(Chunk(body=0, offset=0), 1) + b"x", "a Chunk on the control"),
        ("observer", encode(Chunk(body=0, offset=0), 1) + b"x", "a Chunk on the control"),
    ],
)
def test_a_link_ends_with_a_reason_that_the_peer_hears(fabric: SimpleNamespace, role: str, message: bytes, words: str) -> None:
    async def run() -> None:
        async with fabric.listening() as (listener, host):
            handler = fabric.Recorder()
            link = await connect(listener.address, token=fabric.TOKEN, handler=handler, role=role)
            await host.until("opened")
            link._control._write(message)
            reason = (await host.handlers[0].until("closed"))[1]
            assert reason.startswith("protocol error: ") and words in reason
            assert words in (await handler.until("closed"))[1]
            await still_serves(fabric, listener)

    asyncio.run(run())


def test_a_bug_in_a_handler_ends_its_link_alone(fabric: SimpleNamespace) -> None:
    def react(link: Any, message: Any) -> None:
        raise ZeroDivisionError("a bug")

    async def run() -> None:
        async with fabric.linked() as pair:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
            pair.server.react = react
            pair.near.send(Report(learner=0, generation=1, clock=0, count=(0, 0, 0)))  # type: ignore[arg-type]
            assert "ZeroDivisionError" in (await pair.server.until("closed"))[1]
            await still_serves(fabric, pair.listener)

    asyncio.run(run())


def test_nobody_there_is_unreachable(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(UnreachableError, match="connection refused; check that it runs") as caught:
            await connect(f"127.0.0.1:{port}", token=fabric.TOKEN, handler=fabric.Recorder())
        assert caught.value.exit_code == 5
        with pytest.raises(UnreachableError, match=r"no\.such\.host\.invalid"):
            await connect("no.such.host.invalid:1", token=fabric.TOKEN, handler=fabric.Recorder())
        with socket.create_server(("127.0.0.1", 0)) as mute:
            port = mute.getsockname()[1]
            with pytest.raises(UnreachableError, match=r"did not answer for 0.2 s"):
                await connect(f"127.0.0.1:{port}", token=fabric.TOKEN, handler=fabric.Recorder(), timeout=0.2)

    asyncio.run(run())


def test_another_program_there_is_named(fabric: SimpleNamespace) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(web, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(RefusedError, match=r"no Skerry syncer.*check the address"):
                await connect(f"127.0.0.1:{port}", token=fabric.TOKEN, handler=fabric.Recorder())

    asyncio.run(run())


def test_a_port_in_use_and_a_foreign_address_say_what_to_do(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.listening() as (listener, _):
            with pytest.raises(UnreachableError, match="already in use; choose another port") as caught:
                await Listener.start(fabric.Recorder(), keyring=fabric.KEYRING, run="r", port=listener.address.port)
            assert caught.value.exit_code == 5
        with pytest.raises(UnreachableError, match="give an address of this machine"):
            await Listener.start(fabric.Recorder(), keyring=fabric.KEYRING, run="r", host="192.0.2.1", insecure=True)

    asyncio.run(run())


def test_listening_to_the_network_without_tls_must_be_said_aloud(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        with pytest.raises(ConfigError, match="--insecure"):
            await Listener.start(fabric.Recorder(), keyring=fabric.KEYRING, run="r", host="0.0.0.0")
        async with fabric.listening(host="0.0.0.0", insecure=True) as (listener, _):
            link = await connect(f"127.0.0.1:{listener.address.port}", token=fabric.TOKEN, handler=fabric.Recorder())
            link.close()

    asyncio.run(run())
