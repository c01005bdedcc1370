"""Values that count: which trainer's steps are in them; and the plane that merges such values, quickly, slowly or not at all.

A fragment's value is the set of steps whose work it holds: every step of a trainer adds a unit of its own to each fragment, and
a merge adds up instead of averaging. So a value tells exactly whose work is in it. Work that would be in it twice, or be taken
out again, is an AssertionError where that would happen. The Census knows every step that was made, so what the cores say in
tokens can be held against what the values hold.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from math import sqrt
from typing import NamedTuple, TypeAlias

from skerry.core.layout import Layout
from skerry.core.messages import BodyName, Close, Contributor, Count, Merge


class Unit(NamedTuple):
    """The `step`-th step of one trainer, on so many tokens."""

    trainer: int
    step: int
    tokens: int


Value: TypeAlias = frozenset[Unit]
NOTHING: Value = frozenset()
NAN = Unit(-1, -1, 0)
"""In a body: it is flawed."""
LOUD = Unit(-2, -2, 0)
"""In a body: its values are a thousand times what they should be, which counts for nothing but their norms."""


class Census:
    """All that was done, and where each generation began. A trainer is a process: whoever is killed returns as another one."""

    def __init__(self) -> None:
        self.made = 0  # tokens, by all
        self._units: list[list[Unit]] = []  # of each trainer
        self._tokens: list[list[int]] = []  # and how many tokens it had made after so many steps
        self._origins: dict[tuple[int, int], tuple[int, Count]] = {}  # learner, generation -> trainer, raw counters

    def trainer(self) -> int:
        """A new trainer's number."""
        self._units.append([])
        self._tokens.append([0])
        return len(self._units) - 1

    def step(self, trainer: int, tokens: int) -> Unit:
        """A trainer makes a step."""
        units, sums = self._units[trainer], self._tokens[trainer]
        units.append(unit := Unit(trainer, len(sums), tokens))
        sums.append(sums[-1] + tokens)
        self.made += tokens
        return unit

    def began(self, learner: int, generation: int, trainer: int, origin: Count) -> None:
        """A trainer was told that this generation begins at these counters of its."""
        self._origins[learner, generation] = (trainer, origin)

    def work(self, learner: int, generation: int, since: int, until: int) -> Sequence[Unit]:
        """The steps with which the generation came from so many tokens to so many."""
        trainer, origin = self._origins[learner, generation]
        sums = self._tokens[trainer]
        first, last = (bisect_right(sums, origin.tokens + tokens) - 1 for tokens in (since, until))
        assert sums[last] == origin.tokens + until, "no step ended there"
        return self._units[trainer][first:last]

    def reached(self, last: dict[int, Unit], learner: int, generation: int) -> int:
        """How many tokens the generation had made by its last step among these, one a trainer; 0: there is none."""
        trainer, origin = self._origins.get((learner, generation), (-1, Count()))
        unit = last.get(trainer)
        return 0 if unit is None or unit.step <= origin.steps else self._tokens[trainer][unit.step] - origin.tokens


class Holding(NamedTuple):
    """A version of a fragment."""

    version: int = 0
    step: int = 0
    value: Value = NOTHING
    last: dict[int, Unit] = {}  # each trainer's last step in it  # noqa: RUF012


