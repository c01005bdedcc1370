"""A language task that is learned within seconds: one sentence, over and over."""

from __future__ import annotations

import numpy as np
import torch

from skerry.numerics.task import Task
from skerry.recipe.config import RecipeConfig
from skerry.recipe.data import Corpus
from skerry.recipe.task import LanguageTask


def task_on(text: bytes, **fields) -> LanguageTask:
    part = np.frombuffer(text, np.uint8)
    corpus = Corpus(train=part, held_out=part, files=1, split="bytes", sha256="")
    return LanguageTask(RecipeConfig(**({"model": "nano", "context": 16, "batch": 4, "lr": 5e-3} | fields)), corpus)


PATTERN = task_on(b"the same again and " * 200)


def train(task: Task, steps: int) -> torch.nn.Module:
    model = task.model(0)
    optimizer = task.optimizer(model)
    for step in range(steps):
        task.set_rate(optimizer, step / steps, step)
        loss, _ = task.loss(model, task.batch(0, step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model
