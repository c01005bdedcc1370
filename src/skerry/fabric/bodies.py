"""Bodies on their way in: where each chunk goes, and which body is whole. Without a socket.

Rules: a message announces a body under a number; chunks that bear the number may come in any order, and those of several
bodies mixed. Memory is asked for when the first chunk of a body comes, not before; where there is none, that chunk waits, and
with it what comes behind it. A chunk twice, overlapping, beyond the body or of no announced body raises ProtocolError.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from skerry.errors import ProtocolError
from skerry.fabric.wire import Frame

MOST_BODIES = 4  # announced and not whole
MOST_PIECES = 1024  # separate pieces that a body may have come in, neighbours counted as one


class Incoming:
    """A body, from its announcement until it is whole."""

    def __init__(self, frame: Frame) -> None:
        self.message, self.nbytes = frame.message, frame.body
        self.memory: memoryview | None = None
        self.missing = frame.body  # bytes
        self._begins: list[int] = []  # of the pieces that have come or are coming, ascending
        self._ends: list[int] = []

    def overlaps(self, begin: int, end: int) -> bool:
        """Whether any of it has come already."""
        at = bisect_right(self._begins, begin)
        return bool((at and self._ends[at - 1] > begin) or (at < len(self._begins) and self._begins[at] < end))

    def add(self, begin: int, end: int) -> None:
        """A piece that overlaps none."""
        at = bisect_right(self._begins, begin)
        if at < len(self._begins) and self._begins[at] == end:  # the one behind it begins here
            del self._begins[at]
            end = self._ends.pop(at)
        if at and self._ends[at - 1] == begin:  # the one before it ends here
            self._ends[at - 1] = end
        else:
            self._begins.insert(at, begin)
            self._ends.insert(at, end)
        if len(self._begins) > MOST_PIECES:
            raise ProtocolError(f"a body in more than {MOST_PIECES} separate pieces")


class Bodies:
    """Those of one link. `ask`: as Handler.bulk_buffer, given the announcing message and the body's length."""

    def __init__(self, ask: Callable[[Any, int], memoryview | None]) -> None:
        self._ask = ask
        self._open: dict[int, Incoming] = {}

    @property
    def holding(self) -> bool:
        """Whether memory was given for a body that is not whole."""
        return any(body.memory is not None for body in self._open.values())

    def announce(self, frame: Frame) -> None:
        """A message with a body has come."""
        name = type(frame.message).__name__
        if frame.number in self._open:
            raise ProtocolError(f"a {name} whose body has the number {frame.number}, which another has")
        if len(self._open) >= MOST_BODIES:
            raise ProtocolError(f"a {name} when {MOST_BODIES} bodies are under way")
        self._open[frame.number] = Incoming(frame)

    def place(self, chunk: Frame) -> memoryview | None:
        """Where the chunk's bytes go; None: no memory now, ask again."""
        body = self._open.get(chunk.message.body)
        if body is None:
            raise ProtocolError(f"a Chunk of body {chunk.message.body}, which is not under way")
        begin, end = chunk.message.offset, chunk.message.offset + chunk.body
        if begin < 0 or end > body.nbytes:
            raise ProtocolError(f"a Chunk from {begin} to {end} of a body of {body.nbytes} bytes")
        if body.overlaps(begin, end):
            raise ProtocolError(f"a Chunk from {begin} to {end} of a body of which that has come already")
        if body.memory is None:
            memory = self._ask(body.message, body.nbytes)
            if memory is None:
                return None
            assert memory.nbytes == body.nbytes
            body.memory = memory
        body.add(begin, end)
        return body.memory.cast("B")[begin:end]

    def filled(self, chunk: Frame) -> tuple[Any, memoryview] | None:
        """The chunk's bytes are in their place. The message and its body, if that is whole now."""
        body = self._open[chunk.message.body]
        body.missing -= chunk.body
        if body.missing:
            return None
        assert body.memory is not None
        del self._open[chunk.message.body]
        return body.message, body.memory

    def lose(self) -> list[tuple[Any, memoryview]]:
        """No more will come: the messages of unfinished bodies, with the memory that was given for them."""
        lost = [(body.message, body.memory) for body in self._open.values() if body.memory is not None]
        self._open.clear()
        return lost
