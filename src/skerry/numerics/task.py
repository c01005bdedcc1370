"""The Task protocol: what one training job is to whoever runs it (the reference loop, evaluation, the lab).

Rules: a task holds configuration and data, never a model or an optimizer; every method is a pure function of the task
and its arguments (only `set_rate` writes, to the optimizer it is given). So a learner that is killed goes on with the
batch it would have seen next, and a run under virtual time equals a real one.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import torch

Batch: TypeAlias = Any
"""Whatever `Task.batch` makes and `Task.loss` understands; nobody else looks inside."""


class Task(Protocol):
    """One training job: a model, how it learns and from what, and how good it has become."""

    def model(self, seed: int) -> torch.nn.Module:
        """A freshly initialised model in training mode; equal seeds give equal parameters. The caller's random state
        is left as it was."""
        ...

    def optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """A fresh inner optimizer over the model's trainable parameters."""
        ...

    def set_rate(self, optimizer: torch.optim.Optimizer, progress: float, since_start: int) -> None:
        """Set the learning rate for the next step. `progress`: share of the run's global budget done, 0 to 1.
        `since_start`: steps this optimizer has made (a fresh one, after a restart in mid-run, is warmed up again)."""
        ...

    def batch(self, learner: int, step: int) -> Batch:
        """The batch of that learner's step (counted over all its generations): a function of (task, learner, step)."""
        ...

    def loss(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, int]:
        """Mean loss over the batch (scalar, nats per token, differentiable) and how many tokens it was computed on."""
        ...

    def evaluate(self, model: torch.nn.Module) -> float:
        """Mean loss in nats per token (recipe: per byte) on the fixed held-out part. No gradients; the model's
        parameters and its training mode are left as they were."""
        ...
