"""The frame codec: whatever is encoded comes back, however it is cut; whatever else comes raises ProtocolError."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.core.messages import Contribution, Count, Join, Refused, Report
from skerry.errors import ProtocolError
from skerry.fabric.address import Endpoint
from skerry.fabric.messages import KINDS, Chunk, Hello, StatusText
from skerry.fabric.wire import (
    HEADER,
    LARGEST_CHUNK,
    LARGEST_HELLO,
    LARGEST_MESSAGE,
    MAGIC,
    SCRATCH,
    VERSION,
    Filled,
    Frame,
    FrameReader,
    VersionError,
    encode,
)

INTEGERS = st.integers(-(2**63), 2**63 - 1)
COUNTS = st.builds(Count, INTEGERS, INTEGERS, INTEGERS)
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    int: INTEGERS,
    str: st.text(max_size=50),
    bytes: st.binary(max_size=50),
    bool: st.booleans(),
    float: st.floats(allow_nan=False),
    float | None: st.none() | st.floats(allow_nan=False),
    Count: COUNTS,
    tuple[float, ...]: st.lists(st.floats(allow_nan=False), max_size=5).map(tuple),
    tuple[int, ...]: st.lists(INTEGERS, max_size=5).map(tuple),
    tuple[Count, ...]: st.lists(COUNTS, max_size=5).map(tuple),
    tuple[str, ...]: st.lists(st.text(max_size=20), max_size=5).map(tuple),
    tuple[Endpoint, ...]: st.lists(
        st.builds(Endpoint, kind=st.text(max_size=9), host=st.text(max_size=9), port=INTEGERS), max_size=3
    ).map(tuple),
}


def messages(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Any message of that class."""
    hints = typing.get_type_hints(cls)
    known = {
        field.name: BY_TYPE[hints[field.name]]
        if hints[field.name] in BY_TYPE
        else st.sampled_from(typing.get_args(hints[field.name]))
        for field in dataclasses.fields(cls)
    }
    return st.builds(cls, **known)


