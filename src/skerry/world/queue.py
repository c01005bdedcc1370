"""The virtual event queue: what happens next. Events of one time happen in the order in which they were asked for.

What is to happen at once waits in line, without the heap: it was asked for later than whatever the heap holds for this time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Queue:
    """Virtual time, in seconds. `now` moves only by `advance`."""

    __slots__ = ("_at_once", "_heap", "_seq", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._at_once: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._seq = 0

    def __len__(self) -> int:
        return len(self._heap) + len(self._at_once)

    def at(self, time: float, call: Callable[..., object], *args: Any) -> None:
        """Call it at that time, which must not be past."""
        if time > self.now:
            self._seq += 1
            heappush(self._heap, (time, self._seq, call, args))
        else:
            assert time == self.now, "an event in the past"
            self._at_once.append((call, args))

    def after(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        """Call it so much later. As `at`, but for the call and the packing: nearly all events are asked for here."""
        now = self.now
        time = now + seconds
        if time > now:
            self._seq += 1
            heappush(self._heap, (time, self._seq, call, args))
        else:
            assert time == now, "an event in the past"
            self._at_once.append((call, args))

    def advance(self) -> bool:
        """Go to the next event and let it happen; False if there is none."""
        heap, at_once = self._heap, self._at_once
        if at_once and not (heap and heap[0][0] == self.now):
            call, args = at_once.popleft()
        elif heap:
            self.now, _, call, args = heappop(heap)
        else:
            return False
        call(*args)
        return True
