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

from skerry.core.layout import Layout
from skerry.core.messages import BodyName, Close, Merge
from skerry.core.policy import Policy
from skerry.numerics.accumulate import Screened, weight_of
from skerry.numerics.merger import Body, Merger, Values
from skerry.syncer.pool import Pool
from skerry.syncer.shelf import Edition, Reader, Shelf
from skerry.syncer.worker import Worker


class Room:
    """Memory for one body."""

    __slots__ = ("buffer", "memory", "screened")

    def __init__(self, buffer: Body, nbytes: int) -> None:
        self.buffer = buffer  # the pool's
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

    # ------------------------------------------------------------------ for sessions

    def nbytes(self, fragment: int) -> int:
        """Of a contribution of that fragment."""
        return self.merger.up.nbytes(self.merger.values(fragment).size)

    def room(self, fragment: int, resume: Callable[[], None]) -> Room | None:
        """For a contribution's body; or None, and `resume` is called once when it is worth another try."""
        buffer = self.pool.take(resume)
        return None if buffer is None else Room(buffer, self.nbytes(fragment))

    def put(self, name: BodyName, room: Room) -> None:
        """The body of that name is complete."""
        self._held.setdefault(name, deque()).append(room)

    def give_back(self, room: Room) -> None:
        """The body will never be complete."""
        self.pool.give(room.buffer)

    def initial(self, fragment: int) -> memoryview:
        """Memory for a first value."""
        return self.merger.values(fragment).data.cast("B")

    def edition(self, fragment: int, reader: Reader) -> Edition:
        """The newest version, to be sent to the reader, who gives it back with `returned`."""
        return self.shelf.take(fragment, reader)

    def returned(self, edition: Edition, reader: Reader) -> None:
        """The reader has been sent it, or is gone."""
        self.shelf.give(edition, reader)

    # ------------------------------------------------------------------ drive.syncer.Plane

    def provide(self, fragment: int, then: Callable[[str], None]) -> None:
        def looked_at(found: tuple[str, Body]) -> None:
            flaw, body = found
            self.shelf.put(Edition(fragment, 0, 0, body))
            then(flaw)

        self.worker.submit(self.merger.provide, fragment, then=looked_at)

    def screen(self, name: BodyName, then: Callable[[str], None]) -> None:
        room = self._held[name][-1]

        def screened(found: Screened) -> None:
            room.screened = found
            then(found.flaw)

        self.worker.submit(self.merger.screen, name.fragment, room.memory, then=screened)

    def add(self, merge: Merge) -> None:
        room = self._next(merge.name)
        self.worker.submit(self.merger.add, merge.fragment, merge.step, room.memory, room.screened,
                           weight_of(merge.tokens, merge.steps), then=lambda _: self.pool.give(room.buffer))  # fmt: skip

    def drop(self, name: BodyName) -> None:
        self.pool.give(self._next(name).buffer)

    def _next(self, name: BodyName) -> Room:
        held = self._held[name]
        room = held.popleft()
        if not held:
            del self._held[name]
        return room

    def close(self, close: Close, then: Callable[[str], None]) -> None:
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

    def publish(self, fragment: int, version: int, step: int) -> None:
        self.shelf.put(Edition(fragment, version, step, self._made.pop(fragment)))

    def cancel(self, fragment: int, step: int) -> None:
        self.worker.submit(self.merger.cancel, fragment, step)

    # ------------------------------------------------------------------ the beginning

    async def lay_out(self, versions: list[int], steps: list[int]) -> None:
        """What the merger holds is what is sent: the values of a snapshot, or of --init."""
        bodies = await self.worker.submit(self.merger.encode_all)
        for fragment, body in enumerate(bodies):
            self.shelf.put(Edition(fragment, versions[fragment], steps[fragment], body))


def _cut_off(reader: Reader) -> None:
    reader.close("it reads too slowly: it was being sent a value much older than the present one")
