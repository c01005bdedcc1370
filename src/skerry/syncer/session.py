"""One link, as the syncer sees it: a learner's, with its place in the run; or an observer's or operator's.

Rules: nothing a peer sends reaches the core unless it could have come from an honest learner of this run. What can be in no
run has ended the link already (fabric/ranges.py); here it is ended for what cannot be in this one: another learner's name, a
version that does not exist, more work than there was time for (meters.py). What is said of an earlier generation is old news,
which the driver drops. A session asks the plane for room and for values, says what came, and decides nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from skerry.core.messages import (
    Abstain,
    BodyName,
    Contribution,
    Count,
    Delivery,
    Join,
    Leave,
    ProvideInitial,
    Readmit,
    Received,
    Refused,
    Report,
    RequestInitial,
    TakenOver,
    ToLearner,
    Verdict,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.drive.around import Line
from skerry.drive.syncer import SyncerDriver
from skerry.errors import ProtocolError
from skerry.fabric.link import Link
from skerry.fabric.messages import Answer, LayoutText, StatusRequest, Vitals
from skerry.syncer.meters import Meters
from skerry.syncer.plane import Room, ThreadPlane
from skerry.syncer.shelf import Edition

LONGEST_LAYOUT = 64 << 20  # bytes of text
LONGEST_LEAP = 1 << 20  # steps that a clock may be ahead of the run; generations that a Join may be ahead of what is known


class Door(Protocol):
    """What a session needs of the server."""

    policy: Policy
    meters: Meters
    max_learners: int

    @property
    def run(self) -> Host | None:
        """Once the layout is known."""

    def tell_status(self, link: Link) -> None:
        """Answer an observer."""

    def join(self, session: Session, message: Join) -> None:
        """A learner wants a place in the run."""

    def layout_came(self, session: Session, message: LayoutText, text: bytes) -> None:
        """A learner's layout is here."""

    def vitals_came(self, session: Session, message: Vitals) -> None:
        """How the learner's processes fare."""

    def closed(self, session: Session, reason: str) -> None:
        """The link has ended."""


class Host(Protocol):
    """What a session needs of the run."""

    driver: SyncerDriver
    plane: ThreadPlane

    def told(self, session: Session, message: Welcome | Refused) -> None:
        """What became of a Join."""

    def closed(self, session: Session, reason: str) -> None:
        """The link has ended."""


