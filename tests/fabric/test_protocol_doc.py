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
from skerry.fabric import bodies, connection, link, listener, wire
from skerry.fabric.address import Endpoint
from skerry.fabric.handshake import FEATURES, REMEDIES, SERVED
from skerry.fabric.messages import EVERYBODY, KINDS, Challenge, Chunk, Hello, Kind, Role
from skerry.fabric.tokens import Token
from skerry.syncer.session import LONGEST_LAYOUT, LONGEST_LEAP

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text()
ROWS = {cells[1]: cells for cells in ([c.strip() for c in line.strip("|").split("|")] for line in TEXT.splitlines()
                                      if re.match(r"\| \d+ \|", line))}  # fmt: skip
TYPES = {int: "int", str: "str", bytes: "bytes", bool: "bool", float: "float", float | None: "float or nil", Count: "Count",
         tuple[int, ...]: "[int]", tuple[float, ...]: "[float]", tuple[Count, ...]: "[Count]",
         tuple[str, ...]: "[str]", tuple[Endpoint, ...]: "[Endpoint]"}  # fmt: skip


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
    handshake = not kind.roles or kind.roles == EVERYBODY
    assert where == ("control, bulk" if handshake else "bulk" if kind.bulk else "control")
    assert sender == kind.sender
    assert fields == described(kind)


def test_the_tables_name_nothing_else() -> None:
    assert len(ROWS) == len(KINDS)


def test_words_that_fields_may_have_are_named() -> None:
    for word in (*typing.get_args(Role), *typing.get_args(Outcome)):
        assert re.search(rf"\b{word}\b", TEXT)
    for role in typing.get_args(Role):
        assert re.search(rf"\| `{role}` \| {'yes' if role in SERVED else 'not yet'} \|", TEXT)
    for feature in FEATURES:
        assert f"| `{feature}` |" in TEXT
    for code in REMEDIES:
        assert f"| `{code}` |" in TEXT
    for codec in CODECS.values():
        assert f"| `{codec.name}` | {codec.nbytes(1)} |" in TEXT


def test_the_limits_are_those_of_the_code() -> None:
    for row in (
        f"| a message in the handshake | {wire.LARGEST_HELLO} bytes |",
        f"| a message after it | {wire.LARGEST_MESSAGE} bytes |",
        f"| bytes of a Chunk | {wire.LARGEST_CHUNK} |",
        f"| bodies announced and not whole, on a link | {bodies.MOST_BODIES} |",
        f"| separate pieces of a body | {bodies.MOST_PIECES} |",
        f"| LayoutText's body | {LONGEST_LAYOUT >> 20} MiB |",
        f"| connections that have not proved a token yet | {listener.MOST_STRANGERS} |",
        f"| time for a handshake | {connection.PATIENCE:g} s |",
        f"| time without a byte in the middle of a frame or body | {connection.STALL:g} s |",
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
    first = Hello(role="learner", nonce=bytes(range(32)), software="example 1", lowest=2, highest=2, features=("codec:fp32",))
    hello = wire.encode(first)[wire.HEADER.size :]
    second = Challenge(nonce=bytes(range(32, 64)), version=2, features=("codec:fp32",))
    challenge = wire.encode(second)[wire.HEADER.size :]
    token = Token(b"0123456789abcdef")
    squeezed = re.sub(r"\s", "", TEXT)
    for part in (hello, challenge, token.proof("client", 2, hello, challenge), token.proof("server", 2, hello, challenge)):
        assert part.hex() in squeezed


def test_the_example_of_a_body_in_two_chunks_is_a_real_one() -> None:
    message = Contribution(learner=2, generation=1, fragment=0, step=300, base=4, since=Count(), until=Count(12, 3072, 480000))
    frames = [wire.encode(message, 6, number=9), wire.encode(Chunk(body=9, offset=4), 2) + b"ef",
              wire.encode(Chunk(body=9, offset=0), 4) + b"abcd"]  # fmt: skip
    squeezed = re.sub(r"\s", "", TEXT)
    for frame in frames:
        assert frame.hex() in squeezed


def test_the_example_layout_is_what_the_code_makes() -> None:
    tensors = [TensorSpec(name="head.weight", shape=(3, 2)), TensorSpec(name="embed.weight", shape=(4, 2), direct=True)]
    layout: Layout = build_layout(tensors, 2, "balanced")
    assert f"{layout.to_json()}\n{layout.hash}" in TEXT


class ForeignClient:
    """A client written from the document alone: sockets, MessagePack and HMAC; none of the fabric's code."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=20)

    def send(self, kind: int, fields: Any, length: int = 0, chunk: bytes = b"") -> bytes:
        message = msgspec.msgpack.encode(fields)
        self.socket.sendall(struct.pack("<4sHHIQ", b"SKRY", 2, kind, len(message), length) + message + chunk)
        return message

    def send_body(self, kind: int, fields: dict[str, Any], body: bytes, number: int) -> None:
        self.send(kind, [number, fields], len(body))
        for at in range(0, len(body), 3):
            chunk = body[at : at + 3]
            self.send(6, {"body": number, "offset": at}, len(chunk), chunk)

    def read(self, kind: int) -> tuple[dict[str, Any], bytes]:
        magic, version, got, length, body = struct.unpack("<4sHHIQ", self._exactly(20))
        assert (magic, version, got, body) == (b"SKRY", 2, kind, 0)
        message = self._exactly(length)
        return msgspec.msgpack.decode(message), message

    def enter(self, token: bytes, role: str, session: str = "") -> dict[str, Any]:
        def mac(side: bytes) -> bytes:
            text = b"skerry 2 " + side + hashlib.sha256(hello).digest() + hashlib.sha256(challenge).digest()
            return hmac.new(token, text, "sha256").digest()

        hello = self.send(1, {"role": role, "nonce": bytes(32), "session": session, "lowest": 2, "highest": 2,
                              "features": ["codec:fp32"]})  # fmt: skip
        agreed, challenge = self.read(2)
        assert agreed["version"] == 2 and agreed["features"] == ["codec:fp32"]
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
            bulk.send_body(15, {"learner": 2, "generation": 1, "fragment": 0, "step": 5, "base": 0, "since": [0, 0, 0],
                                "until": count}, b"a body", 7)  # fmt: skip
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
            assert [event[2] for event in host.handlers[0].events if event[0] == "bulk"] == [b"a body"]
            await host.handlers[0].until("closed")

    asyncio.run(run())