class CountingPlane:
    """drive.syncer.Plane of such values. `slow`: what takes time waits for `work`; else it is done at once. `failures`: so many
    closes will come to nothing."""

    def __init__(self, census: Census, layout: Layout, holdings: Sequence[Holding] = ()) -> None:
        sizes = layout.sizes
        self.slow = False
        self.failures = 0
        self.held = list(holdings) or [Holding()] * len(sizes)  # what is published
        self.bodies: dict[BodyName, deque[Value]] = {}
        self.jobs: deque[Callable[[], None]] = deque()
        self.inside = sum(unit.tokens * size for at, size in zip(self.held, sizes, strict=True) for unit in at.value)
        self._census, self._sizes, self._pieces = census, sizes, [len(pieces) for pieces in layout.fragments]
        self.under_way: dict[int, tuple[Close, list[tuple[Merge, Value]]]] = {}  # closes that nobody was told of yet
        self._parts: dict[tuple[int, int], list[tuple[Merge, Value]]] = {}
        self._made: dict[int, tuple[Close, list[tuple[Merge, Value]]]] = {}

    def put(self, name: BodyName, body: Value) -> None:
        """A contribution's body has come."""
        self.bodies.setdefault(name, deque()).append(body)

    def work(self) -> None:
        """Do what was asked for first."""
        self.jobs.popleft()()

    def idle(self) -> bool:
        """Whether nothing lies with it but what is published."""
        return not (self.bodies or self.jobs or self._parts or self._made)

    def _submit(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)
        while self.jobs and not self.slow:
            self.work()

    def _take(self, name: BodyName) -> Value:
        """Of several under one name the one that came first."""
        held = self.bodies[name]
        body = held.popleft()
        if not held:
            del self.bodies[name]
        return body

    # ------------------------------------------------------------------ drive.syncer.Plane

    def provide(self, name: BodyName, then: Callable[[str], None]) -> None:
        body = self.bodies[name][-1]
        assert body <= {NAN}, "training had begun"
        self._submit(lambda: then("non-finite values" if body else ""))

    def adopt(self, name: BodyName) -> None:
        assert not self._take(name) and self.held[name.fragment].version == 0, "a first value of a run that has begun"
        self.held[name.fragment] = Holding()

    def screen(self, name: BodyName, then: Callable[[str, tuple[float, ...]], None]) -> None:
        body = self.bodies[name][-1]
        norm = sqrt(len(body)) * (1000.0 if LOUD in body else 1.0)
        norms = (norm,) * self._pieces[name.fragment]
        self._submit(lambda: then("non-finite values" if NAN in body else "", norms))

    def add(self, merge: Merge) -> None:
        body = self._take(merge.name) - {LOUD}
        assert NAN not in body, "what is flawed was merged"
        assert 0 < merge.weight <= merge.tokens**2 / merge.steps
        self._parts.setdefault((merge.fragment, merge.step), []).append((merge, body))

    def drop(self, name: BodyName) -> None:
        self._take(name)

    def close(self, close: Close, then: Callable[[str], None]) -> None:
        parts = self._parts.pop((close.fragment, close.step))
        self.under_way[close.fragment] = close, parts

        def make() -> None:
            del self.under_way[close.fragment]
            if self.failures:
                self.failures -= 1
                then("the disk is gone")
                return
            assert close.fragment not in self._made, "two versions of a fragment at once"
            self._made[close.fragment] = close, parts
            then("")

        self._submit(make)

    def keep(self, close: Close, position: int, then: Callable[[], None]) -> None:
        then()

    def publish(self, fragment: int, version: int, step: int) -> None:
        close, parts = self._made.pop(fragment)
        assert (close.version, close.step) == (version, step), "another version than the one that was made"
        before = self.held[fragment]
        assert version == before.version + 1
        work = [body for _, body in parts]
        value, last = before.value.union(*work), dict(before.last)
        assert len(value) == len(before.value) + sum(map(len, work)), "work was merged twice"
        for body in work:
            newest = max(body)
            last[newest.trainer] = newest
            self.inside += sum(unit.tokens for unit in body) * self._sizes[fragment]
        self.held[fragment] = Holding(version, step, value, last)

    def cancel(self, fragment: int, step: int) -> None:
        self._parts.pop((fragment, step), None)

    def left(self, of: CountingPlane, fragment: int) -> int:
        """The one whose place this one takes had made that version, though nobody had heard of it. Gives the version."""
        self._made[fragment] = of.under_way[fragment]
        return self._made[fragment][0].version

    # ------------------------------------------------------------------ what must hold

    def check_contributors(self, fragment: int, included: Sequence[Contributor]) -> list[BodyName]:
        """They are exactly those whose work is in the version that is about to be published. Gives the bodies in it."""
        _, parts = self._made[fragment]
        assert len(parts) == len(included)
        for (merge, body), (learner, generation, tokens) in zip(parts, included, strict=True):
            work = self._census.work(learner, generation, tokens - merge.tokens, tokens)
            assert body == set(work), f"this is not what learner {learner} did up to its token {tokens}"
            assert len(work) == merge.steps
        return [merge.name for merge, _ in parts]

    def merged(self, fragment: int, learner: int, generation: int) -> int:
        """Up to which tokens the generation's work is in the published version."""
        return self._census.reached(self.held[fragment].last, learner, generation)
