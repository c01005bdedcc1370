"""The public face of a learner: a context manager around an existing training loop.

    with skerry.Learner(model, optimizer, syncer="host:port", token_file="token") as learner:
        while not learner.done:
            ...
            learner.count(tokens)
            optimizer.step()

Rules: the step boundary is just after the `step()` of the last optimizer given. Everything Skerry does in this process
happens there (learner/boundary.py) or in a thread that nobody waits for (learner/supervisor.py); what talks to the syncer
is the agent, a process of its own. Buffers are not synchronised, and neither is the inner optimizer's state.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch

from skerry.core.policy import Policy
from skerry.errors import ConfigError
from skerry.learner.boundary import Boundary
from skerry.learner.config import LearnerConfig, Setup
from skerry.learner.supervisor import Supervisor
from skerry.numerics.parameters import Parameters

_PATIENCE = 5.0  # seconds an agent may take to say its last word


class Learner:
    """Makes a training loop a learner of a run. Inside the block the model's parameters are the run's.

    `model`: its parameters that require gradients, of any floating dtype, are trained by the run. `optimizer`: one or
    several; a step is complete when the last one has stepped. `config`, or its fields as keywords: syncer, token_file,
    tls, learner, shm_dir (LearnerConfig). `tokens`: gives the tokens of the step just made, instead of calling `count`.
    `description`: what to export beside the model (JSON values), e.g. the model's own configuration.

    Entering waits until the run's parameters are there, and says what it waits for; it raises RefusedError, ConfigError
    or StorageError. After that the loop is delayed by nobody (unless the run's policy is synchronous).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer],
        config: LearnerConfig | None = None,
        *,
        tokens: Callable[[], int] | None = None,
        description: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if config is not None and settings:
            raise ConfigError("Learner was given a config and single settings", remedy="give one or the other")
        self._config = config or LearnerConfig(**settings)
        optimizers = [optimizer] if isinstance(optimizer, torch.optim.Optimizer) else list(optimizer)
        if not optimizers:
            raise ConfigError("Learner was given no optimizer", remedy="give those whose step() makes a training step")
        self._last_optimizer = optimizers[-1]
        self._parameters = Parameters(model)
        self._description = description or {}
        self._tokens = tokens
        self._counted = 0
        self._loss = float("nan")
        self._supervisor = Supervisor(self._setup, _say)
        self._boundary = Boundary(self._parameters, self._config, self._supervisor)

    # ------------------------------------------------------------------ for the training loop

    @property
    def done(self) -> bool:
        """The run has reached its budget: leave the loop."""
        return self._boundary.done

    @property
    def progress(self) -> float:
        """Share of the run's global budget that was done when this step began, 0 to 1: what learning rate schedules should
        follow. It changes at step boundaries only."""
        return self._boundary.progress

    @property
    def id(self) -> int:
        """The learner's id in the run, from 0 on; -1 before the block is entered."""
        return self._boundary.memory.learner if self._boundary.memory else -1

    @property
    def generation(self) -> int:
        """How many times this learner has begun: 1 at first, +1 with each restart of its training process."""
        return self._boundary.memory.generation if self._boundary.memory else 0

    @property
    def first_step(self) -> int:
        """Steps that this learner made before this process. Its batches go on there: batch = f(seed, id, step)."""
        return self._boundary.memory.first_step if self._boundary.memory else 0

    @property
    def step(self) -> int:
        """Steps that all generations of this learner made: the number of the next one, counted from 0."""
        return self.first_step + self._boundary.count.steps

    @property
    def policy(self) -> Policy | None:
        """The run's policy; None before the block is entered."""
        return self._boundary.policy

    def count(self, tokens: int, loss: float | torch.Tensor | None = None) -> None:
        """Add tokens to the step in progress (before the optimizer steps). `loss`: a number to show for it."""
        self._counted += tokens
        if loss is not None:
            self._loss = float(loss)

    # ------------------------------------------------------------------ begin and end

    def __enter__(self) -> Learner:
        try:
            self._supervisor.start()
            self._boundary.join()
        except BaseException:
            self._close()
            raise
        self._hook = self._last_optimizer.register_step_post_hook(self._stepped)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._hook.remove()
        try:
            if kind is None and self.done and not self._boundary.over:
                _say("training has ended; waiting for the run's last round")
                self._boundary.finish(self._counted, self._loss)
        finally:
            self._close()

    def _stepped(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._boundary.over:
            return
        tokens = self._counted if self._tokens is None else self._counted + self._tokens()
        self._counted = 0
        self._boundary.cross(tokens, self._loss)

    def _close(self) -> None:
        self._boundary.close()
        self._supervisor.stop(_PATIENCE)

    def _setup(self) -> bytes:
        """For the agent that is about to start."""
        greeted = self._boundary.greeted
        return Setup(
            config=self._config, trainer_pid=os.getpid(), tensors=self._parameters.specs, dtypes=self._parameters.dtypes,
            aliases=self._parameters.aliases, description=self._description,
            policy=greeted.policy if greeted else "", run_id=greeted.run_id if greeted else "",
        ).to_bytes()  # fmt: skip


def _say(text: str) -> None:
    print(f"skerry: {text}", file=sys.stderr, flush=True)
