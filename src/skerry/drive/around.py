"""What a SyncerDriver has around it: its lines to learners, the plane for what is done to bodies, the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from skerry.core.messages import BodyName, Close, Delivery, Merge, SyncerAction, SyncerEvent, ToLearner


class Line:
    """One link of one peer, as the driver sees it; whoever has links makes a class of it."""

    __slots__ = ("generation", "learner", "sending", "waiting")

    def __init__(self) -> None:
        self.learner = -1  # these two from the Welcome on
        self.generation = 0
        self.waiting: dict[int, None] = {}  # fragments to be delivered, in order
        self.sending = False  # a value is on its way out

    @property
    def closed(self) -> bool:
        """Whether nothing more leaves on it."""
        raise NotImplementedError

    def tell(self, message: ToLearner) -> None:
        """Send a message without a body."""
        raise NotImplementedError

    def send_value(self, delivery: Delivery) -> bool:
        """Send the plane's newest value of the fragment. Whether it has left already; if not, `sent` is called when it has."""
        raise NotImplementedError

    def close(self, reason: str) -> None:
        """End the link; `lost` is called when it has ended."""
        raise NotImplementedError


class Plane(Protocol):
    """What is done to bodies. A contribution's lies with the plane, under its name, when the driver hears of it; the plane does
    one thing after the other, in the order in which it was asked."""

    def provide(self, name: BodyName, then: Callable[[str], None]) -> None:
        """Look at a first value; `then` hears what is wrong with it, or ""."""

    def adopt(self, name: BodyName, then: Callable[[], None]) -> None:
        """It is the run's: version 0 of its fragment. `then` hears when that is so, whatever dies."""

    def screen(self, name: BodyName, then: Callable[[str, tuple[float, ...]], None]) -> None:
        """Look at a contribution; `then` hears what is wrong with it, or "", and the norm of each piece of the fragment (none
        where there are no tensors)."""

    def add(self, merge: Merge) -> None:
        """Accumulate the body of that name into its round; its memory is free then."""

    def drop(self, name: BodyName) -> None:
        """The body of that name is not needed."""

    def close(self, close: Close, then: Callable[[str], None]) -> None:
        """Make the version's value, beside the one before it; `then` hears "" when it is there, or why there is none."""

    def keep(self, close: Close, position: int, then: Callable[[], None]) -> None:
        """The version is the fragment's from now on, whatever dies; `then` hears when that is so. `position`: in the log, of
        the event on which the round was closed; that is committed."""

    def publish(self, fragment: int, version: int, step: int) -> None:
        """The value that was made last is what is sent from now on."""

    def cancel(self, fragment: int, step: int) -> None:
        """Forget a round; there may have been nothing in it."""


class Log(Protocol):
    """Who hears of everything, in order, and makes it last. When `committed` has grown, `SyncerDriver.committed` is called."""

    @property
    def committed(self) -> int:
        """Up to which position nothing will be forgotten."""

    def heard(self, now: float, event: SyncerEvent) -> int:
        """The core is about to hear this: its position, a number higher than any before it."""

    def decided(self, now: float, action: SyncerAction) -> None:
        """The core decided this, on the event heard last."""
