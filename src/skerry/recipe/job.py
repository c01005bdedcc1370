"""The reference training job: one learner of the recipe. The loop is that of examples/plain_pytorch.py.

Rules: everything the job does is a function of (configuration, learner's id, step), so a restarted learner goes on where
it stopped. There is nothing to save here: a job that is killed, at whatever moment, has lost only its own last steps.
"""

from __future__ import annotations

import sys
import time

import torch

from skerry.learner.config import LearnerConfig
from skerry.learner.hook import Learner
from skerry.recipe.config import RecipeConfig
from skerry.recipe.task import LanguageTask

SAY_EVERY = 10.0  # seconds between two lines about the training


def run_learner(recipe: RecipeConfig, config: LearnerConfig) -> None:
    """Train until the run is over. Raises DataError, and what skerry.Learner raises (RefusedError, ConfigError, ...)."""
    torch.set_num_threads(recipe.threads)
    task = LanguageTask(recipe)
    model = task.model(recipe.seed)
    optimizer = task.optimizer(model)
    with Learner(model, optimizer, config, description=task.description()) as learner:
        _say(f"learner {learner.id}, generation {learner.generation}: training from its step {learner.step} on")
        made, said = 0, time.monotonic()
        while not learner.done:
            task.set_rate(optimizer, learner.progress, made)
            loss, tokens = task.loss(model, task.batch(learner.id, learner.step))
            loss.backward()
            learner.count(tokens, loss.detach())
            optimizer.step()
            optimizer.zero_grad()
            made += 1
            if time.monotonic() - said > SAY_EVERY:
                said = time.monotonic()
                _say(f"step {learner.step}: loss {loss.item():.3f} nats per byte, {learner.progress:.0%} of the run")


def _say(text: str) -> None:
    print(f"skerry: {text}", file=sys.stderr, flush=True)
