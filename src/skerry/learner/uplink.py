"""The agent's link to its syncer: made, kept, made again; and what is said to the user about it.

Rules: a message that finds no link is dropped, since every Join bears the learner's whole state. Bodies wait in line for
the bulk connection; one that nobody wants any more when its turn comes is not sent. The run is the first one that let us
in: another run at the same address is refused, and a policy that differs in more than may be amended. A link that falls silent
ends by itself (fabric/pulse.py). After one that held for a while the first attempt comes at once.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Protocol

import msgspec

from skerry.core.messages import Delivery, Refused, Welcome
from skerry.core.policy import Policy
from skerry.errors import RefusedError, SkerryError, UnreachableError
from skerry.fabric.address import Addresses, backoff
from skerry.fabric.client import connect
from skerry.fabric.handshake import refused_error
from skerry.fabric.link import Link
from skerry.fabric.tokens import Token
from skerry.learner.config import LearnerConfig
from skerry.learner.notices import Notices

_STEADY = 10.0  # seconds: after a link that held so long the first attempt comes at once


class Owner(Protocol):
    """Whose link it is."""

    @property
    def over(self) -> bool:
        """No link is needed any more."""

    def linked(self, policy: str, run_id: str) -> None:
        """There is a link; nothing was said on it yet."""

    def unlinked(self) -> None:
        """There is none any more."""

    def event(self, message: Any) -> None:
        """The syncer speaks."""

    def buffer(self, message: Delivery, nbytes: int) -> memoryview | None:
        """As fabric.link.Handler.bulk_buffer."""

    def arrived(self, message: Delivery) -> None:
        """The body is complete."""

    def abandon(self, message: Delivery) -> None:
        """It never will be."""

    def wants(self, message: Any) -> bool:
        """Whether a body whose turn has come is to be sent still."""

    def unwelcome(self, error: SkerryError) -> None:
        """The syncer will not have us, or our configuration does not let us ask. Unless it is over now, we try on."""

    def meanwhile(self) -> str:
        """What the trainer does while there is no link."""


class Uplink:
    """At most one link at a time. Handler of fabric links."""

    def __init__(self, config: LearnerConfig, policy: str, run_id: str, owner: Owner, notices: Notices) -> None:
        self.heartbeat = 1.0  # seconds, as the syncer wants it
        self._config = config
        self._addresses = Addresses(config.syncer, fixed=config.fixed)
        self._policy, self._run_id = policy, run_id  # empty before the first link
        self._owner = owner
        self._notices = notices
        self._link: Link | None = None
        self._bodies: asyncio.Queue[tuple[Any, memoryview]] = asyncio.Queue()

    def __bool__(self) -> bool:
        return self._link is not None

    # ------------------------------------------------------------------ for its owner

    async def keep(self) -> None:
        """Connect, stay connected, connect again, until it is over."""
        waits = backoff(random.Random())
        while not self._owner.over:
            where = self._addresses.next()
            try:
                token = Token.read(self._config.token_file)
                link = await connect(where, token=token, handler=self, run=self._run_id, learner=self._config.learner,
                                     tls=self._config.tls)  # fmt: skip
            except SkerryError as error:
                if isinstance(error, UnreachableError) or where not in self._addresses.configured:  # hearsay may be wrong
                    self._notices.keep_saying("link", f"{error}; {self._owner.meanwhile()}", str(error))
                else:
                    self._owner.unwelcome(error)
            else:
                self._addresses.good(where, link.greeting.addresses)
                began = time.monotonic()
                await self._use(link)
                if time.monotonic() - began > _STEADY:
                    waits = backoff(random.Random())
                    continue
            await asyncio.sleep(next(waits))

    def send(self, message: Any) -> None:
        """Send, or drop if there is no link."""
        if self._link is not None:
            self._link.send(message)

    def send_body(self, message: Any, body: memoryview) -> None:
        """Send in turn, if it is still wanted by then; not at all if there is no link."""
        if self._link is not None:
            self._bodies.put_nowait((message, body))

    def resume(self) -> None:
        """There is memory for deliveries again. Not at once: this may be said inside the link's own call."""
        if self._link is not None:
            asyncio.get_running_loop().call_soon(self._link.resume_bulk)

    async def close(self, patience: float) -> None:
        """End the link after what was said has left."""
        if self._link is not None:
            self._link.close()
            try:
                await asyncio.wait_for(self._link.wait_closed(), patience)
            except TimeoutError:
                pass

    # ------------------------------------------------------------------ a link's life

    async def _use(self, link: Link) -> None:
        greeting = link.greeting
        changed = _changed(self._policy or greeting.policy, greeting.policy)
        if changed:
            link.close()
            self._owner.unwelcome(RefusedError(f"the syncer at {link.peer} was resumed with another policy: {changed}",
                                               code="layout", remedy="resume it with the policy that the run had"))  # fmt: skip
        else:
            self._policy, self._run_id, self.heartbeat = greeting.policy, greeting.run, greeting.heartbeat
            self._link, self._bodies = link, asyncio.Queue()
            self._owner.linked(greeting.policy, greeting.run)
        sending = asyncio.create_task(self._send_bodies(link))
        try:
            await link.wait_closed()
        finally:
            sending.cancel()

    async def _send_bodies(self, link: Link) -> None:
        bodies = self._bodies
        while True:
            message, body = await bodies.get()
            if self._owner.wants(message):
                try:
                    await link.send_bulk(message, body)
                except ConnectionError:
                    return

    # ------------------------------------------------------------------ fabric.link.Handler

    def on_message(self, link: Link, message: Any) -> None:
        if isinstance(message, Refused):
            self._owner.unwelcome(refused_error(message, f"the syncer at {link.peer}"))
            link.close()
            return
        if isinstance(message, Welcome):
            self._notices.name = f"learner {message.learner}"
            self._notices.over("link", f"connected with the syncer at {link.peer}")
        self._owner.event(message)

    def bulk_buffer(self, link: Link, message: Delivery, nbytes: int) -> memoryview | None:
        return self._owner.buffer(message, nbytes)

    def on_bulk(self, link: Link, message: Delivery, buffer: memoryview) -> None:
        self._owner.arrived(message)

    def on_bulk_lost(self, link: Link, message: Delivery, buffer: memoryview) -> None:
        self._owner.abandon(message)

    def on_closed(self, link: Link, reason: str) -> None:
        if link is self._link:
            self._link = None
            self._owner.unlinked()
            if not self._owner.over:
                text = f"the link with the syncer at {link.peer} has ended ({reason})"
                self._notices.keep_saying("link", f"{text}; {self._owner.meanwhile()}", text)


def _changed(before: str, after: str) -> str:
    """In what two policies (JSON) differ that may not change while a run lives."""
    old, new = (msgspec.json.decode(text, type=Policy) for text in (before, after))
    return ", ".join(f"{name} = {getattr(new, name)} instead of {getattr(old, name)}" for name in old.differences(new))
