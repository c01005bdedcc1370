"""One link, as the syncer sees it: a learner's, with its place in the run; or an observer's.

Rules: nothing a peer sends reaches the core unless it could have come from an honest learner of this run: what makes no
sense (`_check`) ends the link, what is said under another name than the link's is old news, which the driver drops. A session
asks the plane for room and for values, says what came, and decides nothing.
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
    Received,
    Refused,
    Report,
    TakenOver,
    ToLearner,
    Verdict,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.drive.syncer import Line, SyncerDriver
from skerry.errors import ProtocolError
from skerry.fabric.link import Link
from skerry.fabric.messages import LayoutText, StatusRequest, Vitals
from skerry.syncer.plane import Room, ThreadPlane
from skerry.syncer.shelf import Edition

LONGEST_LAYOUT = 64 << 20  # bytes of text
LONGEST_LEAP = 1 << 20  # steps that a clock may be ahead of the run
LARGEST = 1 << 62  # of ids, generations and counters


class Door(Protocol):
    """What a session needs of the server."""

    policy: Policy

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
        elif isinstance(message, Join):
            if self._joined:
                raise ProtocolError("a second Join on one link")
            self._joined = True
            self._check_join(message)
            if link.identity.allows_learner(message.learner):
                self._server.join(self, message)
            else:
                self.tell(Refused(code="identity", reason=link.identity.only))
        elif self.run is None or not self.generation:
            return  # it has no place yet
        elif isinstance(message, Vitals):
            self._server.vitals_came(self, message)
        elif self.run.driver.is_own(self, message):
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
        self._check(run, message)
        plane, fragment, initial = run.plane, message.fragment, isinstance(message, ProvideInitial)
        expected = plane.nbytes(fragment, initial=initial)
        if nbytes != expected:
            raise ProtocolError(f"fragment {fragment} with a body of {nbytes} bytes instead of {expected}")
        if initial and not run.driver.awaits_initial(self):
            raise ProtocolError("a ProvideInitial that was not asked for")
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

    def _check_join(self, message: Join) -> None:
        """Raises ProtocolError for what no learner could say first."""
        fragments, core = self._server.policy.fragments, None if self.run is None else self.run.driver.core
        if not -1 <= message.learner < LARGEST or not 0 <= message.generation < LARGEST:
            raise ProtocolError("a learner or a generation that cannot be")
        if len(message.bases) not in (0, fragments) or len(message.settled) != len(message.bases):
            raise ProtocolError(f"a Join that tells of {len(message.bases)} fragments where there are {fragments}")
        _check_counts(0 if core is None else core.step, message.clock, message.count, *message.settled)

    def _check(self, run: Host, message: Any) -> None:
        """Raises ProtocolError for what no honest learner of this run could send."""
        fragment = getattr(message, "fragment", 0)
        core = run.driver.core
        if not 0 <= fragment < core.policy.fragments:
            raise ProtocolError(f"there is no fragment {fragment}")
        match message:
            case Report(count=count, clock=clock):
                _check_counts(core.step, clock, count)
            case TakenOver(count=count, settled=settled, clock=clock, version=version):
                _check_counts(core.step, clock, settled, count)
                _check_version(core.versions, fragment, version)
            case Contribution(since=since, until=until, base=base):
                _check_counts(core.step, 0, since, until)
                _check_version(core.versions, fragment, base)
                if until.tokens > since.tokens and until.steps <= since.steps:
                    raise ProtocolError("a Contribution of tokens without steps")
            case Leave(count=count):
                _check_counts(core.step, 0, count)
            case Abstain() | Received() | ProvideInitial():
                pass
            case _:
                raise ProtocolError(f"a {type(message).__name__} from a learner")


def _check_counts(step: int, clock: int, *counts: Count) -> None:
    if clock < 0 or any(min(count) < 0 or max(count) >= LARGEST for count in counts):
        raise ProtocolError("counters that cannot be")
    if clock > step + LONGEST_LEAP:
        raise ProtocolError(f"a clock of {clock} when the run is at step {step}")


def _check_version(versions: list[int], fragment: int, version: int) -> None:
    if not 0 <= version <= (versions[fragment] if versions else -1):
        raise ProtocolError(f"version {version} of fragment {fragment}, which does not exist")
