"""What is done to bodies in the syncer's process: room for those that come, the merger's thread, the values that are sent.

    room -> put -> screen -> add, or drop          close -> publish -> edition, returned

Rules: a body is received straight into a buffer of the pool and known by its name from `put` on; the same name may come twice,
over two links of one learner, and the copies are seen to in the order in which they came. Arithmetic is the worker's,
one job after the other in the order of asking. Everything else happens on the event loop's thread. Nobody else touches the
tensors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from skerry.core.layout import Layout
from skerry.core.messages import BodyName, Close, Merge
from skerry.core.policy import Policy
from skerry.numerics.accumulate import Screened
from skerry.numerics.merger import Body, Merger, Values
from skerry.syncer.pool import Pool
from skerry.syncer.shelf import Edition, Reader, Shelf
from skerry.syncer.worker import Worker


class Room:
    """Memory for one body."""

    __slots__ = ("buffer", "encoded", "memory", "pooled", "screened")

    def __init__(self, buffer: Body, nbytes: int, *, pooled: bool = True) -> None:
        self.buffer, self.pooled = buffer, pooled
        self.encoded: Body | None = None  # of a first value, as it is sent
        self.memory = buffer.data[:nbytes]
        self.screened = Screened(())


class ThreadPlane:
    """One thread's work. `theta`, `momentum`: those of a snapshot, which it makes its own."""

    def __init__(self, policy: Policy, layout: Layout, worker: Worker, buffers: int, *values: Values) -> None:
        self.merger = Merger(policy, layout, *values)
        self.pool = Pool(buffers, self.merger.up.nbytes(max(layout.sizes)))
        self.worker = worker
        self.shelf = Shelf(policy.fragments, self.merger.reuse, _cut_off)
        self._held: dict[BodyName, deque[Room]] = {}
        self._made: dict[int, Body] = {}  # closed, not yet published
        self._fence: list[tuple[Close, Callable[[str], None]]] | None = None  # closes that wait behind it

    # ------------------------------------------------------------------ for sessions

    def nbytes(self, fragment: int, *, initial: bool = False) -> int:
        """Of a contribution of that fragment, or of its first value."""
        values = self.merger.values(fragment)
        return values.nbytes if initial else self.merger.up.nbytes(values.size)

    def room(self, fragment: int, resume: Callable[[], None]) -> Room | None:
        """For a contribution's body; or None, and `resume` is called once when it is worth another try."""
        buffer = self.pool.take(resume)
        return None if buffer is None else Room(buffer, self.nbytes(fragment))

    def put(self, name: BodyName, room: Room) -> None:
        """The body of that name is complete."""
        self._held.setdefault(name, deque()).append(room)

    def give_back(self, room: Room) -> None:
        """The body will never be complete, or is not wanted."""
        if room.pooled:
            self.pool.give(room.buffer)

    def initial_room(self, fragment: int) -> Room:
        """For a first value: memory of its own, for it becomes the run's only when the core has taken it."""
        nbytes = self.nbytes(fragment, initial=True)
        return Room(np.empty(nbytes, np.uint8), nbytes, pooled=False)

    def edition(self, fragment: int, reader: Reader) -> Edition:
        """The newest version, to be sent to the reader, who gives it back with `returned`."""
        return self.shelf.take(fragment, reader)

    def returned(self, edition: Edition, reader: Reader) -> None:
        """The reader has been sent it, or is gone."""
        self.shelf.give(edition, reader)

    # ------------------------------------------------------------------ drive.syncer.Plane

    def provide(self, name: BodyName, then: Callable[[str], None]) -> None:
        room = self._held[name][-1]

        def looked_at(found: tuple[str, Body]) -> None:
            flaw, room.encoded = found
            then(flaw)

        self.worker.submit(self.merger.provide, name.fragment, room.memory, then=looked_at)

    def adopt(self, name: BodyName) -> None:
        room = self._next(name)
        assert room.encoded is not None
        self.shelf.put(Edition(name.fragment, 0, 0, room.encoded))
        self.worker.submit(self.merger.adopt, name.fragment, room.memory)

    def screen(self, name: BodyName, then: Callable[[str, tuple[float, ...]], None]) -> None:
        room = self._held[name][-1]

        def screened(found: Screened) -> None:
            room.screened = found
            then(found.flaw, found.norms)

        self.worker.submit(self.merger.screen, name.fragment, room.memory, then=screened)

    def add(self, merge: Merge) -> None:
        room = self._next(merge.name)
        self.worker.submit(self.merger.add, merge.fragment, merge.step, room.memory, room.screened,
                           merge.weight, then=lambda _: self.pool.give(room.buffer))  # fmt: skip

    def drop(self, name: BodyName) -> None:
        self.give_back(self._next(name))

    def _next(self, name: BodyName) -> Room:
        held = self._held[name]
        room = held.popleft()
        if not held:
            del self._held[name]
        return room

    def close(self, close: Close, then: Callable[[str], None]) -> None:
        if self._fence is not None:
            self._fence.append((close, then))
            return

        def made(found: Body | str) -> None:
            if isinstance(found, str):
                then(found)
            else:
                self._made[close.fragment] = found
                then("")

        self.worker.submit(self._close, close.fragment, close.step, then=made)

    def _close(self, fragment: int, step: int) -> Body | str:
        try:
            return self.merger.close(fragment, step)
        except FloatingPointError as error:
            return str(error)

    def keep(self, close: Close, position: int, then: Callable[[], None]) -> None:
        then()

    def publish(self, fragment: int, version: int, step: int) -> None:
        self.shelf.put(Edition(fragment, version, step, self._made.pop(fragment)))

    def cancel(self, fragment: int, step: int) -> None:
        self.worker.submit(self.merger.cancel, fragment, step)

    # ------------------------------------------------------------------ consistent cuts

    @property
    def fenced(self) -> bool:
        """Whether closes wait, for a cut is being made."""
        return self._fence is not None

    def cut(self, then: Callable[[], None]) -> None:
        """Call it at a moment when every version that was made is published, and no other is being made: what the core knows
        and what the merger holds are the same then. What `then` asks of the worker comes before whatever closes meanwhile."""

        def made(_: object) -> None:
            then()
            waiting, self._fence = self._fence or [], None
            for close, each in waiting:
                self.close(close, each)

        assert self._fence is None
        self._fence = []
        self.worker.submit(lambda: None, then=made)

    # ------------------------------------------------------------------ the beginning

    async def lay_out(self, versions: list[int], steps: list[int]) -> None:
        """What the merger holds is what is sent: the values of a snapshot, or of --init."""
        bodies = await self.worker.submit(self.merger.encode_all)
        for fragment, body in enumerate(bodies):
            self.shelf.put(Edition(fragment, versions[fragment], steps[fragment], body))


def _cut_off(reader: Reader) -> None:
    reader.close("it reads too slowly: it was being sent a value much older than the present one")
