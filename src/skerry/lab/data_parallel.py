"""The baseline: synchronous data-parallel training on the same batches, M learners' gradients averaged at every step.

In virtual time each step lasts as long as the slowest learner's, plus a ring all-reduce of fp32 gradients over the world's
slowest link: 2 (M - 1) hops, each with its latency and 1/M of the gradient (Patarasuk and Yuan 2009).
"""

from __future__ import annotations

from skerry.lab.evaluator import Evaluator, Progress
from skerry.lab.result import Result, hash_of
from skerry.numerics.task import Task
from skerry.world.patience import check_data_parallel
from skerry.world.world import World


def run_data_parallel(task: Task, world: World, *, steps: int, seed: int = 0, evals: int = 12,
                      progress: Progress | None = None) -> Result:  # fmt: skip
    """Train `task` on M times a learner's batch for so many steps. Raises ConfigError for a world with faults."""
    check_data_parallel(steps, world)
    eyes = Evaluator(task, seed, evals)
    model, optimizer = eyes.model, task.optimizer(eyes.model)
    times = [world.step_times(learner) for learner in range(world.learners)]
    params = sum(parameter.numel() for parameter in eyes.parameters.by_name.values())
    hops, part = 2 * (world.learners - 1), 4 * params // world.learners
    hop_s = max(link.latency + link.seconds(part) for link in map(world.link_of, range(world.learners)))
    now = busy = 0.0
    tokens = sent = 0
    for step in range(steps):
        share = step / steps
        if eyes.due(share):
            eyes.look(step, tokens, now)
        task.set_rate(optimizer, share, step)
        for learner in range(world.learners):
            loss, count = task.loss(model, task.batch(learner, step))
            (loss / world.learners).backward()
            tokens += count
        optimizer.step()
        optimizer.zero_grad()
        seconds = [next(time) for time in times]
        now += max(seconds) + hops * hop_s
        busy += sum(seconds)
        sent += hops * part * world.learners
        if progress is not None:
            progress((step + 1) / steps, step + 1, now)
    last = eyes.look(steps, tokens, now)
    useful = busy / (now * world.learners)
    return Result(
        eval_loss=last, eval_curve=tuple(eyes.curve), virtual_s=round(now, 6), goodput=useful, wait_share=1 - useful,
        params=params, tokens={"processed": tokens, "merged": tokens, "pending": 0, "lost": {}}, rounds=steps,
        mean_contributors=float(world.learners), bytes={"up": sent, "down": sent},
        model_hash=hash_of(list(eyes.parameters.by_name.values())),
    )  # fmt: skip
