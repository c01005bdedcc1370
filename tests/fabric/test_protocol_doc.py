"""docs/protocol.md describes the protocol as it is: every message and field, the limits, the worked examples."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import json
import re
import socket
import struct
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from skerry.codecs import CODECS
from skerry.core.layout import Layout, TensorSpec, build_layout
from skerry.core.messages import Contribution, Count, Outcome, Report, Verdict
from skerry.fabric import connection, link, listener, wire
from skerry.fabric.handshake import REMEDIES, Token
from skerry.fabric.messages import HANDSHAKE, KINDS, Challenge, Hello, Kind, Role
from skerry.syncer.session import LONGEST_LAYOUT, LONGEST_LEAP

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text()
ROWS = {cells[1]: cells for cells in ([c.strip() for c in line.strip("|").split("|")] for line in TEXT.splitlines()
                                      if re.match(r"\| \d+ \|", line))}  # fmt: skip
TYPES = {int: "int", str: "str", bytes: "bytes", bool: "bool", float: "float", float | None: "float or nil", Count: "Count",
         tuple[int, ...]: "[int]", tuple[Count, ...]: "[Count]"}  # fmt: skip


def described(kind: Kind) -> str:
    """The fields as the table must give them."""
    hints = typing.get_type_hints(kind.cls)
    found = []
    for field in dataclasses.fields(kind.cls):
        words = f"`{field.name}` {TYPES.get(hints[field.name], 'str')}"
        if field.default is not dataclasses.MISSING:
            default = json.dumps(field.default).replace("null", "nil")
            words += f" = {default}"
        found.append(words)
    return ", ".join(found) or "none"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.cls.__name__)
def test_every_message_stands_in_the_tables_exactly(kind: Kind) -> None:
    number, _, where, sender, fields, _ = ROWS[f"`{kind.cls.__name__}`"]
    assert int(number) == kind.number
    handshake = kind.cls in HANDSHAKE or kind.cls.__name__ == "Refused"
    assert where == ("control, bulk" if handshake else "bulk" if kind.bulk else "control")
    assert sender == kind.sender
    assert fields == described(kind)


def test_the_tables_name_nothing_else() -> None:
    assert len(ROWS) == len(KINDS)


def test_words_that_fields_may_have_are_named() -> None:
    for word in (*typing.get_args(Role), *typing.get_args(Outcome)):
        assert re.search(rf"\b{word}\b", TEXT)
    for code in REMEDIES:
        assert f"| `{code}` |" in TEXT
    for codec in CODECS.values():
        assert f"| `{codec.name}` | {codec.nbytes(1)} |" in TEXT


def test_the_limits_are_those_of_the_code() -> None:
    for row in (
        f"| a message in the handshake | {wire.LARGEST_HELLO} bytes |",
        f"| a message after it | {wire.LARGEST_MESSAGE} bytes |",
        f"| LayoutText's body | {LONGEST_LAYOUT >> 20} MiB |",
        f"| connections that have not proved the token yet | {listener.MOST_STRANGERS} |",
        f"| time for a handshake | {connection.PATIENCE:g} s |",
        f"| time without a byte in the middle of a frame | {connection.STALL:g} s |",
        f"| control messages unacknowledged by the peer's machine | {link.VANISHED:g} s |",
        f"| messages waiting for a peer that does not read | {connection.LARGEST_BACKLOG >> 20} MiB |",
        f"| a clock ahead of the run's step | {LONGEST_LEAP} steps |",
    ):
        assert row in TEXT
    assert f"The version described here is **{wire.VERSION}**" in TEXT


def test_the_example_frame_is_a_real_one() -> None:
    frame = wire.encode(Report(learner=2, generation=1, clock=300, count=Count(12, 3072, 480000)))
    assert frame.hex() in re.sub(r"\s", "", TEXT)


def test_the_test_vector_of_the_handshake_holds() -> None:
    hello = wire.encode(Hello(role="learner", nonce=bytes(range(32)), software="example 1"))[wire.HEADER.size :]
    challenge = wire.encode(Challenge(nonce=bytes(range(32, 64))))[wire.HEADER.size :]
    token = Token(b"0123456789abcdef")
    squeezed = re.sub(r"\s", "", TEXT)
    for part in (hello, challenge, token.proof("client", hello, challenge), token.proof("server", hello, challenge)):
        assert part.hex() in squeezed


def test_the_example_layout_is_what_the_code_makes() -> None:
    tensors = [TensorSpec(name="head.weight", shape=(3, 2)), TensorSpec(name="embed.weight", shape=(4, 2), direct=True)]
    layout: Layout = build_layout(tensors, 2, "balanced")
    assert f"{layout.to_json()}\n{layout.hash}" in TEXT


class ForeignClient:
    """A client written from the document alone: sockets, MessagePack and HMAC; none of the fabric's code."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=20)

    def send(self, kind: int, fields: dict[str, Any], body: bytes = b"") -> bytes:
        message = msgspec.msgpack.encode(fields)
        self.socket.sendall(struct.pack("<4sHHIQ", b"SKRY", 1, kind, len(message), len(body)) + message + body)
        return message

    def read(self, kind: int) -> tuple[dict[str, Any], bytes]:
        magic, version, got, length, body = struct.unpack("<4sHHIQ", self._exactly(20))
        assert (magic, version, got, body) == (b"SKRY", 1, kind, 0)
        message = self._exactly(length)
        return msgspec.msgpack.decode(message), message

    def enter(self, token: bytes, role: str, session: str = "") -> dict[str, Any]:
        def mac(side: bytes) -> bytes:
            text = b"skerry 1 " + side + hashlib.sha256(hello).digest() + hashlib.sha256(challenge).digest()
            return hmac.new(token, text, "sha256").digest()

        hello = self.send(1, {"role": role, "nonce": bytes(32), "session": session})
        _, challenge = self.read(2)
        self.send(3, {"mac": mac(b"client")})
        greeting, _ = self.read(4)
        assert greeting["mac"] == mac(b"server")
        return greeting

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            assert part, "the connection ended"
            data += part
        return data


def test_a_client_written_from_the_document_is_understood(fabric: SimpleNamespace) -> None:
    def learner(port: int) -> dict[str, Any]:
        control, bulk = ForeignClient(("127.0.0.1", port)), ForeignClient(("127.0.0.1", port))
        with control.socket, bulk.socket:
            greeting = control.enter(fabric.TOKEN.secret, "learner")
            bulk.enter(fabric.TOKEN.secret, "bulk", greeting["session"])
            count = [12, 3072, 480000]
            control.send(13, {"learner": 2, "generation": 1, "clock": 300, "count": count})
            bulk.send(15, {"learner": 2, "generation": 1, "fragment": 0, "step": 5, "base": 0, "since": [0, 0, 0],
                           "until": count}, b"body")  # fmt: skip
            answer, _ = control.read(33)
            return answer

    def react(end: Any, message: Any) -> None:
        if isinstance(message, Contribution):
            end.send(Verdict(learner=2, generation=1, fragment=0, step=message.step, verdict="late"))

    async def run() -> None:
        async with fabric.listening() as (listening, host):

            def handler() -> Any:
                made = fabric.Recorder()
                made.react = react
                return made

            host.handler = handler
            answer = await asyncio.to_thread(learner, listening.address.port)
            assert answer == {"learner": 2, "generation": 1, "fragment": 0, "step": 5, "verdict": "late", "reason": ""}
            count = Count(12, 3072, 480000)
            assert host.handlers[0].said("message") == [Report(learner=2, generation=1, clock=300, count=count)]
            await host.handlers[0].until("closed")

    asyncio.run(run())
