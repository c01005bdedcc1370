"""The pace of a synchronous policy: when a learner hands over by itself, takes over, and may leave a boundary.

Rules: at step s = t_p (mod H) the fragment is handed over without being asked for; its value is taken over at s + tau, and that
boundary is left when it was, or when the round came to nothing. At the end nobody waits.
"""

from __future__ import annotations

from collections.abc import Sequence

from skerry.core.fragment import AT_ONCE, COPYING, DUE, HANDED, IDLE, ORDERED, VOID, Fragment, Tally
from skerry.core.orders import Go, LearnerAction
from skerry.core.policy import Policy


class Pacing:
    """Of a learner's fragments. `over`: the run's budget is reached."""

    def __init__(self, policy: Policy, fragments: Sequence[Fragment], tally: Tally, clock: int) -> None:
        self.over = False
        self.boundary: int | None = None  # own steps: there the trainer waits for Go
        self._fragments, self._tally = fragments, tally
        self._interval, self._overlap = policy.interval, policy.overlap
        self._since = clock  # when the present link began
        self._heard = clock - policy.interval - policy.overlap  # up to that step the syncer knows what there was to say
        self._waiting: dict[int, Fragment] = {}  # whose value waits for its step, in order of arrival
        self._at: dict[int, list[Fragment]] = {}  # by t_p
        for fragment in fragments:
            self._at.setdefault(policy.offset(fragment.index), []).append(fragment)

    def pace(self, clock: int) -> int:
        """What the fragments go by."""
        return AT_ONCE if self.over else clock

    def _scheduled(self, clock: int) -> Sequence[Fragment]:
        return () if self.over else self._at.get(clock % self._interval, ())

    def stepped(self, steps: int, clock: int, joined: bool, out: list[LearnerAction]) -> None:
        """The trainer stands at that boundary: what is due there."""
        self.boundary = steps
        self.take_over(clock, out)
        for fragment in self._scheduled(clock) if joined else ():
            if fragment.state is not IDLE or fragment.taken_step >= clock:
                out.append(fragment.abstain(clock))
            else:
                out += fragment.copy_out(DUE, clock)

    def jumped(self, old: int, clock: int, joined: bool, out: list[LearnerAction]) -> None:
        """The clock has: nobody shall wait for the steps between, nor what was to wait for them."""
        for step in range(old + 1, clock + 1) if joined else ():
            out.extend(fragment.abstain(step) for fragment in self._scheduled(step))
        self.take_over(clock, out)

    def came_back(self, clock: int, out: list[LearnerAction]) -> None:
        """There is a link again: what was to be said of the steps since `_heard` was perhaps heard by nobody."""
        self._since = clock
        for step in range(max(0, self._heard) + 1, clock + 1):
            out.extend(fragment.abstain(step) for fragment in self._scheduled(step) if fragment.question != step)

    def lost_link(self, clock: int) -> None:
        """What was said in the last interval may have been lost with it; and all that was, if it was shorter than that."""
        if clock - self._since >= self._interval + self._overlap:
            self._heard = clock - self._interval - self._overlap

    def delivered(self, fragment: Fragment, first: bool) -> None:
        """Its value waits. `first`: none did before."""
        if first:
            self._waiting.pop(fragment.index, None)
        self._waiting[fragment.index] = fragment

    def take_over(self, clock: int, out: list[LearnerAction]) -> None:
        """Whatever need not wait any more."""
        pace = self.pace(clock)
        for p, fragment in list(self._waiting.items()):
            if fragment.delivery is not None:
                fragment.settle(out, pace)
            if fragment.delivery is None:
                del self._waiting[p]

    def let_go(self, clock: int, out: list[LearnerAction]) -> None:
        """Let the trainer leave the boundary, if nothing holds it there."""
        if self.boundary is not None and (self.over or not self._held(clock)):
            out.append(Go(steps=self.boundary))
            self.boundary = None

    def _held(self, clock: int) -> bool:
        counts = self._tally.of
        if counts[COPYING.number] or counts[ORDERED.number] or counts[VOID.number]:
            return True
        due = clock - self._overlap
        return counts[HANDED.number] > 0 and any(f.state is HANDED and f.question <= due for f in self._fragments)
