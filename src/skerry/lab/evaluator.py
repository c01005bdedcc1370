"""The loss curve of a run: the model that is evaluated, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from skerry.errors import cannot_work
from skerry.lab.result import Point
from skerry.numerics.parameters import Parameters
from skerry.numerics.task import Task

Progress: TypeAlias = Callable[[float, int, float], None]
"""Hears the share done, the run's step and the virtual seconds."""


class Evaluator:
    """The global model as a module, and its loss at `points` moments spread evenly over the run, the end among them."""

    def __init__(self, task: Task, seed: int, points: int) -> None:
        if points < 1:
            raise cannot_work("evals", points, "give 1 (the end alone) or more")
        self.model = task.model(seed)
        self.parameters = Parameters(self.model)
        self.curve: list[Point] = []
        self._task, self._points = task, points

    def due(self, progress: float) -> bool:
        """Whether the next moment has come. The end's is the caller's."""
        return (len(self.curve) + 1) / self._points <= progress < 1.0

    def look(self, step: int, tokens: int, now: float) -> float:
        """Evaluate."""
        loss = self._task.evaluate(self.model)
        self.curve.append(Point(step, tokens, round(now, 6), loss))
        return loss
