"""The virtual event queue: what happens next. Events of one time happen in the order in which they were asked for."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Queue:
    """Virtual time, in seconds. `now` moves only by `advance`."""

    __slots__ = ("_heap", "_seq", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._seq = 0

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, time: float, call: Callable[..., object], *args: Any) -> None:
        """Call it at that time, which must not be past."""
        assert time >= self.now, "an event in the past"
        self._seq += 1
        heapq.heappush(self._heap, (time, self._seq, call, args))

    def after(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        """Call it so much later."""
        assert seconds >= 0, "an event in the past"
        self._seq += 1
        heapq.heappush(self._heap, (self.now + seconds, self._seq, call, args))

    def advance(self) -> bool:
        """Go to the next event and let it happen; False if there is none."""
        if not self._heap:
            return False
        self.now, _, call, args = heapq.heappop(self._heap)
        call(*args)
        return True
