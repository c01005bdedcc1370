"""A session, its driver and the plane, the link alone replaced: what is sent under which name, what becomes the run's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from skerry.core.layout import TensorSpec, build_layout
from skerry.core.messages import (
    Ask,
    Contribution,
    Count,
    Delivery,
    Join,
    ProvideInitial,
    Report,
    RequestInitial,
    Start,
    TakenOver,
)
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.drive.syncer import SyncerDriver
from skerry.syncer.meters import Meters
from skerry.syncer.plane import ThreadPlane
from skerry.syncer.session import Session
from skerry.syncer.worker import Worker

POLICY = Policy(fragments=2, interval=4, overlap=2, steps=1000, codec_up="fp32", grace=0.0)
LAYOUT = build_layout([TensorSpec(name=f"{i}.w", shape=(8,), direct=True) for i in range(2)], 2, "balanced", ())


class Link:
    """Writes down what is said and sent on it."""

    peer, closed = "here", False

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.sent: list[tuple[Delivery, np.ndarray]] = []

    def send(self, message: Any) -> None:
        self.said.append(message)

    async def send_bulk(self, message: Delivery, body: memoryview) -> None:
        self.sent.append((message, np.frombuffer(body, np.float32).copy()))

    def resume_bulk(self) -> None: ...

    def close(self, reason: str) -> None:
        self.closed = True


class Place:
    """Core, driver and plane of a run, and sessions that have joined it."""

    def __init__(self) -> None:
        self.faults: list[BaseException] = []
        self.worker = Worker(self.faults.append)
        self.core = SyncerCore(POLICY, LAYOUT)
        self.plane = ThreadPlane(POLICY, LAYOUT, self.worker, 4)
        clock = asyncio.get_running_loop().time
        self.driver = SyncerDriver(self.core, self.plane, clock=clock, timer=lambda due: None, log=None)
        self.policy, self.run, self.max_learners = POLICY, self, 100
        self.meters = Meters(1000.0, 1e8, clock)

    def told(self, session: Session, message: Any) -> None: ...

    def join(self, session: Session, message: Join) -> None:
        session.run = self  # type: ignore[assignment]
        self.driver.join(session, message)

    def enter(self, learner: int) -> tuple[Session, Any]:
        link: Any = Link()
        session = Session(self, link)  # type: ignore[arg-type]
        self.join(session, Join(learner=learner, layout=LAYOUT.hash))
        return session, link

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0)
        assert not self.faults


def played(play: Callable[[Place], Awaitable[None]]) -> None:
    async def whole() -> None:
        place = Place()
        try:
            await play(place)
        finally:
            place.worker.end()

    asyncio.run(whole())


def test_a_value_is_sent_under_its_own_versions_name_whatever_is_published_before_it_leaves() -> None:
    async def play(place: Place) -> None:
        for fragment in (0, 1):
            place.plane.merger.adopt(fragment, np.zeros(LAYOUT.sizes[fragment], np.float32))
        await place.plane.lay_out()
        place.driver.feed(Start())
        (one, link), _ = place.enter(0), place.enter(1)
        stand = {"learner": 0, "generation": 1, "settled": Count(), "count": Count(), "clock": 0, "version": 0}
        for fragment in (0, 1):
            place.driver.hear(one, TakenOver(fragment=fragment, **stand))
        place.driver.hear(one, Report(learner=0, generation=1, clock=4, count=Count(4, 40, 4)))
        ask = next(message for message in link.said if isinstance(message, Ask))
        await place.until(lambda: len(link.sent) == 2)
        message = Contribution(learner=0, generation=1, fragment=ask.fragment, step=ask.step, base=0, since=Count(),
                               until=Count(4, 40, 4))  # fmt: skip
        room = place.plane.room(ask.fragment, lambda: None)
        assert room is not None
        room.memory[:] = np.ones(LAYOUT.sizes[ask.fragment], np.float32).tobytes()
        place.plane.put(message.name, room)
        place.driver.contributed(one, message)
        await place.until(lambda: place.core.rounds.closing)
        while place.worker.queued:  # as soon as the version is published: the old one is asked for once more just before
            one.send_value(Delivery(fragment=ask.fragment, version=place.plane.shelf.present[ask.fragment].version,  # type: ignore[union-attr]
                                    step=0, merged=0, progress=0.0))  # fmt: skip
            await asyncio.sleep(0)
        await place.until(lambda: any(delivery.version == 1 for delivery, _ in link.sent))
        for delivery, body in link.sent:
            assert bool(body.any()) == (delivery.version == 1), "version 0 is all zeros, version 1 is not"

    played(play)


def test_a_first_value_that_is_whole_when_the_run_has_begun_changes_nothing() -> None:
    async def play(place: Place) -> None:
        session, link = place.enter(0)
        good, bad = np.ones(8, np.float32), np.full(8, np.nan, np.float32)

        def begin(fragment: int) -> tuple[ProvideInitial, memoryview]:
            message = ProvideInitial(learner=0, generation=1, fragment=fragment)
            memory = session.bulk_buffer(link, message, 32)
            assert memory is not None
            return message, memory

        def end(message: ProvideInitial, memory: memoryview, values: np.ndarray) -> None:
            memory[:] = values.tobytes()
            session.on_bulk(link, message, memory)

        end(*begin(0), good)
        await place.until(lambda: 0 in place.core.provided)
        session.tell(RequestInitial(learner=0))  # once more
        late = begin(0)
        end(*begin(1), good)
        await place.until(lambda: place.core.versions)
        end(*late, bad)
        await place.until(lambda: not place.worker.queued)
        await asyncio.sleep(0)
        assert np.array_equal(place.plane.merger.values(0), good)
        edition = place.plane.shelf.present[0]
        assert edition is not None and np.array_equal(edition.body.view(np.float32), good)

    played(play)