class Session(Line):
    """The handler of one link. `run` is known once its Join is on its way to the core; it has a place in there from its Welcome
    on."""

    def __init__(self, server: Door, link: Link) -> None:
        super().__init__()
        self.link = link
        self.run: Host | None = None
        self.left: str | None = None  # why, if it took its leave; "" = of its own accord
        self._server = server
        self._joined = self._told_layout = False  # has said Join; has begun to send its layout
        self._wanted: set[int] = set()  # first values that are asked for over this link, and have not begun to come
        self._receiving: dict[BodyName, Room] = {}  # what bodies are being received into
        self._sending: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return f"learner {self.learner} ({self.link.peer})" if self.generation else self.link.peer

    # ------------------------------------------------------------------ drive.syncer.Line

    @property
    def closed(self) -> bool:
        return self.link.closed

    def tell(self, message: ToLearner) -> None:
        self.link.send(message)
        if isinstance(message, RequestInitial):
            self._wanted = set(range(self._server.policy.fragments))
        if isinstance(message, Welcome | Refused) and self.run is not None:
            self.run.told(self, message)
        if isinstance(message, Refused):
            self.link.close(f"refused: {message.reason}")
        elif isinstance(message, Verdict) and message.step < 0:
            self.link.close(f"the run cannot begin with this model: {message.reason}")

    def send_value(self, delivery: Delivery) -> bool:
        assert self.run is not None
        edition = self.run.plane.edition(delivery.fragment, self)  # at once: a newer one may take its place any time
        assert edition.version == delivery.version
        self._sending = asyncio.get_running_loop().create_task(self._send(self.run, delivery, edition))
        return False

    def close(self, reason: str) -> None:
        self.link.close(reason)

    async def _send(self, run: Host, delivery: Delivery, edition: Edition) -> None:
        try:
            await self.link.send_bulk(delivery, edition.body.data)
        except ConnectionError:
            return  # on_closed says why
        finally:
            run.plane.returned(edition, self)
        run.driver.sent(self)

    # ------------------------------------------------------------------ what the link calls

    def on_message(self, link: Link, message: Any) -> None:
        if isinstance(message, StatusRequest):
            self._server.tell_status(link)
        elif isinstance(message, Readmit):
            link.send(self._readmit(message))
        elif isinstance(message, Join):
            if self._joined:
                raise ProtocolError("a second Join on one link")
            self._joined = True
            self._join(message)
        elif self.run is None or not self.generation:
            return  # it has no place yet
        elif not self._is_present(message):
            return
        elif isinstance(message, Vitals):
            self._server.vitals_came(self, message)
        elif self.run.driver.speaks(self):
            self._check(self.run, message)
            if isinstance(message, Leave):
                self.left = message.reason
            self.run.driver.hear(self, message)

    def bulk_buffer(self, link: Link, message: Any, nbytes: int) -> memoryview | None:
        if isinstance(message, LayoutText):
            if nbytes > LONGEST_LAYOUT or self._told_layout:
                raise ProtocolError(f"a second layout, or one of {nbytes} bytes")
            self._told_layout = True
            return memoryview(bytearray(nbytes))
        run = self.run
        if run is None or not self.generation:
            raise ProtocolError(f"a {type(message).__name__} before Welcome")
        present = self._is_present(message) and run.driver.speaks(self)
        self._check(run, message, present)
        plane, fragment, initial = run.plane, message.fragment, isinstance(message, ProvideInitial)
        expected = plane.nbytes(fragment, initial=initial)
        if nbytes != expected:
            raise ProtocolError(f"fragment {fragment} with a body of {nbytes} bytes instead of {expected}")
        if initial and present:  # one that is not needed any more is no fault of its sender's
            if fragment not in self._wanted:
                raise ProtocolError("a ProvideInitial that was not asked for")
            self._wanted.discard(fragment)
        if message.name in self._receiving:
            raise ProtocolError(f"a {type(message).__name__} that is on its way already")
        room = plane.initial_room(fragment) if initial else plane.room(fragment, link.resume_bulk)
        if room is None:
            return None
        self._receiving[message.name] = room
        return room.memory

    def on_bulk(self, link: Link, message: Any, buffer: memoryview) -> None:
        if isinstance(message, LayoutText):
            self._server.layout_came(self, message, bytes(buffer))
            return
        assert self.run is not None
        driver, room = self.run.driver, self._receiving.pop(message.name)
        if not driver.is_own(self, message):
            self.run.plane.give_back(room)
            return
        self.run.plane.put(message.name, room)
        if isinstance(message, ProvideInitial):
            driver.provided(self, message)
        else:
            driver.contributed(self, message)

    def on_bulk_lost(self, link: Link, message: Any, buffer: memoryview) -> None:
        if isinstance(message, Contribution | ProvideInitial):
            assert self.run is not None
            self.run.plane.give_back(self._receiving.pop(message.name))

    def on_closed(self, link: Link, reason: str) -> None:
        self._server.closed(self, reason)

    # ------------------------------------------------------------------ what may be fed to the core

    def _join(self, message: Join) -> None:
        """Let it ask for a place, if it may. Raises ProtocolError."""
        server = self._server
        core = None if server.run is None else server.run.driver.core
        self._check_join(core, message)
        if not self.link.identity.allows_learner(message.learner):
            self.tell(Refused(code="identity", reason=self.link.identity.only))
        elif core is not None and core.members.get(message.learner) is None and len(core.members) >= server.max_learners:
            self.tell(Refused(code="full", reason=f"the run has had {server.max_learners:,} learners, which is its limit"))
        else:
            server.join(self, message)

    def _check_join(self, core: SyncerCore | None, message: Join) -> None:
        """Raises ProtocolError for what no learner of this run could say first."""
        fragments = self._server.policy.fragments
        if (len(message.bases) not in (0, fragments) or len(message.settled) != len(message.bases)
                or len(message.holds) not in (0, fragments)):  # fmt: skip
            raise ProtocolError(f"a Join that tells of {len(message.bases)} fragments where there are {fragments}")
        member = None if core is None else core.members.get(message.learner)
        if message.generation > (0 if member is None else member.generation) + LONGEST_LEAP:
            raise ProtocolError(f"a Join of generation {message.generation:,}")
        _check_clock(0 if core is None else core.step, message.clock)
        if core is not None and message.epoch == core.epoch:  # of an earlier start it may know more than was saved
            for fragment, versions in enumerate(zip(message.bases, message.holds or message.bases, strict=False)):
                _check_version(core.versions, fragment, max(versions))
        if core is not None and member is not None and member.generation == message.generation:
            self._server.meters.charge(member, core.step, message.clock, message.count, *message.settled)

    def _readmit(self, message: Readmit) -> Answer:
        """What an operator asked for, done if there is anything to do."""
        run, learner = self._server.run, message.learner
        member = None if run is None else run.driver.core.members.get(learner)
        if run is None or member is None:
            return Answer(done=False, text=f"there is no learner {learner} in this run")
        if not member.quarantined:
            return Answer(done=False, text=f"learner {learner} is not in quarantine")
        run.driver.feed(message)
        return Answer(done=True, text=f"learner {learner} is let in again")

    def _is_present(self, message: Any) -> bool:
        """Whether the link's learner says it as who it is now, rather than as who it was. Raises ProtocolError: neither."""
        if message.learner != self.learner or message.generation > self.generation:
            raise ProtocolError(f"a {type(message).__name__} of learner {message.learner}, generation {message.generation}, "
                                f"from learner {self.learner}, generation {self.generation}")  # fmt: skip
        return bool(message.generation == self.generation)

    def _check(self, run: Host, message: Any, present: bool = True) -> None:
        """Raises ProtocolError for what no honest learner of this run could send."""
        fragment = getattr(message, "fragment", 0)
        core = run.driver.core
        if fragment >= core.policy.fragments:
            raise ProtocolError(f"there is no fragment {fragment}")
        match message:
            case Report(count=count, clock=clock):
                self._check_work(core, clock, count)
            case TakenOver(count=count, settled=settled, clock=clock, version=version):
                _check_version(core.versions, fragment, version)
                self._check_work(core, clock, settled, count)
            case Contribution(since=since, until=until, base=base):
                if until.tokens > since.tokens and until.steps <= since.steps:
                    raise ProtocolError("a Contribution of tokens without steps")
                if present:  # by its past nothing is counted
                    _check_version(core.versions, fragment, base)
                    self._check_work(core, 0, since, until)
            case Leave(count=count):
                self._check_work(core, 0, count)
            case Abstain() | Received() | ProvideInitial():
                pass
            case _:
                raise ProtocolError(f"a {type(message).__name__} from a learner")

    def _check_work(self, core: SyncerCore, clock: int, *counts: Count) -> None:
        _check_clock(core.step, clock)
        self._server.meters.charge(core.members.by_id[self.learner], core.step, clock, *counts)


def _check_clock(step: int, clock: int) -> None:
    if clock > step + LONGEST_LEAP:
        raise ProtocolError(f"a clock of {clock} when the run is at step {step}")


def _check_version(versions: list[int], fragment: int, version: int) -> None:
    if version > (versions[fragment] if versions else -1):
        raise ProtocolError(f"version {version} of fragment {fragment}, which does not exist")
