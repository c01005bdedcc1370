"""The virtual disk of a syncer: its log, and its values with two slots a fragment.

Rules: what is taken down lies in the writer's hands until it is committed, and until then a death may take it, from some event
on and to the end. At level `machine` a header that flipped may be lost with the machine until it is synced; the slot before it
is whole until then. What was committed or synced is never lost, but by a machine's death at level `process`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from skerry.core.layout import Layout
from skerry.core.messages import BodyName, Close, Contributor, Merge, SyncerAction, SyncerEvent
from support.counting import LOUD, Census, CountingPlane, Holding, Value

if TYPE_CHECKING:
    from worlds.world import World

Part = tuple[Merge, Value]


class Record(NamedTuple):
    """An event as the log holds it, and what was decided on it."""

    now: float
    event: SyncerEvent
    actions: list[SyncerAction]


class Slot(NamedTuple):
    """A version of a fragment in the store, and what went into it last. `inside`: units in it, hostile ones too."""

    holding: Holding = Holding()
    inside: int = 0
    parts: tuple[Part, ...] = ()

    @property
    def version(self) -> int:
        return self.holding.version


class Store:
    """What of the values outlives the syncer: of each fragment the slot whose header is valid, and the one before it."""

    def __init__(self, fragments: int) -> None:
        self.slots: list[tuple[Slot, Slot]] = [(Slot(), Slot())] * fragments  # the one before, the present one
        self.unsynced: set[int] = set()  # fragments

    def at(self, fragment: int, version: int) -> Slot:
        """The slot that holds that version."""
        return next(slot for slot in reversed(self.slots[fragment]) if slot.version == version)

    @property
    def versions(self) -> list[int]:
        """Of the present slots."""
        return [present.version for _, present in self.slots]

    def flip(self, fragment: int, slot: Slot) -> None:
        """The spare slot's header is the valid one from now on."""
        present = self.slots[fragment][1]
        assert fragment not in self.unsynced, "the slot before the present one is not safe yet"
        assert slot.version == present.version + 1, f"version {slot.version} upon version {present.version}"
        self.slots[fragment] = present, slot
        self.unsynced.add(fragment)

    def revert(self, fragment: int) -> None:
        """The present slot's header did not reach the disk."""
        before = self.slots[fragment][0]
        self.slots[fragment] = before, before


class WorldPlane(CountingPlane):
    """A plane over the store. `held` is what is sent; it follows the store when a version is published."""

    def __init__(self, world: World, census: Census, layout: Layout, store: Store, versions: Sequence[int]) -> None:
        super().__init__(census, layout, [store.at(p, version).holding for p, version in enumerate(versions)])
        self.store = store
        self._world = world

    def add(self, merge: Merge) -> None:
        if LOUD in self.bodies[merge.name][0]:
            self._world.merged_loud(merge)
        super().add(merge)

    def close(self, close: Close, then: Callable[[str], None]) -> None:
        parts = self._parts.pop((close.fragment, close.step))

        def make() -> None:
            if self.failures:
                self.failures -= 1
                self._world.took("no value came of a round")
                then("the disk is gone")
                return
            assert close.fragment not in self._made, "two versions of a fragment at once"
            self._made[close.fragment] = close, parts
            self._world.effect()
            then("")

        self._submit(make)

    def keep(self, close: Close, position: int, then: Callable[[], None]) -> None:
        world, p = self._world, close.fragment
        assert close in world.log[position - 1].actions, "this round was closed at another position"
        assert position <= world.committed, "a header flips, and the close may be forgotten"
        made, parts = self._made.pop(p)
        assert made == close
        self.store.flip(p, self._slot(close, parts, self.store.slots[p][1]))
        world.effect()
        if world.machine_level:

            def synced() -> None:
                self.store.unsynced.discard(p)
                world.effect()
                then()

            self._submit(synced)
        else:
            self.store.unsynced.discard(p)
            then()

    def _slot(self, close: Close, parts: list[Part], before: Slot) -> Slot:
        last, hostile = dict(before.holding.last), 0
        for merge, body in parts:
            if merge.learner in self._world.strangers:
                hostile += merge.tokens
            else:
                newest = max(body)
                last[newest.trainer] = newest
        work = [body for _, body in parts]
        value = before.holding.value.union(*work)
        assert len(value) == len(before.holding.value) + sum(map(len, work)), "work was merged twice"
        inside = before.inside + self._sizes[close.fragment] * (hostile + sum(unit.tokens for body in work for unit in body))
        return Slot(Holding(close.version, close.step, value, last), inside, tuple(parts))

    def publish(self, fragment: int, version: int, step: int) -> None:
        slot = self.store.slots[fragment][1]
        assert (slot.version, slot.holding.step) == (version, step), "another version than the one that is in the store"
        self.held[fragment] = slot.holding

    def check_contributors(self, fragment: int, included: Sequence[Contributor]) -> list[BodyName]:
        parts = self.store.slots[fragment][1].parts
        assert [(merge.learner, merge.generation) for merge, _ in parts] == [who[:2] for who in included]
        for (merge, body), (learner, generation, tokens) in zip(parts, included, strict=True):
            if learner not in self._world.strangers:
                work = self._census.work(learner, generation, tokens - merge.tokens, tokens)
                assert body == set(work), f"this is not what learner {learner} did up to its token {tokens}"
        return [merge.name for merge, _ in parts]


def decides(core: Any, records: Sequence[Record]) -> None:
    """The core decides on these events what it once decided; in the middle of the last one it may have died."""
    for at, (now, event, actions) in enumerate(records, 1):
        again = list(core.handle(now, event))
        if at == len(records) and again[: len(actions)] == actions:
            actions[:] = again
        assert again == actions, f"replayed, the core decides otherwise at event {at}: {event}: {again} {actions}"
