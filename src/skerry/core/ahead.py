"""Which fragments a learner hands over ahead of the question, and when.

A learner whose steps are long must finish the one that it is in before it can answer a question, and by then the round may be
over: without jitter for the same fragments for ever. So whoever came too late for a fragment looks ahead. Questions for a
fragment come at even distances, counted in its own steps; it copies the fragment out at the last boundary before the next
one, and has the answer ready.

Rules: only who was too late once, or had no room, looks ahead. It may err: what was copied too early is kept for the question
(if that does not come within tau of its steps, another copy is made for it), and what was copied too late is an answer as ever.
"""

from __future__ import annotations

import sys

_NEVER = sys.maxsize


class Ahead:
    """When which fragments were asked for, in own steps, and for which of them the learner came too late."""

    __slots__ = ("_asked", "_distance", "_late", "soonest")

    def __init__(self, fragments: int) -> None:
        self.soonest = _NEVER  # nothing is due before
        self._asked = [_NEVER] * fragments  # own steps at the last question
        self._distance = [0] * fragments  # and since the one before it; 0: that cannot be said
        self._late: set[int] = set()

    def asked(self, fragment: int, steps: int) -> None:
        """A question, after so many own steps."""
        last = self._asked[fragment]
        distance = steps - last if steps > last else 0
        self._asked[fragment], self._distance[fragment] = steps, distance
        if distance and fragment in self._late:
            self.soonest = min(self.soonest, steps + distance)

    def late(self, fragment: int) -> None:
        """The hand-over came too late for its round."""
        self._late.add(fragment)
        self.soonest = 0

    def due(self, steps: int) -> list[int]:
        """What has to be copied out at the boundary after so many steps, as its question may come before the next one; those
        whose question is expected first, first."""
        if steps < self.soonest:
            return []
        waiting = sorted([(self._asked[p] + self._distance[p], p) for p in self._late if self._distance[p]])
        self.soonest = waiting[0][0] if waiting else _NEVER
        return [fragment for at, fragment in waiting if at <= steps]
