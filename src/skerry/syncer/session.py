"""One link, as the syncer sees it: a learner's, with its place in the run and what waits to be delivered; or an observer's.

Rules: nothing a peer sends reaches the core unless it could have come from an honest learner of this run: what is said
under another name than the link's is old news and dropped, what makes no sense (`_check`) ends the link. Of a fragment at
most one delivery waits; what is sent is the newest version at that time. A session says what came and decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from skerry.core.layout import Layout
from skerry.core.messages import (
    Abstain,
    Contribution,
    Count,
    Delivery,
    Join,
    Leave,
    ProvideInitial,
    Received,
    Refused,
    Report,
    SyncerEvent,
    TakenOver,
    Welcome,
)
from skerry.core.syncer import SyncerCore
from skerry.errors import ProtocolError
from skerry.fabric.link import Link
from skerry.fabric.messages import LayoutText, StatusRequest, Vitals
from skerry.numerics.merger import Body, Merger
from skerry.syncer.pool import Pool
from skerry.syncer.shelf import Edition, Shelf

LONGEST_LAYOUT = 64 << 20  # bytes of text
LONGEST_LEAP = 1 << 20  # steps that a clock may be ahead of the run


class Door(Protocol):
    """What a session needs of the server."""

    def tell_status(self, link: Link) -> None:
        """Answer an observer."""

    def join(self, session: Session, message: Join) -> None:
        """A learner wants a place in the run."""

    def layout_came(self, session: Session, message: LayoutText, text: bytes) -> None:
        """A learner's layout is here."""

    def closed(self, session: Session, reason: str) -> None:
        """The link has ended."""


class Host(Protocol):
    """What a session needs of the run that it has a place in."""

    core: SyncerCore
    layout: Layout
    merger: Merger
    pool: Pool
    shelf: Shelf
    seeder: Session | None

    def feed(self, event: SyncerEvent, sender: Session | None = None) -> None:
        """A message for the core."""

    def vitals_came(self, session: Session, message: Vitals) -> None:
        """How the learner's processes fare."""

    def seed_came(self, session: Session, message: ProvideInitial) -> None:
        """A fragment of the first model lies in the merger's memory."""

    def contribution_came(self, session: Session, message: Contribution, buffer: Body, nbytes: int) -> None:
        """A contribution's body is complete."""

    def delivery(self, session: Session, edition: Edition) -> Delivery:
        """What goes with a value to that learner."""


