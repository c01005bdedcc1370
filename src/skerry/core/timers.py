"""What is to be looked at again later: a heap of plain alarms, of which those that no longer matter are passed over."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from enum import Enum
from typing import NamedTuple


class Subject(Enum):
    """What an alarm is about."""

    MEMBER = "member"  # `key`: the learner, `mark`: the number of its life
    ROUND = "round"  # `key`: the fragment, `mark`: the round's number
    RETURN = "return"  # of who is awaited; `key`: the learner, `mark`: the number of its life


class Alarm(NamedTuple):
    """Look at the subject at that time. Equal times in the order in which they were set (`number`)."""

    when: float
    number: int
    subject: Subject
    key: int
    mark: int


class Timers:
    """Deadlines in order. `wants`: whether an alarm still matters."""

    heap: list[Alarm]
    number: int

    def __init__(self, wants: Callable[[Alarm], bool]) -> None:
        self.heap = []
        self.number = 0
        self._wants = wants
        self._next: float | None = None
        self.unsure = True  # `next` may have changed

    def at(self, when: float, subject: Subject, key: int, mark: int) -> None:
        """Look at the subject at that time, or at the first tick after it."""
        self.number += 1
        self.unsure = True
        heapq.heappush(self.heap, Alarm(when, self.number, subject, key, mark))

    def next(self) -> float | None:
        """The next deadline that still matters. It is asked for after every event, and seldom another: whoever changes what an
        alarm is about sets `unsure`."""
        if self.unsure:
            heap = self.heap
            while heap and not self._wants(heap[0]):
                heapq.heappop(heap)
            self._next = heap[0].when if heap else None
            self.unsure = False
        return self._next

    def due(self, now: float) -> Iterator[Alarm]:
        """Every alarm whose time has come, and that matters when its turn comes."""
        self.unsure = True
        while self.heap and self.heap[0].when <= now:
            alarm = heapq.heappop(self.heap)
            if self._wants(alarm):
                yield alarm
