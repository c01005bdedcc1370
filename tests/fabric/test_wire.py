"""The frame codec: whatever is encoded comes back, however it is cut; whatever else comes raises ProtocolError."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.core.messages import Contribution, Count, Join, Refused, Report, Verdict, Welcome
from skerry.errors import ProtocolError
from skerry.fabric.address import Endpoint
from skerry.fabric.messages import KINDS, Chunk, Hello, LayoutText, StatusText
from skerry.fabric.ranges import LARGEST, LONGEST_BYTES, LONGEST_LIST, checker
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

EDGES = (-(2**63), -2, -1, 0, 1, LARGEST, LARGEST + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
INTEGERS = st.integers(0, LARGEST) | st.sampled_from([edge for edge in EDGES if 0 <= edge <= LARGEST])
COUNTS = st.builds(Count, INTEGERS, INTEGERS, INTEGERS)
PORTS = st.integers(1, 65535)
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    int: INTEGERS,
    str: st.text(max_size=50),
    bytes: st.binary(max_size=50),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    float | None: st.none() | st.floats(allow_nan=False, allow_infinity=False),
    Count: COUNTS,
    tuple[float, ...]: st.lists(st.floats(allow_nan=False), max_size=5).map(tuple),
    tuple[int, ...]: st.lists(INTEGERS, max_size=5).map(tuple),
    tuple[float, ...]: st.just(()),
    tuple[Count, ...]: st.lists(COUNTS, max_size=5).map(tuple),
    tuple[str, ...]: st.lists(st.text(max_size=20), max_size=5).map(tuple),
    tuple[Endpoint, ...]: st.lists(
        st.builds(Endpoint, kind=st.text(max_size=9), host=st.text(max_size=9), port=PORTS), max_size=3
    ).map(tuple),
}
BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "flaw": st.just(""), "progress": st.floats(0, 1), "heartbeat": st.floats(0.01, 3600),
    "bases": st.lists(st.integers(-1, 9)).map(tuple), "lowest": st.integers(0, 65535), "highest": st.integers(0, 65535),
}  # fmt: skip


def messages(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Any message of that class that may be."""
    hints = typing.get_type_hints(cls)
    known = {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if field.name in BY_NAME:
            known[field.name] = BY_NAME[field.name]
        else:
            known[field.name] = BY_TYPE[hint] if hint in BY_TYPE else st.sampled_from(typing.get_args(hint))
        if field.default == -1:
            known[field.name] |= st.just(-1)
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
        body, number = st.integers(1, LARGEST), INTEGERS
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


OUTSIDE: dict[Any, list[Any]] = {
    int: [edge for edge in EDGES if not -1 <= edge <= LARGEST],
    float: [math.nan, math.inf, -math.inf],
    str: ["x" * ((1 << 22) + 1)],
    bytes: [b"x" * (LONGEST_BYTES + 1)],
    Count: [Count(*(bad if at == place else 1 for at in range(3))) for place in range(3)
            for bad in (-1, LARGEST + 1, 2**64 - 1)],
    Endpoint: [Endpoint(kind="syncer", host="here", port=port) for port in (-1, 0, 65536, 2**63)],
    bool: [],
}


def outside(hint: Any) -> list[Any]:
    """Values of that type which no field may have."""
    if hint in OUTSIDE:
        return OUTSIDE[hint]
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return [(bad,) for bad in outside(arguments[0]) if not isinstance(bad, str)] + [(0,) * (LONGEST_LIST + 1)]
    return [] if typing.get_origin(hint) is typing.Literal else outside(arguments[0])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.cls.__name__)
@given(data=st.data())
@settings(max_examples=3, deadline=None)
def test_a_field_outside_its_range_is_named(kind: Any, data: st.DataObject) -> None:
    message = data.draw(messages(kind.cls))
    check = checker(kind.cls)
    check(message)
    hints = typing.get_type_hints(kind.cls)
    for field in dataclasses.fields(kind.cls):
        for bad in outside(hints[field.name]):
            with pytest.raises(ProtocolError, match=f"a {kind.cls.__name__} with {field.name} .*, which cannot be"):
                check(dataclasses.replace(message, **{field.name: bad}))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Join(layout="x", generation=2**64 - 1), "a Join with generation 18446744073709551615"),
        (Join(layout="x", count=Count(1, 2**64 - 1, 1)), "a Join with count"),
        (Report(learner=-1, generation=1, clock=1, count=Count()), "a Report with learner -1"),
        (Report(learner=0, generation=1, clock=1, count=Count(-1, 0, 0)), "a Report with count"),
        (Verdict(learner=0, generation=1, fragment=0, step=-2, verdict="late"), "a Verdict with step -2"),
        (Hello(role="learner", nonce=b"n", highest=65536), "a Hello with highest 65536"),
        (Welcome(learner=0, generation=1, clock=0, first_step=0, progress=math.nan), "a Welcome with progress nan"),
    ],
)  # fmt: skip
def test_what_comes_with_a_field_outside_its_range_ends_with_its_name(message: Any, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        feed(FrameReader(LARGEST_MESSAGE), encode(message), 1 << 20)


@pytest.mark.parametrize("number", [-1, LARGEST + 1])
def test_the_number_of_a_body_has_a_range_too(number: int) -> None:
    with pytest.raises(ProtocolError, match="a LayoutText whose body has the number"):
        feed(FrameReader(LARGEST_MESSAGE), encode(LayoutText(hash="x"), 1, number=number), 1 << 20)


def test_what_the_receiver_says_of_a_body_cannot_be_said_by_its_sender() -> None:
    said = Contribution(learner=1, generation=1, fragment=0, step=0, base=0, since=Count(), until=Count(1, 2, 3), flaw="mine")
    with pytest.raises(ProtocolError, match="a Contribution with flaw 'mine'"):
        feed(FrameReader(LARGEST_MESSAGE), encode(said, 1), 1 << 20)


@given(st.lists(FRAMES, min_size=2, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_frames_in_any_order_are_each_understood(frames: list[Sent], random: Any) -> None:
    random.shuffle(frames)
    assert feed(FrameReader(LARGEST_MESSAGE), b"".join(frame.data for frame in frames), 1 << 20) == frames


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
        ((MAGIC, VERSION, 15, 10, LARGEST + 1), f"body of {LARGEST + 1} bytes"),
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
