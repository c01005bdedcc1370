"""Screening: which contributions are unlike all others, and how much one may weigh.

A contribution is refused if the norm of one of its tensors, per root of the steps that it covers, exceeds `norm_limit` times
the median of that tensor's last accepted ones. Rules:

- Nothing is said before ENOUGH were accepted, nor of a tensor whose median is 0.
- If more than half of the live learners' last contributions to the fragment were over the limit, it is the run that changed,
  and not the learner: they are accepted, and the median follows. So a lone learner is never refused, and one of two is.
- A weight is, per step that it covers, at most `weight_limit` times the median of its fragment's last ones (per step, for who
  was away for long covers many). What is remembered is the weight as it was limited, so who lies moves the median no further.
- Of an even number the lower middle is the median: half of those remembered may lie.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from math import sqrt

from skerry.core.layout import Layout
from skerry.core.members import Members
from skerry.core.policy import Policy

KEPT = 16
ENOUGH = 8
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


class Screening:
    """What is usual in every fragment."""

    norms: list[list[list[float]]]  # of each fragment's pieces, the last accepted ones per root of a step, in order of arrival
    weights: list[list[float]]  # of each fragment's last accepted contributions, per step
    over: list[set[int]]  # of each fragment: whose last contribution was over the limit

    def __init__(self, policy: Policy, layout: Layout, members: Members) -> None:
        self.policy = policy
        self._layout, self._members = layout, members
        self.norms = [[[] for _ in pieces] for pieces in layout.fragments]
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

    def flaw(self, learner: int, fragment: int, steps: int, norms: Sequence[float]) -> str:
        """What is wrong with a live learner's contribution that covers so many steps; "": it is accepted, and remembered."""
        limit, root = self.policy.norm_limit, sqrt(steps)
        if not norms or not limit:
            return ""
        windows, over = self._norms[fragment], self.over[fragment]
        worst, where = 0.0, -1
        for i, (norm, window) in enumerate(zip(norms, windows, strict=True)):
            if norm > limit * root * window.median > 0.0 and (times := norm / (root * window.median)) > worst:
                worst, where = times, i
        if where < 0:
            over.discard(learner)
        else:
            over.add(learner)
            members = self._members.by_id
            if 2 * sum([members[i].live for i in over]) <= self._members.live:
                tensor = self._layout.tensors[self._layout.fragments[fragment][where].tensor].name
                return f"the norm of tensor {tensor} is {worst:.3g} times what is usual"
        for norm, window in zip(norms, windows, strict=True):
            window.add(norm / root)
        return ""

    def weigh(self, fragment: int, tokens: int, steps: int) -> float:
        """The weight of a contribution that is merged."""
        window, limit = self._weights[fragment], self.policy.weight_limit
        weight = weight_of(tokens, steps)
        if limit and weight > (most := limit * window.median * steps) > 0.0:
            weight = most
        window.add(weight / steps)
        return weight