CHUNKS = st.integers(1, 70_000).map(lambda size: (bytes(range(256)) * (size // 256 + 1))[:size])


class Sent(typing.NamedTuple):
    """A frame: its message, the body that it announces and under which number, the bytes that follow it."""

    message: Any
    body: int = 0
    number: int = 0
    chunk: bytes = b""

    @property
    def data(self) -> bytes:
        return encode(self.message, self.body or len(self.chunk), number=self.number) + self.chunk


def frames(kind: Any) -> st.SearchStrategy[Sent]:
    body, number, chunk = st.just(0), st.just(0), st.just(b"")
    if kind.cls is Chunk:
        chunk = CHUNKS
    elif kind.bulk:
        body, number = st.integers(1, 2**64 - 1), INTEGERS
    return st.tuples(messages(kind.cls), body, number, chunk).map(lambda parts: Sent(*parts))


FRAMES = st.one_of(*(frames(kind) for kind in KINDS))


def feed(reader: FrameReader, data: bytes, step: int) -> list[Sent]:
    """Give the reader `data`, at most `step` bytes at a time; what came of it."""
    came: list[Sent] = []
    memory = bytearray()
    at = 0
    while at < len(data):
        room = reader.buffer()
        part = data[at : at + min(step, len(room))]
        room[: len(part)] = part
        reader.feed(len(part))
        at += len(part)
        while (event := reader.next()) is not None:
            if isinstance(event, Filled):
                came.append(Sent(event.frame.message, chunk=bytes(memory)))
            elif isinstance(event.message, Chunk):
                memory = bytearray(event.body)
                reader.fill(memoryview(memory))
            else:
                came.append(Sent(event.message, event.body, event.number))
    return came


@given(st.lists(FRAMES, max_size=6), st.integers(1, 100_000))
@settings(max_examples=200, deadline=None)
def test_what_is_sent_comes_however_it_is_cut(frames: list[Sent], step: int) -> None:
    reader = FrameReader(LARGEST_MESSAGE)
    assert feed(reader, b"".join(frame.data for frame in frames), step) == frames
    assert not reader.within


def test_byte_by_byte() -> None:
    contribution = Contribution(learner=1, generation=1, fragment=0, step=0, base=0, since=Count(), until=Count(1, 2, 3))
    sent = [
        Sent(Report(learner=1, generation=1, clock=2, count=Count(3, 4, 5))),
        Sent(contribution, body=3, number=7),
        Sent(Chunk(body=7, offset=0), chunk=b"xyz"),
    ]
    assert feed(FrameReader(), b"".join(frame.data for frame in sent), 1) == sent


@given(FRAMES, st.data())
@settings(max_examples=200, deadline=None)
def test_truncated_frames_give_nothing(frame: Sent, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(frame.data) - 1))
    reader = FrameReader(LARGEST_MESSAGE)
    assert feed(reader, frame.data[:cut], 1 << 20) == []
    assert reader.within


@given(st.binary(min_size=1, max_size=300), st.integers(1, 300))
@settings(max_examples=200, deadline=None)
def test_garbage_raises_a_protocol_error_or_waits_for_more(data: bytes, step: int) -> None:
    for prefix in (b"", MAGIC, HEADER.pack(MAGIC, VERSION, 13, len(data), 0)):
        try:
            feed(FrameReader(), prefix + data, step)
        except ProtocolError as error:
            assert str(error)


@given(FRAMES, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_a_frame_with_some_bytes_changed_does_no_harm(frame: Sent, changes: list[tuple[int, int]]) -> None:
    data = bytearray(frame.data)
    for at, value in changes:
        data[at % min(len(data), HEADER.size + 200)] = value
    try:
        feed(FrameReader(LARGEST_MESSAGE), bytes(data), 1 << 20)
    except ProtocolError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ((b"HTTP", 1, 1, 0, 0), "not a Skerry frame"),
        ((b"\x16\x03\x01\x00", 1, 1, 0, 0), "speaks TLS"),
        ((MAGIC, VERSION + 1, 13, 0, 0), f"version {VERSION + 1} of the protocol, this side version {VERSION}"),
        ((MAGIC, VERSION, 999, 0, 0), "unknown kind 999"),
        ((MAGIC, VERSION, 1, LARGEST_HELLO + 1, 0), "at most"),
        ((MAGIC, VERSION, 13, 10, 5), "body of 5 bytes"),  # a Report has none
        ((MAGIC, VERSION, 15, 10, 0), "body of 0 bytes"),  # a Contribution has one
        ((MAGIC, VERSION, 6, 10, 0), "a Chunk with a body of 0 bytes"),
        ((MAGIC, VERSION, 6, 10, LARGEST_CHUNK + 1), f"a Chunk of {LARGEST_CHUNK + 1} bytes; at most {LARGEST_CHUNK}"),
    ],
)
def test_a_wrong_header_is_named(header: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        feed(FrameReader(), HEADER.pack(*header), 1 << 20)


def test_another_version_is_told_apart() -> None:
    with pytest.raises(VersionError) as caught:
        feed(FrameReader(), HEADER.pack(MAGIC, VERSION + 1, 0, 1 << 30, 1 << 60), 1 << 20)
    assert "same release" in str(caught.value)


@pytest.mark.parametrize("version", [0, 1, VERSION, VERSION + 1, 65535])
def test_hello_and_refused_are_read_in_any_version(version: int) -> None:
    for message in (Hello(role="learner", nonce=b"n"), Refused(code="version", reason="x")):
        reader = FrameReader()
        data = encode(message, version=version)
        reader.buffer()[: len(data)] = data
        reader.feed(len(data))
        frame = reader.next()
        assert isinstance(frame, Frame) and (frame.message, frame.version) == (message, version)


@pytest.mark.parametrize("raw", [b"\x91" * 4000, b"\xc1", b"", b"\x80", b"\x81\xa5layout\x01", b"\x81\xa6layout\xa2\xff\xff"])
def test_a_malformed_message_names_its_class(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed Join"):
        feed(FrameReader(), HEADER.pack(MAGIC, VERSION, 10, len(raw), 0) + raw, 1 << 20)


def test_a_long_message_is_held_only_while_it_is_read() -> None:
    reader = FrameReader(LARGEST_MESSAGE)
    long, short = StatusText(text="x" * 1_000_000), Join(layout="y")
    assert feed(reader, encode(long) + encode(short), 50_000) == [Sent(long), Sent(short)]
    assert len(reader.buffer()) == SCRATCH


def test_a_chunk_goes_straight_into_its_memory() -> None:
    memory = memoryview(bytearray(100_000))
    head = encode(Chunk(body=0, offset=5), 100_000)
    reader = FrameReader()
    room = reader.buffer()
    room[: len(head) + 10] = head + b"b" * 10
    reader.feed(len(head) + 10)
    assert isinstance(reader.next(), Frame)
    assert reader.next() is None  # it waits for memory
    reader.fill(memory)
    room = reader.buffer()
    room[:5] = b"later"
    assert bytes(memory[:16]) == b"b" * 10 + b"later\0"


def test_unknown_fields_are_ignored_and_defaults_filled() -> None:
    import msgspec

    raw = msgspec.msgpack.encode({"role": "observer", "nonce": b"n", "from the future": [1, {"a": None}]})
    [sent] = feed(FrameReader(), HEADER.pack(MAGIC, VERSION, 1, len(raw), 0) + raw, 7)
    assert sent.message == Hello(role="observer", nonce=b"n")
