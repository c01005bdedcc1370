"""Many events of one kind as few lines: what a peer can cause as often as it likes must not fill the disk.

Rules: the first of a kind is said at once; those within the next PAUSE seconds are counted, and told of as one, with the last
one's words, when these are over. A kind is an event's name, its learner and its code (of trouble, which is our own: what it
is about); where there are more kinds than can be kept apart (MOST), its name alone. What ends or counts in the run's files (a
round, an export) is never gathered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec.structs import replace

from skerry.store.records import Event

PAUSE = 10.0  # seconds
MOST = 512  # kinds
APART = frozenset({"cancelled", "budget_reached", "run_over", "snapshot", "export"})


class Gatherer:
    """`take` gives what is to be said now; `due` what was counted and whose time has come, now and then."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, int, str], tuple[float, Event | None]] = {}  # -> until when; what is counted since

    def take(self, now: float, event: Event) -> Event | None:
        """It has happened. None: it is counted."""
        if event.event in APART:
            return event
        what = event.text.partition(":")[0] if event.event == "trouble" else event.code
        kind = event.event, event.learner, what
        if kind not in self._kinds and len(self._kinds) >= MOST:
            kind = event.event, -1, ""
        until, counted = self._kinds.get(kind, (now, None))
        if counted is None and now >= until:
            self._kinds[kind] = now + PAUSE, None
            return event
        times = counted.times + 1 if counted else 1
        self._kinds[kind] = until, replace(event, times=times)
        return None

    def due(self, now: float) -> Iterator[Event]:
        """What was counted for long enough, each with how often it happened."""
        yield from self._said([kind for kind, (until, _) in self._kinds.items() if now >= until], now)

    def rest(self) -> Iterator[Event]:
        """All that was counted: nothing more comes."""
        yield from self._said(list(self._kinds), 0.0)

    def _said(self, kinds: Iterable[tuple[str, int, str]], now: float) -> Iterator[Event]:
        for kind in kinds:
            _, counted = self._kinds.pop(kind)
            if counted is not None:
                self._kinds[kind] = now + PAUSE, None
                more = f"{counted.times:,} more" if counted.times > 1 else "once more"
                yield replace(counted, text=f"{more}, last: {counted.text}" if counted.text else more)
