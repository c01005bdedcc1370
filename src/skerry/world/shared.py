"""What an island's training process shares with its agents in virtual time, and the tensors it is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from skerry.core.memory import LearnerMemory
from skerry.core.messages import Contribution, Count, FromLearner, ProvideInitial, TakeOverRule
from skerry.core.orders import TakeOver
from skerry.core.policy import Policy
from skerry.drive.learner import Redo
from skerry.world.plane import Body


class Trainer(Protocol):
    """A learner's tensors; one of these lives as long as its training process."""

    def step(self, step: int, progress: float, since_start: int) -> int:
        """Make the learner's step with that number (over all its lives); gives its tokens."""

    def copy_out(self, fragment: int) -> Body:
        """The parameters as they stand, in fp32; must not change later."""

    def hand_over(self, fragment: int, copy: Body) -> Body:
        """base - copy, in the upward codec."""

    def take_over(self, fragment: int, rule: TakeOverRule, body: Body, copy: Body) -> None:
        """Take a delivered body over by that rule; it becomes the base. `copy`: what was handed over, for rebase."""


class Shared:
    """What a training process shares with its agents, one after the other: drive.learner.Holdings of bodies."""

    __slots__ = ("_keeps_copies", "_redos", "earlier", "marks", "memory", "progress", "trainer")

    def __init__(self, trainer: Trainer, policy: Policy, learner: int) -> None:
        self.trainer = trainer
        self.memory = LearnerMemory.empty(policy.fragments, learner)
        self.progress = 0.0
        self.earlier = 0  # steps of the learner's earlier lives
        # By fragment: when the trainer carried out the order that was prepared last
        self.marks: list[Count | None] = [None] * policy.fragments
        self._keeps_copies = policy.on_included == "rebase"
        self._redos: Mapping[int, Redo] = {}

    def encode(self, fragment: int, copy: Body) -> tuple[Body, Body]:
        """By the trainer's tensors, whose base it is."""
        return self.trainer.hand_over(fragment, copy), copy if self._keeps_copies else None

    def initial(self, fragment: int, copy: Body) -> Body:
        """The copy itself."""
        return copy

    def free_copy(self, copy: Body) -> None:
        """There is room enough."""

    def prepare(self, order: TakeOver, value: Body, kept: Body) -> tuple[Body, Body]:
        """The tensors do the arithmetic when the order is carried out."""
        self.marks[order.fragment] = None
        return value, kept

    def follow(self, fragment: int, value: Body) -> None:
        """It is the base since it was taken over."""

    def free(self, value: Body) -> None:
        """There is room enough."""

    def commit(self, memory: LearnerMemory, redos: Mapping[int, Redo]) -> None:
        """Nothing is lost with an agent but its driver."""
        self._redos = redos

    def show(self, progress: float, falls: bool) -> None:
        """Never less than before, but at a Welcome."""
        if progress > self.progress or falls:
            self.progress = progress

    def redos(self) -> Iterable[Redo]:
        """The last driver's."""
        return self._redos.values()

    def applied(self, redo: Redo) -> Count | None:
        """The trainer's mark."""
        return self.marks[redo.order.fragment]

    def introduce(self, learner: int, generation: int, first_step: int) -> None:
        """Where its batches begin."""
        self.earlier = first_step


@dataclass(slots=True)
class Uplink:
    """An agent's line, as its driver sees it."""

    send: Callable[[FromLearner], None]
    send_body: Callable[[Contribution | ProvideInitial, Body], None]
