"""Links of a world: they may be half-open, and tell the world what is told over them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from skerry.core.messages import Count, Delivery, Join, ToLearner
from support.wires import CHANNELS, Wire

if TYPE_CHECKING:
    from worlds.world import World


class Void(deque):  # type: ignore[type-arg]
    """What is sent there arrives nowhere."""

    def append(self, _: Any) -> None:
        """Gone."""


class WorldWire(Wire):
    """A link that may be half-open (nothing passes, and nobody is told), and that remembers what was told over it."""

    silent_since: float | None = None
    joined_as: Join | None = None
    world: World

    def __init__(self, world: World, peer: Any) -> None:
        super().__init__(world, peer)
        self.world = world

    @property
    def cut(self) -> bool:
        """The syncer never sees the end of a half-open link."""
        return self._cut and self.silent_since is None

    @cut.setter
    def cut(self, value: bool) -> None:
        self._cut = value

    def fall_silent(self) -> None:
        """From now on nothing passes."""
        self.silent_since = self.world.now
        self.up = {channel: Void() for channel in CHANNELS}
        self.down = {channel: Void() for channel in CHANNELS}

    def tell(self, message: ToLearner) -> None:
        self.world.tells(self, message)
        super().tell(message)
        self.world.effect()

    def send_value(self, delivery: Delivery) -> bool:
        held = self.world.plane.held[delivery.fragment]
        assert self.outgoing is None, "two values at once on one link"
        assert (delivery.version, delivery.step) == (held.version, held.step), "not the newest version"
        if self.learner not in self.world.strangers:
            assert delivery.merged == self.world.plane.merged(delivery.fragment, self.learner, self.generation)
        self.world.sends(delivery.fragment, held)
        self.outgoing = delivery, held.value
        if not self.slow:
            self.leaves()
        self.world.effect()
        return not self.slow


class Stranger:
    """A hostile peer: it has the token, and says what no honest learner would."""

    place = -1
    count = Count()
    wire: WorldWire | None = None
