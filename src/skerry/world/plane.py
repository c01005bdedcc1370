"""What becomes of bodies in virtual time: the drivers' Plane over a model, if there is one.

Rules: arithmetic takes no virtual time, but that a version exists `merge_s` after its round's close. Bodies are kept by name
until they are added or dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from skerry.core.messages import BodyName, Close, Merge
from skerry.world.queue import Queue

Body: TypeAlias = Any
"""A fragment's values on their way, whatever the Model and the Trainer make of them; None where there are no tensors."""


class Model(Protocol):
    """The global model's tensors. Bodies are as the policy's codecs write them; an initial one's is in fp32."""

    def provide(self, fragment: int, body: Body) -> str:
        """Look at a first value; gives what is wrong with it, or ""."""

    def adopt(self, fragment: int, body: Body) -> None:
        """It is version 0."""

    def screen(self, fragment: int, body: Body) -> tuple[str, tuple[float, ...], Any]:
        """What is wrong with a contribution, or ""; its pieces' norms, if there are any; and what `add` will want to know."""

    def add(self, merge: Merge, body: Body, screened: Any) -> None:
        """Accumulate a contribution, with what `screen` gave."""

    def close(self, fragment: int, step: int, version: int) -> str:
        """Make the new version; gives why there is none, or ""."""

    def publish(self, fragment: int) -> None:
        """The value that was made last is what `body` gives from now on."""

    def cancel(self, fragment: int, step: int) -> None:
        """Forget a round."""

    def body(self, fragment: int) -> Body:
        """The present version; it must not change later."""


class VirtualPlane:
    """A model, and the bodies that have come for it. `watch` is called after every close."""

    def __init__(self, model: Model, queue: Queue, merge_s: float, watch: Callable[[], None]) -> None:
        self.model = model
        self._queue = queue
        self._watch = watch
        self._merge_s = merge_s
        self._come: dict[BodyName, Body] = {}
        self._screened: dict[BodyName, tuple[Body, Any]] = {}

    def put(self, name: BodyName, body: Body) -> None:
        """A body has come."""
        self._come[name] = body

    # ------------------------------------------------------------------ drive.syncer.Plane

    def provide(self, name: BodyName, then: Callable[[str], None]) -> None:
        then(self.model.provide(name.fragment, self._come[name]))

    def adopt(self, name: BodyName) -> None:
        self.model.adopt(name.fragment, self._come.pop(name))

    def screen(self, name: BodyName, then: Callable[[str, tuple[float, ...]], None]) -> None:
        body = self._come.pop(name)
        flaw, norms, seen = self.model.screen(name.fragment, body)
        self._screened[name] = body, seen
        then(flaw, norms)

    def add(self, merge: Merge) -> None:
        self.model.add(merge, *self._screened.pop(merge.name))

    def drop(self, name: BodyName) -> None:
        if self._screened.pop(name, None) is None:  # a first value
            del self._come[name]

    def close(self, close: Close, then: Callable[[str], None]) -> None:
        failure = self.model.close(close.fragment, close.step, close.version)
        self._watch()
        if self._merge_s:
            self._queue.after(self._merge_s, then, failure)
        else:
            then(failure)

    def keep(self, close: Close, position: int, then: Callable[[], None]) -> None:
        then()

    def publish(self, fragment: int, version: int, step: int) -> None:
        self.model.publish(fragment)

    def cancel(self, fragment: int, step: int) -> None:
        self.model.cancel(fragment, step)
