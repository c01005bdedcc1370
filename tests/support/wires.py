"""Links that misbehave: four queues each, out of which somebody takes what is to arrive.

A link has two connections, control and bulk, so what is sent over the one may arrive before what was sent earlier over the
other. Either end may go first: what was sent before still arrives at the other end, or is lost with the link.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, TypeAlias

from skerry.core.messages import Delivery, ToLearner, Verdict
from skerry.drive import around

if TYPE_CHECKING:
    from support.fleet import Fleet
    from support.learners import Learner

Queue: TypeAlias = deque[tuple[Any, Any]]  # messages, each with its body
CHANNELS = ("control", "bulk")


class Wire(around.Line):
    """One link of one learner. `slow`: a value that is sent leaves later."""

    def __init__(self, fleet: Fleet, peer: Learner) -> None:
        super().__init__()
        self.peer = peer
        self.up: dict[str, Queue] = {channel: deque() for channel in CHANNELS}
        self.down: dict[str, Queue] = {channel: deque() for channel in CHANNELS}
        self.outgoing: tuple[Any, Any] | None = None  # the value that is on its way out
        self.slow = False
        self.cut = False  # the learner's end is gone
        self.ended = False  # the syncer's is
        self.doomed = False  # something was lost on it: it will be found broken
        self._fleet = fleet

    @property
    def queues(self) -> list[Queue]:
        """All four."""
        return [*self.up.values(), *self.down.values()]

    @property
    def closed(self) -> bool:
        return self.ended

    def tell(self, message: ToLearner) -> None:
        if not self.ended:
            self.down["control"].append((message, None))
        if type(message) is Verdict and message.step < 0:
            self.close("the run cannot begin with this model")

    def send_value(self, delivery: Delivery) -> bool:
        assert self.outgoing is None, "two values at once on one link"
        holding = self._fleet.plane.held[delivery.fragment]
        assert (delivery.version, delivery.step) == (holding.version, holding.step), "not the newest version"
        assert delivery.merged == self._fleet.plane.merged(delivery.fragment, self.learner, self.generation)
        self.outgoing = delivery, holding.value
        if not self.slow:
            self.leaves()
        return not self.slow

    def leaves(self) -> None:
        """The value has left."""
        assert self.outgoing is not None
        self.down["bulk"].append(self.outgoing)
        self.outgoing = None

    def close(self, reason: str) -> None:
        """By the syncer. What it has not read yet is lost."""
        self.ended = True
        self.outgoing = None
        for queue in self.up.values():
            queue.clear()