class Session:
    """The handler of one link. `run`, `learner` and `generation` are known once it is welcomed."""

    def __init__(self, server: Door, link: Link) -> None:
        self.link = link
        self.run: Host | None = None
        self.learner = -1
        self.generation = 0
        self.left: str | None = None  # why, if it took its leave; "" = of its own accord
        self._server = server
        self._joined = False  # has said Join
        self._receiving: dict[tuple[int, int], Body] = {}  # by fragment and step: the pool's buffers that bodies come into
        self._waiting: dict[int, None] = {}  # fragments to be delivered, in order
        self._sending: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return f"learner {self.learner} ({self.link.peer})" if self.run else self.link.peer

    def welcome(self, run: Host, message: Welcome) -> None:
        """It has a place in the run."""
        self.run, self.learner, self.generation = run, message.learner, message.generation
        self.link.send(message)

    def refuse(self, message: Refused) -> None:
        """It gets no place."""
        self.link.send(message)
        self.link.close(f"refused: {message.reason}")

    # ------------------------------------------------------------------ what the link calls

    def on_message(self, link: Link, message: Any) -> None:
        if isinstance(message, StatusRequest):
            self._server.tell_status(link)
        elif isinstance(message, Join):
            if self._joined:
                raise ProtocolError("a second Join on one link")
            self._joined = True
            if link.identity.allows_learner(message.learner):
                self._server.join(self, message)
            else:
                self.refuse(Refused(code="identity", reason=link.identity.only))
        elif isinstance(message, Vitals):
            if self.run is not None:
                self.run.vitals_came(self, message)
        elif self.run is not None and self._speaks(message):
            self._check(self.run, message)
            if isinstance(message, Leave):
                self.left = message.reason
            self.run.feed(message, self)

    def bulk_buffer(self, link: Link, message: Any, nbytes: int) -> memoryview | None:
        if isinstance(message, LayoutText):
            if nbytes > LONGEST_LAYOUT:
                raise ProtocolError(f"a layout of {nbytes} bytes")
            return memoryview(bytearray(nbytes))
        run, seed = self.run, isinstance(message, ProvideInitial)
        if run is None:
            raise ProtocolError(f"a {type(message).__name__} before Welcome")
        self._check(run, message)
        values = run.merger.values(message.fragment)
        expected = values.nbytes if seed else run.merger.up.nbytes(values.size)
        if nbytes != expected:
            raise ProtocolError(f"fragment {message.fragment} with a body of {nbytes} bytes instead of {expected}")
        if seed:
            if run.core.versions or run.seeder is not self or not self._speaks(message):
                raise ProtocolError("a ProvideInitial that was not asked for")
            return memoryview(values).cast("B")
        if (message.fragment, message.step) in self._receiving:
            raise ProtocolError("a Contribution that is on its way already")
        body = run.pool.take(link.resume_bulk)
        if body is None:
            return None
        self._receiving[message.fragment, message.step] = body
        return memoryview(body)[:nbytes]

    def on_bulk(self, link: Link, message: Any, buffer: memoryview) -> None:
        if isinstance(message, LayoutText):
            self._server.layout_came(self, message, bytes(buffer))
            return
        assert self.run is not None
        if isinstance(message, ProvideInitial):
            self.run.seed_came(self, message)
        else:
            body = self._receiving.pop((message.fragment, message.step))
            self.run.contribution_came(self, message, body, buffer.nbytes)

    def on_bulk_lost(self, link: Link, message: Any, buffer: memoryview) -> None:
        if isinstance(message, Contribution):
            assert self.run is not None
            self.run.pool.give(self._receiving.pop((message.fragment, message.step)))

    def on_closed(self, link: Link, reason: str) -> None:
        self._server.closed(self, reason)

    # ------------------------------------------------------------------ deliveries

    def deliver(self, fragments: Iterable[int]) -> None:
        """Send the newest version of these fragments, soon."""
        if self.link.closed:
            return
        self._waiting |= dict.fromkeys(fragments)
        if self._sending is None and self._waiting:
            self._sending = asyncio.get_running_loop().create_task(self._send())

    async def _send(self) -> None:
        assert self.run is not None
        shelf = self.run.shelf
        try:
            while self._waiting:
                fragment = next(iter(self._waiting))
                del self._waiting[fragment]
                edition = shelf.take(fragment, self)
                try:
                    await self.link.send_bulk(self.run.delivery(self, edition), memoryview(edition.body))
                finally:
                    shelf.give(edition, self)
        except ConnectionError:
            self._waiting.clear()  # on_closed says why
        finally:
            self._sending = None

    # ------------------------------------------------------------------ what may be fed to the core

    def _speaks(self, message: Any) -> bool:
        return bool((message.learner, message.generation) == (self.learner, self.generation))

    def _check(self, run: Host, message: Any) -> None:
        """Raises ProtocolError for what no honest learner of this run could send."""
        fragment = getattr(message, "fragment", 0)
        if not 0 <= fragment < len(run.layout.fragments):
            raise ProtocolError(f"there is no fragment {fragment}")
        match message:
            case Report(count=count, clock=clock):
                _check_counts(run.core.step, clock, count)
            case TakenOver(count=count, settled=settled, clock=clock):
                _check_counts(run.core.step, clock, settled, count)
            case Contribution(since=since, until=until):
                _check_counts(run.core.step, 0, since, until)
                if until.tokens > since.tokens and until.steps <= since.steps:
                    raise ProtocolError("a Contribution of tokens without steps")
            case Leave(count=count):
                _check_counts(run.core.step, 0, count)
            case Abstain() | Received() | ProvideInitial():
                pass
            case _:
                raise ProtocolError(f"a {type(message).__name__} from a learner")


def _check_counts(step: int, clock: int, *counts: Count) -> None:
    if clock < 0 or any(min(count) < 0 for count in counts):
        raise ProtocolError("negative counters")
    if clock > step + LONGEST_LEAP:
        raise ProtocolError(f"a clock of {clock} when the run is at step {step}")
