"""`make bench-lab`: what the lab costs over the bare gradients, for eight learners of `nano` at 512 tokens a step.

Bare: eight models and their optimizers in one process, step by step in turn, the same batches; nothing else. The lab: the
same steps as a decoupled run, one evaluation at the end. CPU time of this process, in pairs one after the other, first one
and then the other of the two leading; the median of the ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from benchmarks._table import Row, at_most, report

from skerry.core.presets import preset
from skerry.lab import World, run
from skerry.recipe.config import RecipeConfig
from skerry.recipe.task import LanguageTask

LEARNERS = 8
STEPS = 48  # two rounds of every fragment
PAIRS = 5


def main() -> int:
    """The benchmark."""
    torch.set_num_threads(1)
    task = LanguageTask(RecipeConfig(model="nano", shards=LEARNERS))
    bare(task, 4)  # warm
    pairs = []
    for number in range(PAIRS):
        parts: list[Callable[[], float]] = [lambda: bare(task, STEPS), lambda: lab(task)]
        if number % 2:
            second, first = parts[1](), parts[0]()
        else:
            first, second = parts[0](), parts[1]()
        pairs.append((first, second))
        print(f"pair {number + 1}: {1e3 * first:.2f} ms a step bare, {1e3 * second:.2f} ms in the lab: {second / first:.3f}",
              flush=True)  # fmt: skip
    ratios = [ours / alone for alone, ours in pairs]
    return report("lab", [
        Row("CPU time of a learner's step, bare", 1e3 * statistics.median(first for first, _ in pairs), "ms"),
        Row("CPU time of a learner's step in the lab", 1e3 * statistics.median(second for _, second in pairs), "ms"),
        Row("ratio, lowest pair", min(ratios)),
        Row("ratio, highest pair", max(ratios)),
        at_most("ratio, median of pairs", statistics.median(ratios), 1.15),
    ])  # fmt: skip


def bare(task: LanguageTask, steps: int) -> float:
    """Seconds a learner and step of the gradients alone."""
    models = [task.model(0) for _ in range(LEARNERS)]
    optimizers = [task.optimizer(model) for model in models]
    began = time.process_time()
    for step in range(steps):
        for learner, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            task.set_rate(optimizer, step / steps, step)
            loss, _ = task.loss(model, task.batch(learner, step))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return (time.process_time() - began) / (steps * LEARNERS)


def lab(task: LanguageTask) -> float:
    """Seconds a learner and step in a run of the lab, everything included."""
    began = time.process_time()
    result = run(task, preset("decoupled", steps=STEPS), World(learners=LEARNERS), evals=1)
    seconds = time.process_time() - began
    return seconds / (result.tokens["processed"] / (task.config.batch * task.config.context))


if __name__ == "__main__":
    raise SystemExit(main())
