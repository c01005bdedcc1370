"""The plane: a version exists when it is kept, and a cut is the run of one moment."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from skerry.core.messages import BodyName, Close, Merge
from skerry.core.policy import Policy
from skerry.errors import StorageError
from skerry.numerics.slots import Slots
from skerry.store.values import Values
from skerry.syncer.plane import ThreadPlane
from skerry.syncer.worker import Worker
from support.puppet import small_layout

POLICY = Policy(fragments=2, interval=4, merge="direct", codec_up="fp32", outer_lr=1.0, outer_momentum=0.0)
LAYOUT = small_layout(POLICY)


class Place:
    """A plane whose values are all zeros at version 0, and its threads."""

    def __init__(self, slots: Slots | None = None, *, patient: bool = False) -> None:
        self.faults: list[BaseException] = []
        self.worker = Worker(self.faults.append)
        self.patient = Worker(self.faults.append) if patient else None
        self.plane = ThreadPlane(POLICY, LAYOUT, self.worker, 4, slots, self.patient)
        for fragment, size in enumerate(LAYOUT.sizes):
            self.plane.merger.adopt(fragment, np.zeros(size, np.float32))

    def asked(self, fragment: int, version: int, by: float = -1.0) -> tuple[Close, asyncio.Future[str]]:
        """A round of one contribution, which moves every value by so much, is asked to close."""
        name = BodyName(0, 1, fragment, version)
        room = self.plane.room(fragment, lambda: None)
        assert room is not None
        room.memory[:] = np.full(LAYOUT.sizes[fragment], -by, np.float32).tobytes()
        self.plane.put(name, room)
        self.plane.screen(name, lambda flaw, norms: None)
        close = Close(fragment=fragment, step=version, version=version, included=())
        made = asyncio.get_running_loop().create_future()

        def add() -> None:
            self.plane.add(Merge(learner=0, generation=1, fragment=fragment, step=version, tokens=8, steps=1,
                                 weight=64.0))  # fmt: skip
            self.plane.close(close, made.set_result)

        self.worker.submit(lambda: None, then=lambda _: add())  # it is screened by then
        return close, made

    async def kept(self, close: Close) -> None:
        done = asyncio.get_running_loop().create_future()
        self.plane.keep(close, 7, lambda: done.set_result(None))
        await done
        self.plane.publish(close.fragment, close.version, close.step)

    def value(self, fragment: int) -> float:
        (value,) = set(self.plane.merger.values(fragment).tolist())
        return value


def played(play: Callable[[Place], Awaitable[None]], *args: Any, **more: Any) -> None:
    async def whole() -> None:
        place = Place(*args, **more)
        try:
            async with asyncio.timeout(60):
                await place.plane.lay_out()
                await play(place)
            assert not place.faults
        finally:
            for worker in filter(None, (place.worker, place.patient)):
                worker.end()

    asyncio.run(whole())


def test_a_version_exists_when_it_is_kept_and_is_sent_when_it_is_published() -> None:
    async def play(place: Place) -> None:
        close, made = place.asked(1, 1)
        assert await made == "" and place.value(1) == 0.0
        await place.kept(close)
        edition = place.plane.shelf.present[1]
        assert place.value(1) == -1.0 and edition is not None and (edition.body.view(np.float32) == -1.0).all()
        assert place.plane.merger.slots.headers[1] == (1, 1, 7, place.plane.merger.slots.headers[1].checksum)  # type: ignore[union-attr]

    played(play)


def test_what_is_captured_stays_for_the_job_that_reads_it_whatever_is_computed_and_kept_meanwhile() -> None:
    async def play(place: Place) -> None:
        close, made = place.asked(0, 1)
        await made
        slots, read, gate = place.plane.merger.slots, asyncio.get_running_loop().create_future(), threading.Event()
        found: list[float] = []

        thetas = slots.thetas()

        def write() -> None:
            gate.wait(60)
            found.extend(float(theta[0]) for theta in thetas)

        place.worker.submit(write, then=read.set_result)
        await place.kept(close)  # before the worker has come to reading
        later, made_later = place.asked(0, 2)  # and writes the slot that is read, after it
        gate.set()
        await read
        assert found == [0.0, 0.0]
        assert await made_later == ""
        await place.kept(later)
        assert place.value(0) == -2.0

    played(play)


def test_where_a_version_must_outlive_the_machine_the_worker_goes_on_meanwhile(tmp_path: Path) -> None:
    values = Values.create(tmp_path / "values", LAYOUT, "r1")
    waits, go = threading.Event(), threading.Event()
    real = values.durable

    def durable(*args: Any) -> None:
        waits.set()
        assert go.wait(60)
        real(*args)

    values.durable = durable  # type: ignore[method-assign]

    async def play(place: Place) -> None:
        close, made = place.asked(0, 1)
        await made
        keeping = asyncio.create_task(place.kept(close))
        await asyncio.to_thread(waits.wait, 60)
        assert place.value(0) == 0.0 and not keeping.done()
        another, other = place.asked(1, 1)
        assert await other == ""
        keeping_other = asyncio.create_task(place.kept(another))  # with the next wait for the disk
        go.set()
        await keeping
        assert place.value(0) == -1.0
        await keeping_other
        assert [header and header.version for header in Values.open(values.path, LAYOUT, "r1").headers] == [1, 1]

    played(play, values, patient=True)


def test_a_disk_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    values = Values.create(tmp_path / "values", LAYOUT, "r1")

    async def whole() -> None:
        place = Place(values, patient=True)
        assert place.patient is not None
        try:
            close, made = place.asked(0, 1)
            await made

            def fails(*_: Any) -> None:
                raise StorageError("cannot write values", remedy="look after the disk")

            values.durable = fails  # type: ignore[method-assign]
            place.plane.keep(close, 1, lambda: place.faults.append(AssertionError("it was kept")))
            while not place.faults:
                await asyncio.sleep(0)
            assert [type(fault) for fault in place.faults] == [StorageError]
        finally:
            place.worker.end(), place.patient.end()

    asyncio.run(whole())


def test_a_version_that_was_kept_by_a_syncer_that_died_is_sent_as_it_was_laid_out() -> None:
    async def play(place: Place) -> None:
        close, made = place.asked(0, 1)
        assert await made == ""
        place.plane.merger.slots.flip(0, version=1, step=1, position=7, checksum=place.plane._made.pop((0, 1)).checksum)
        await place.plane.lay_out()  # at its restart
        place.plane.publish(0, close.version, close.step)
        present = place.plane.shelf.present[0]
        assert present is not None and present.version == 1 and place.value(0) == -1.0

    played(play)
