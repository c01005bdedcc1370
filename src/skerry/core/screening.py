"""Screening: which contributions are unlike all others, and how much one may weigh.

A contribution is refused if the norm of one of its tensors, per root of the steps that it covers, exceeds `norm_limit` times
what is usual of that tensor: the median of its last accepted ones, or the highest that it was since the learner's last merge in
that fragment, if that was more. For who was away or slow hands over work of a time when all took longer steps. Rules:

- Nothing is said before ENOUGH were accepted, nor of a tensor whose median is 0.
- If more than half of the live learners' last contributions to the fragment were over the limit, it is the run that changed,
  and not the learner: they are accepted, and the median follows. So a lone learner is never refused, and one of two is.
- A weight is, per step that it covers, at most `weight_limit` times the median of its fragment's last ones (per step, for who
  was away for long covers many). What is remembered is the weight as it was limited, so who lies moves the median no further.
- Of an even number the lower middle is the median: half of those remembered may lie.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple

from skerry.core.layout import Layout
from skerry.core.ledger import Account
from skerry.core.members import Members
from skerry.core.policy import Policy

KEPT = 16
ENOUGH = 8
FALLEN = 0.9  # of the last peak: less is a peak of its own, so that there are never many
HEAVIEST = 2.0**64
"""The largest weight: with it nothing overflows in fp32."""


def weight_of(tokens: int, steps: int) -> float:
    """Quantity times quality: tokens * (tokens / steps)."""
    return min(tokens * tokens / steps, HEAVIEST)


class Window:
    """The last KEPT numbers, in order of arrival and sorted."""

    __slots__ = ("median", "order", "sorted")

    def __init__(self, order: list[float]) -> None:
        self.order = order
        self.sorted = sorted(order)
        self._look()

    def _look(self) -> None:
        here = self.sorted
        self.median = here[(len(here) - 1) // 2] if len(here) >= ENOUGH else 0.0  # 0: nothing is known

    def add(self, number: float) -> None:
        """The oldest one makes room for it."""
        order, here = self.order, self.sorted
        if len(order) == KEPT:
            del here[bisect_left(here, order.pop(0))]
        order.append(number)
        insort(here, number)
        self._look()


class Peak(NamedTuple):
    """From that version of the fragment on the median was about that much, until the next peak; later it was less."""

    version: int
    median: float


class Screening:
    """What is usual in every fragment."""

    norms: list[list[list[float]]]  # of each fragment's pieces, the last accepted ones per root of a step, in order of arrival
    peaks: list[list[list[Peak]]]  # of each fragment's pieces, falling
    weights: list[list[float]]  # of each fragment's last accepted contributions, per step
    over: list[set[int]]  # of each fragment: whose last contribution was over the limit

    def __init__(self, policy: Policy, layout: Layout, members: Members) -> None:
        self.policy = policy
        self._layout, self._members = layout, members
        self.norms = [[[] for _ in pieces] for pieces in layout.fragments]
        self.peaks = [[[] for _ in pieces] for pieces in layout.fragments]
        self.weights = [[] for _ in layout.fragments]
        self.over = [set() for _ in layout.fragments]
        self.restored()

    def restored(self) -> None:
        """The state was loaded."""
        self._norms = [[Window(order) for order in pieces] for pieces in self.norms]
        self._weights = [Window(order) for order in self.weights]

    def amend(self, policy: Policy) -> None:
        """Go by this policy's limits from now on."""
        self.policy = policy

    def flaw(self, account: Account, fragment: int, steps: int, norms: Sequence[float], version: int) -> str:
        """What is wrong with a live learner's contribution that covers so many steps; "": it is accepted, and remembered.
        `version`: the fragment's present one."""
        limit, root = self.policy.norm_limit, sqrt(steps)
        if not norms or not limit:
            return ""
        windows, over, worst, where = self._norms[fragment], self.over[fragment], 0.0, -1
        for i, (norm, window) in enumerate(zip(norms, windows, strict=True)):
            if norm > limit * root * window.median > 0.0:  # seldom
                usual = self._highest(fragment, i, account.merged[fragment][0])
                if norm > limit * root * usual and (times := norm / (root * usual)) > worst:
                    worst, where = times, i
        if where < 0:
            over.discard(account.learner)
        else:
            over.add(account.learner)
            members = self._members.by_id
            if 2 * sum([members[i].live for i in over]) <= self._members.live:
                tensor = self._layout.tensors[self._layout.fragments[fragment][where].tensor].name
                return f"the norm of tensor {tensor} is {worst:.3g} times what is usual"
        for norm, window, peaks in zip(norms, windows, self.peaks[fragment], strict=True):
            window.add(norm / root)
            if not peaks or not FALLEN * peaks[-1].median < window.median <= peaks[-1].median:
                self._remember(peaks, Peak(version, window.median))
        return ""

    def _highest(self, fragment: int, piece: int, since: int) -> float:
        """The highest median from that version of the fragment on."""
        peaks, now = self.peaks[fragment][piece], self._norms[fragment][piece].median
        at = max(0, bisect_right(peaks, since, key=lambda peak: peak.version) - 1)  # the one that held then
        return max(now, peaks[at].median) if peaks else now

    @staticmethod
    def _remember(peaks: list[Peak], peak: Peak) -> None:
        while peaks and peaks[-1].median <= peak.median:
            peaks.pop()
        if peak.median:
            peaks.append(peak)

    def weigh(self, fragment: int, tokens: int, steps: int) -> float:
        """The weight of a contribution that is merged."""
        window, limit = self._weights[fragment], self.policy.weight_limit
        weight = weight_of(tokens, steps)
        if limit and weight > (most := limit * window.median * steps) > 0.0:
            weight = most
        window.add(weight / steps)
        return weight
