"""A fixed loop to which the bars of core, rounds and simulate are set: times of one machine mean little on another.

It does what a simulation in plain Python does: a heap of calls, a line of those that are due at once, frozen messages, tables
that say who handles them, counters in dictionaries and lists, for a thousand actors that do not fit into a core's own cache.
It imports nothing of Skerry. A bar is a multiple of one run of the loop, timed between the parts of what is measured.

Rules: nothing here may change, or every bar that hangs on it has to be set anew; a checksum sees to it that a run is the same
work everywhere. Python's own version does change it: so it does what is measured.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from statistics import median
from time import perf_counter, process_time
from typing import Any

from benchmarks._table import Row

ACTORS = 1000
PLACES = 24
EVENTS = 60_000  # of one run: some tenths of a second
CHECK = 1_752_659_342  # what the books add up to after a new loop's first run


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """From an actor to the book-keeper."""

    sender: int
    place: int
    number: int
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """From the book-keeper to an actor."""

    place: int
    number: int
    total: int


class Actor:
    """Works for a while, says so, and hears an answer."""

    def __init__(self, number: int, loop: Loop) -> None:
        self.number = number
        self.count = (0, 0)
        self.pace = 1.0 + 0.001 * (number * 7919 % ACTORS)
        self.open: dict[int, Word] = {}
        self.known = {place: Answer(place=place, number=0, total=number * PLACES + place + 1000) for place in range(PLACES)}
        self.marks = [(number, place + 1000) for place in range(PLACES)]
        self._loop = loop
        self._handlers: dict[type, Callable[[Any], list[Word]]] = {Answer: self._answered, Word: self._repeat}

    def work(self) -> None:
        """A piece of work is done: a word of it, and the next piece."""
        steps, amount = self.count
        place = steps % PLACES
        self.count = (steps + 1, amount + 1 + (self.number + steps) % 5)
        word = Word(sender=self.number, place=place, number=steps, amount=self.count[1])
        self.open[place] = word
        self._loop.after(self.pace, self.work)
        self._loop.after(0.0, self._loop.hear, word)

    def hear(self, message: Word | Answer) -> None:
        """A message for this actor."""
        for word in self._handlers[type(message)](message):
            self._loop.after(0.0, self._loop.hear, word)

    def _answered(self, answer: Answer) -> list[Word]:
        word = self.open.pop(answer.place, None)
        if word is None or answer.number <= self.known[answer.place].number:
            return []
        self.known[answer.place] = answer
        self.marks[answer.place] = (answer.number, max(self.marks[answer.place][1], answer.total))
        return []

    def _repeat(self, word: Word) -> list[Word]:
        return [word] if word.place in self.open else []


class Loop:
    """Time, the actors, and the books."""

    def __init__(self) -> None:
        self.now = 0.0
        self.totals = [0] * PLACES
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._at_once: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._number = 0
        self._actors = [Actor(number, self) for number in range(ACTORS)]
        self._books: dict[int, dict[int, int]] = {actor.number: {} for actor in self._actors}
        for actor in self._actors:
            self.after(actor.pace, actor.work)

    def after(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        """Call it so much later."""
        if seconds > 0:
            self._number += 1
            heappush(self._heap, (self.now + seconds, self._number, call, args))
        else:
            self._at_once.append((call, args))

    def hear(self, word: Word) -> None:
        """Book it, and answer."""
        book = self._books[word.sender]
        done = word.amount - book.get(word.place, 0)
        if done <= 0:
            return
        book[word.place] = word.amount
        self.totals[word.place] += done
        answer = Answer(place=word.place, number=word.number, total=self.totals[word.place])
        self.after(0.0, self._actors[word.sender].hear, answer)
        if word.number % 3 == 0:
            self.after(0.0, self._actors[(word.sender + 1) % ACTORS].hear, word)

    def run(self) -> None:
        """So many events."""
        for _ in range(EVENTS):
            if self._at_once:
                call, args = self._at_once.popleft()
            else:
                self.now, _, call, args = heappop(self._heap)
            call(*args)


class Reference:
    """`take()` between the parts of a measurement; then `wall` and `cpu` are the seconds of one run, medians of all."""

    def __init__(self) -> None:
        self._loop = Loop()
        self._loop.run()
        check = sum(total * place**3 for place, total in enumerate(self._loop.totals, 1))
        assert check == CHECK, f"the reference loop is not what the bars were set to: {check}"
        self._times: list[tuple[float, float]] = []

    def take(self) -> None:
        """Run it once more."""
        was = gc.isenabled()
        gc.disable()
        wall, cpu = perf_counter(), process_time()
        self._loop.run()
        self._times.append((perf_counter() - wall, process_time() - cpu))
        if was:
            gc.enable()

    @property
    def wall(self) -> float:
        """Seconds of one run."""
        return median(wall for wall, _ in self._times)

    @property
    def cpu(self) -> float:
        """Seconds of one run on a core."""
        return median(cpu for _, cpu in self._times)

    @property
    def event(self) -> float:
        """Seconds of one of its events on a core."""
        return self.cpu / EVENTS

    def row(self) -> Row:
        """How long it took here, for information."""
        return Row(f"the reference loop, CPU time, median of {len(self._times)}", self.cpu, "s")
