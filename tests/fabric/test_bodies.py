"""Bodies in chunks: whatever way they are cut and mixed they arrive whole; what does not fit ends with its reason."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.core.messages import Delivery
from skerry.errors import ProtocolError
from skerry.fabric.bodies import MOST_BODIES, MOST_PIECES, Bodies
from skerry.fabric.messages import Chunk
from skerry.fabric.wire import Filled, FrameReader, encode


def delivery(version: int) -> Delivery:
    return Delivery(fragment=0, version=version, step=0, merged=0, progress=0.0)


def announced(number: int, nbytes: int) -> bytes:
    return encode(delivery(number), nbytes, number=number)


def chunk(number: int, offset: int, data: bytes) -> bytes:
    return encode(Chunk(body=number, offset=offset), len(data), number=number) + data


class Receiver:
    """What a link does with what a reader reads, without the link. `room`: as Handler.bulk_buffer."""

    def __init__(self, room: Callable[[Any, int], memoryview | None] = lambda message, n: memoryview(bytearray(n))) -> None:
        self.reader = FrameReader()
        self.bodies = Bodies(room)
        self.whole: list[tuple[int, bytes]] = []
        self.waits: Any = None

    def feed(self, data: bytes, step: int = 1 << 20) -> None:
        at = 0
        while at < len(data):
            room = self.reader.buffer()
            part = data[at : at + min(step, len(room))]
            room[: len(part)] = part
            self.reader.feed(len(part))
            at += len(part)
            self.pump()

    def pump(self) -> None:
        while True:
            if self.waits is not None:
                memory = self.bodies.place(self.waits)
                if memory is None:
                    return
                self.reader.fill(memory)
                self.waits = None
            event = self.reader.next()
            if event is None:
                return
            if isinstance(event, Filled):
                done = self.bodies.filled(event.frame)
                if done is not None:
                    self.whole.append((done[0].version, bytes(done[1])))
            elif isinstance(event.message, Chunk):
                self.waits = event
            else:
                self.bodies.announce(event)


@st.composite
def streams(draw: st.DrawFn) -> tuple[dict[int, bytes], bytes]:
    """A few bodies by number, and frames that bear them: each cut anywhere, its chunks in any order, all of them mixed."""
    numbers = draw(st.lists(st.integers(0, 2**32), min_size=1, max_size=MOST_BODIES, unique=True))
    bodies = {number: draw(st.binary(min_size=1, max_size=400)) for number in numbers}
    heads = b"".join(announced(number, len(body)) for number, body in bodies.items())
    chunks = []
    for number, body in bodies.items():
        cuts = sorted({0, len(body), *draw(st.lists(st.integers(0, len(body)), max_size=12))})
        chunks += [chunk(number, a, body[a:b]) for a, b in pairwise(cuts)]
    return bodies, heads + b"".join(draw(st.permutations(chunks)))


@given(streams(), st.integers(1, 2000))
@settings(max_examples=300, deadline=None)
def test_bodies_arrive_whole_however_they_are_cut_and_mixed(stream: tuple[dict[int, bytes], bytes], step: int) -> None:
    bodies, data = stream
    receiver = Receiver()
    receiver.feed(data, step)
    assert dict(receiver.whole) == bodies and len(receiver.whole) == len(bodies)
    assert not receiver.bodies.holding and receiver.bodies.lose() == []


@given(streams(), st.data())
@settings(max_examples=200, deadline=None)
def test_a_chunk_once_more_is_an_error_whenever_it_comes(stream: tuple[dict[int, bytes], bytes], data: st.DataObject) -> None:
    bodies, _ = stream
    number = data.draw(st.sampled_from(sorted(bodies)))
    body = bodies[number]
    cuts = sorted({0, len(body), *data.draw(st.lists(st.integers(0, len(body)), max_size=8))})
    parts = data.draw(st.permutations(list(pairwise(cuts))))
    again = data.draw(st.integers(0, len(parts) - 1))
    receiver = Receiver()
    receiver.feed(announced(number, len(body)) + b"".join(chunk(number, a, body[a:b]) for a, b in parts[: again + 1]))
    with pytest.raises(ProtocolError, match=r"has come already|not under way"):
        a, b = parts[data.draw(st.integers(0, again))]
        receiver.feed(chunk(number, a, body[a:b]))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 60), st.integers(1, 30)), max_size=30))
@settings(max_examples=300, deadline=None)
def test_random_chunks_end_with_a_reason_or_fill_a_body_once(attempts: list[tuple[int, int, int]]) -> None:
    receiver = Receiver()
    receiver.feed(announced(0, 50) + announced(1, 50))
    written = {0: [0] * 50, 1: [0] * 50}
    for number, offset, size in attempts:
        fits = number < 2 and offset >= 0 and offset + size <= 50 and not any(written[number][offset : offset + size])
        try:
            receiver.feed(chunk(number, offset, bytes([1]) * size))
        except ProtocolError as error:
            assert str(error) and not fits
            return
        assert fits
        written[number][offset : offset + size] = [1] * size
        assert (number in dict(receiver.whole)) == all(written[number])


TEN = announced(3, 10)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (chunk(3, 0, b"x"), "a Chunk of body 3, which is not under way"),
        (TEN + chunk(4, 0, b"x"), "a Chunk of body 4, which is not under way"),
        (TEN + chunk(3, 8, b"xyz"), "from 8 to 11 of a body of 10 bytes"),
        (TEN + chunk(3, -1, b"xyz"), "a Chunk with offset -1, which cannot be"),
        (TEN + chunk(3, 2**63, b"xyz"), "a Chunk with offset 9223372036854775808, which cannot be"),
        (TEN + chunk(3, 2, b"xyz") + chunk(3, 4, b"x"), "from 4 to 5 of a body of which that has come already"),
        (TEN + chunk(3, 2, b"xyz") + chunk(3, 0, b"xyz"), "from 0 to 3 of a body of which that has come already"),
        (TEN + chunk(3, 2, b"x") + chunk(3, 0, b"xyzuvw"), "has come already"),
        (TEN + chunk(3, 0, b"0123456789") + chunk(3, 0, b"x"), "not under way"),
        (TEN + TEN, "whose body has the number 3, which another has"),
        (b"".join(announced(i, 1) for i in range(MOST_BODIES + 1)), f"when {MOST_BODIES} bodies are under way"),
        (announced(0, 10_000) + b"".join(chunk(0, 2 * i, b"x") for i in range(MOST_PIECES + 1)), "separate pieces"),
    ],
)
def test_what_does_not_fit_is_named(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        Receiver().feed(data)


def test_pieces_next_to_each_other_count_as_one() -> None:
    receiver = Receiver()
    size = 3 * MOST_PIECES
    receiver.feed(announced(0, size) + b"".join(chunk(0, i, b"x") for i in range(size)))
    assert receiver.whole == [(0, b"x" * size)]


def test_memory_is_asked_for_with_the_first_chunk_and_what_comes_behind_it_waits() -> None:
    asked: list[int] = []
    free = False

    def room(message: Delivery, nbytes: int) -> memoryview | None:
        asked.append(message.version)
        return memoryview(bytearray(nbytes)) if free else None

    receiver = Receiver(room)
    receiver.feed(announced(1, 4) + announced(2, 4))
    assert not asked and not receiver.bodies.holding
    receiver.feed(chunk(2, 2, b"cd") + chunk(1, 0, b"efgh") + chunk(2, 0, b"ab"))
    assert asked == [2] and not receiver.whole
    free = True
    receiver.pump()
    assert asked == [2, 2, 1] and receiver.whole == [(1, b"efgh"), (2, b"abcd")]


def test_what_is_lost_is_told_with_its_memory() -> None:
    receiver = Receiver()
    receiver.feed(announced(1, 4) + announced(2, 4) + announced(3, 4) + chunk(1, 0, b"ab") + chunk(3, 0, b"efgh"))
    assert receiver.bodies.holding
    assert [(message.version, bytes(memory[:2])) for message, memory in receiver.bodies.lose()] == [(1, b"ab")]
    assert not receiver.bodies.holding
