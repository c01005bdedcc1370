"""What is done to bodies in the syncer's process: room for those that come, the merger's thread, the values that are sent.

    room -> put -> screen -> add, or drop          close -> keep -> publish -> edition, returned

Rules: a body is received straight into a buffer of the pool and known by its name from `put` on; the same name may come twice,
over two links of one learner, and the copies are seen to in the order in which they came. Arithmetic is the worker's,
one job after the other in the order of asking. Everything else happens on the event loop's thread: which slot of a fragment is
the present one, too, so what is read of the present slots by a job that was submitted at one moment is the run of that moment.
Nobody else touches the tensors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from skerry.core.layout import Layout
from skerry.core.messages import BodyName, Close, Merge
from skerry.core.policy import Policy
from skerry.numerics.accumulate import Screened
from skerry.numerics.merger import Body, Made, Merger
from skerry.numerics.slots import Slots, Stands
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
    """One thread's work. `slots`: the run's values; none: in memory only. `patient`: the thread that waits for the disk, where
    a version must outlive the machine before it exists; none: it exists at once, and outlives the process."""

    def __init__(self, policy: Policy, layout: Layout, worker: Worker, buffers: int, slots: Slots | None = None,
                 patient: Worker | None = None) -> None:  # fmt: skip
        self.merger = Merger(policy, layout, slots)
        self.pool = Pool(buffers, self.merger.up.nbytes(max(layout.sizes)))
        self.worker = worker
        self.shelf = Shelf(policy.fragments, self.merger.reuse, _cut_off)
        self._held: dict[BodyName, deque[Room]] = {}
        self._patient = patient
        self._keeping: dict[int, tuple[Stands, Callable[[], None]]] = {}  # what waits for the disk's next turn
        self._made: dict[tuple[int, int], Made] = {}  # computed, not yet published, by fragment and version

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

    def adopt(self, name: BodyName, then: Callable[[], None]) -> None:
        room, before = self._next(name), self.merger.slots.headers[name.fragment]
        encoded = room.encoded
        assert encoded is not None

        def laid(checksum: int) -> None:
            asked = before.position + 1 if before else 0  # of two first values the later one counts
            self._settle(name.fragment, Stands(0, 0, asked, checksum), kept)

        def kept() -> None:
            self.shelf.put(Edition(name.fragment, 0, 0, encoded))
            then()

        self.worker.submit(self.merger.lay, name.fragment, room.memory, then=laid)

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
        def made(found: Made | str) -> None:
            if isinstance(found, str):
                then(found)
            else:
                self._made[close.fragment, close.version] = found
                then("")

        self.worker.submit(self._close, close.fragment, close.step, then=made)

    def _close(self, fragment: int, step: int) -> Made | str:
        try:
            return self.merger.close(fragment, step)
        except FloatingPointError as error:
            return str(error)

    def keep(self, close: Close, position: int, then: Callable[[], None]) -> None:
        checksum = self._made[close.fragment, close.version].checksum
        self._settle(close.fragment, Stands(close.version, close.step, position, checksum), then)

    def _settle(self, fragment: int, stands: Stands, then: Callable[[], None]) -> None:
        """What lies in the spare slot is the fragment's value from now on."""
        if self._patient is None:
            self.merger.slots.flip(fragment, **stands._asdict())
            then()
        else:
            self._keeping[fragment] = stands, then
            self.keep_waiting()

    def keep_waiting(self) -> None:
        """What has come while the disk was waited for is kept together."""
        patient = self._patient
        if not self._keeping or patient is None or patient.queued:
            return
        group, self._keeping = self._keeping, {}

        def kept(_: object) -> None:
            for fragment, (stands, then) in group.items():
                self.merger.slots.turn(fragment, stands)
                then()
            self.keep_waiting()

        entries = {fragment: stands for fragment, (stands, _) in group.items()}
        patient.submit(self.merger.slots.durable, entries, then=kept)

    def publish(self, fragment: int, version: int, step: int) -> None:
        made = self._made.pop((fragment, version), None)
        if made is not None:
            self.shelf.put(Edition(fragment, version, step, made.body))
        else:  # the syncer died between keeping it and hearing of it, and it was laid out at the restart
            present = self.shelf.present[fragment]
            assert present is not None and present.version == version

    def cancel(self, fragment: int, step: int) -> None:
        self.worker.submit(self.merger.cancel, fragment, step)

    # ------------------------------------------------------------------ the beginning

    async def lay_out(self) -> None:
        """What the merger holds is what is sent: the values of a former start, or of --init."""
        bodies = await self.worker.submit(self.merger.encode_all)
        for fragment, (body, stands) in enumerate(zip(bodies, self.merger.slots.headers, strict=True)):
            if stands is not None:
                self.shelf.put(Edition(fragment, stands.version, stands.step, body))


def _cut_off(reader: Reader) -> None:
    reader.close("it reads too slowly: it was being sent a value much older than the present one")
