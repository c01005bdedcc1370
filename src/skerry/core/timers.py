"""What is to be looked at again later: a heap of (when, subject), where a subject that no longer cares is passed over."""

from __future__ import annotations

import heapq
from typing import Protocol


class Subject(Protocol):
    """Something that wants to be looked at when a time has come."""

    def wants(self) -> bool:
        """Whether it still matters."""
        ...

    def look(self, now: float) -> None:
        """The time has come."""
        ...


class Timers:
    """Deadlines in order; equal ones in the order they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Subject]] = []
        self._number = 0

    def at(self, when: float, subject: Subject) -> None:
        """Look at the subject at that time, or at the first tick after it."""
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, subject))

    def next(self) -> float | None:
        """The next deadline that still matters."""
        while self._heap and not self._heap[0][2].wants():
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Look at every subject whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            subject = heapq.heappop(self._heap)[2]
            if subject.wants():
                subject.look(now)
