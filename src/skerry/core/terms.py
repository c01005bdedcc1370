"""What messages are made of: the decorator that makes one, names of bodies, counters, the words of verdicts and causes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def message(cls: type[T]) -> type[T]:
    """A frozen dataclass to whoever checks types; at run time its being frozen would cost a tenth of a simulation."""
    return dataclass(slots=True, kw_only=True, unsafe_hash=True)(cls)


Outcome = Literal["merged", "late", "stale", "refused"]
TakeOverRule = Literal["overwrite", "rebase", "blend", "carry"]
LostCause = Literal["overlap", "excluded", "refused", "died"]
CAUSES: tuple[LostCause, ...] = ("overlap", "excluded", "refused", "died")


INITIAL = -1
"""The step of what has to do with the run's first values."""


class BodyName(NamedTuple):
    """A contribution's body on its way up, wherever it lies. The same name means the same bytes, however often it was sent."""

    learner: int
    generation: int
    fragment: int
    step: int


class Contributor(NamedTuple):
    """Who is in a version, and how much of its work: its contributions up to `tokens` of its generation's."""

    learner: int
    generation: int
    tokens: int


class Count(NamedTuple):
    """A learner's cumulative counters at one step boundary, since its generation began."""

    steps: int = 0
    tokens: int = 0
    busy_us: int = 0  # microseconds spent in those steps, the process being neither frozen nor waiting for others

    def minus(self, other: Count) -> Count:
        """What was done since `other`."""
        if other == (0, 0, 0):
            return self
        return Count(self.steps - other.steps, self.tokens - other.tokens, self.busy_us - other.busy_us)
