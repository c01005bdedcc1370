"""The present version of every fragment as it is sent, encoded once for all learners, and older ones still being sent.

Rules: a body is given back for use when nobody sends it any more and a newer one has taken its place. A learner that reads
slowly keeps at most one body; when more than one model's worth of old bodies is kept that way, the learners with
the oldest are cut off (they come back and get the newest). Used on the event loop's thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from skerry.numerics.merger import Body


class Reader(Protocol):
    """Who is sent values."""

    def close(self, reason: str) -> None:
        """It keeps one for too long."""


class Edition:
    """One version of a fragment. `step`: of the round that made it. `readers`: who is being sent it."""

    __slots__ = ("body", "fragment", "readers", "step", "version")

    def __init__(self, fragment: int, version: int, step: int, body: Body) -> None:
        self.fragment = fragment
        self.version = version
        self.step = step
        self.body = body
        self.readers: set[Reader] = set()


class Shelf:
    """`reuse(fragment, bodies)` takes bodies back; `cut_off(reader)` ends a link that keeps one for too long."""

    def __init__(self, fragments: int, reuse: Callable[[int, list[Body]], None], cut_off: Callable[[Reader], None]) -> None:
        self.present: list[Edition | None] = [None] * fragments
        self._most_old = fragments
        self._old: dict[Edition, None] = {}  # oldest first
        self._reuse = reuse
        self._cut_off = cut_off

    def put(self, edition: Edition) -> None:
        """A new version takes the place of the one before it."""
        before = self.present[edition.fragment]
        self.present[edition.fragment] = edition
        if before is not None:
            self._old[before] = None
            self._release(before)
        if len(self._old) > self._most_old:
            for reader in list(next(iter(self._old)).readers):
                self._cut_off(reader)

    @property
    def old(self) -> int:
        """Versions that a newer one has taken the place of, and that are still being sent."""
        return len(self._old)

    def take(self, fragment: int, reader: Reader) -> Edition:
        """The present version, to be sent to the reader."""
        edition = self.present[fragment]
        assert edition is not None
        edition.readers.add(reader)
        return edition

    def give(self, edition: Edition, reader: Reader) -> None:
        """The reader has been sent it, or is gone."""
        edition.readers.discard(reader)
        if edition in self._old:
            self._release(edition)

    def _release(self, edition: Edition) -> None:
        if not edition.readers:
            del self._old[edition]
            self._reuse(edition.fragment, [edition.body])
