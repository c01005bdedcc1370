"""The frame codec: whatever is encoded comes back, however it is cut; whatever else comes raises ProtocolError."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.core.messages import Contribution, Count, Join, Report
from skerry.errors import ProtocolError
from skerry.fabric.messages import KINDS, Hello, StatusText
from skerry.fabric.wire import (
    HEADER,
    LARGEST_HELLO,
    LARGEST_MESSAGE,
    MAGIC,
    SCRATCH,
    VERSION,
    Body,
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
    tuple[int, ...]: st.lists(INTEGERS, max_size=5).map(tuple),
    tuple[Count, ...]: st.lists(COUNTS, max_size=5).map(tuple),
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


BODIES = st.integers(1, 70_000).map(lambda size: (bytes(range(256)) * (size // 256 + 1))[:size])
FRAMES = st.one_of(*(st.tuples(messages(kind.cls), BODIES if kind.bulk else st.just(b"")) for kind in KINDS))


def feed(reader: FrameReader, data: bytes, step: int) -> list[tuple[Any, bytes]]:
    """Give the reader `data`, at most `step` bytes at a time; what came of it."""
    came: list[tuple[Any, bytes]] = []
    at = 0
    while at < len(data):
        room = reader.buffer()
        part = data[at : at + min(step, len(room))]
        room[: len(part)] = part
        reader.feed(len(part))
        at += len(part)
        while (event := reader.next()) is not None:
            if isinstance(event, Body):
                came.append((event.frame.message, bytes(event.memory)))
            elif event.body:
                reader.body_into(memoryview(bytearray(event.body)))
            else:
                came.append((event.message, b""))
    return came


@given(st.lists(FRAMES, max_size=6), st.integers(1, 100_000))
@settings(max_examples=200, deadline=None)
def test_what_is_sent_comes_however_it_is_cut(frames: list[tuple[Any, bytes]], step: int) -> None:
    reader = FrameReader(LARGEST_MESSAGE)
    data = b"".join(encode(message, len(body)) + body for message, body in frames)
    assert feed(reader, data, step) == frames
    assert not reader.within


def test_byte_by_byte() -> None:
    frames = [
        (Report(learner=1, generation=1, clock=2, count=Count(3, 4, 5)), b""),
        (Contribution(learner=1, generation=1, fragment=0, step=0, base=0, since=Count(), until=Count(1, 2, 3)), b"xyz"),
    ]
    assert feed(FrameReader(), b"".join(encode(m, len(b)) + b for m, b in frames), 1) == frames


@given(FRAMES, st.data())
@settings(max_examples=200, deadline=None)
def test_truncated_frames_give_nothing(frame: tuple[Any, bytes], data: st.DataObject) -> None:
    message, body = frame
    whole = encode(message, len(body)) + body
    cut = data.draw(st.integers(1, len(whole) - 1))
    reader = FrameReader(LARGEST_MESSAGE)
    assert feed(reader, whole[:cut], 1 << 20) == []
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
def test_a_frame_with_some_bytes_changed_does_no_harm(frame: tuple[Any, bytes], changes: list[tuple[int, int]]) -> None:
    message, body = frame
    data = bytearray(encode(message, len(body)) + body)
    for at, value in changes:
        data[at % min(len(data), HEADER.size + 200)] = value
    if HEADER.unpack_from(data)[4] > 1 << 20:  # the memory for a body is its receiver's decision
        return
    try:
        feed(FrameReader(LARGEST_MESSAGE), bytes(data), 1 << 20)
    except ProtocolError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ((b"HTTP", 1, 1, 0, 0), "not a Skerry frame"),
        ((b"\x16\x03\x01\x00", 1, 1, 0, 0), "speaks TLS"),
        ((MAGIC, 2, 1, 0, 0), "version 2"),
        ((MAGIC, VERSION, 999, 0, 0), "unknown kind 999"),
        ((MAGIC, VERSION, 1, LARGEST_HELLO + 1, 0), "at most"),
        ((MAGIC, VERSION, 13, 10, 5), "body of 5 bytes"),  # a Report has none
        ((MAGIC, VERSION, 15, 10, 0), "body of 0 bytes"),  # a Contribution has one
    ],
)
def test_a_wrong_header_is_named(header: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        feed(FrameReader(), HEADER.pack(*header), 1 << 20)


def test_another_version_is_told_apart() -> None:
    with pytest.raises(VersionError) as caught:
        feed(FrameReader(), HEADER.pack(MAGIC, VERSION + 1, 0, 1 << 30, 1 << 60), 1 << 20)
    assert "same release" in str(caught.value)


@pytest.mark.parametrize("raw", [b"\x91" * 4000, b"\xc1", b"", b"\x80", b"\x81\xa5layout\x01", b"\x81\xa6layout\xa2\xff\xff"])
def test_a_malformed_message_names_its_class(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed Join"):
        feed(FrameReader(), HEADER.pack(MAGIC, VERSION, 10, len(raw), 0) + raw, 1 << 20)


def test_a_long_message_is_held_only_while_it_is_read() -> None:
    reader = FrameReader(LARGEST_MESSAGE)
    long, short = StatusText(text="x" * 1_000_000), Join(layout="y")
    assert feed(reader, encode(long) + encode(short), 50_000) == [(long, b""), (short, b"")]
    assert len(reader.buffer()) == SCRATCH


def test_a_body_goes_straight_into_its_memory() -> None:
    memory = memoryview(bytearray(100_000))
    head = encode(Contribution(learner=0, generation=1, fragment=0, step=0, base=0, since=Count(), until=Count()), 100_000)
    reader = FrameReader()
    room = reader.buffer()
    room[: len(head) + 10] = head + b"b" * 10
    reader.feed(len(head) + 10)
    assert isinstance(reader.next(), Frame)
    assert reader.next() is None  # it waits for memory
    reader.body_into(memory)
    room = reader.buffer()
    room[:5] = b"later"
    assert bytes(memory[:16]) == b"b" * 10 + b"later\0"


def test_unknown_fields_are_ignored_and_defaults_filled() -> None:
    import msgspec

    raw = msgspec.msgpack.encode({"role": "observer", "nonce": b"n", "from the future": [1, {"a": None}]})
    [(message, _)] = feed(FrameReader(), HEADER.pack(MAGIC, VERSION, 1, len(raw), 0) + raw, 7)
    assert message == Hello(role="observer", nonce=b"n")
