"""A run of the lab: real gradients of every learner in this process, driven by the real processes' core in virtual time.

    world (virtual time, links, faults)  <->  SyncerCore, LearnerCore  <->  tensors (tensors.py)  <->  the user's Task

Rules: nothing is decided here. Equal arguments give the same bits on one machine, with one torch thread.
"""

from __future__ import annotations

from skerry.core.layout import build_layout
from skerry.core.policy import Policy
from skerry.lab.evaluator import Evaluator, Progress
from skerry.lab.result import Result, hash_of
from skerry.lab.tensors import LabModel, LabTrainer
from skerry.numerics.parameters import Fragments
from skerry.numerics.task import Task
from skerry.store.figures import final_figures, presence
from skerry.world.run import Strike, VirtualRun
from skerry.world.world import World


def run(task: Task, policy: Policy, world: World, *, seed: int = 0, evals: int = 12,
        progress: Progress | None = None) -> Result:  # fmt: skip
    """Train `task` by `policy` in `world`; gives the figures. `seed`: of the initial model; `evals`: evaluations on the way.
    The policy needs a budget (`steps` or `tokens`). Raises ConfigError if the three do not fit, or the run cannot end."""
    eyes = Evaluator(task, seed, evals)
    layout = build_layout(eyes.parameters.specs, policy.fragments, policy.fragmentation, policy.direct)
    model = LabModel(policy, layout)
    fragments = Fragments(eyes.parameters, layout)

    def look() -> float:
        for fragment in range(policy.fragments):
            fragments.overwrite(fragment, model.merger.values(fragment))
        core = live.hub.core
        return eyes.look(core.step, core.ledger.tokens, live.queue.now)

    def watch() -> None:
        core = live.hub.core
        if eyes.due(core.progress):
            look()
        if progress is not None:
            progress(core.progress, core.step, live.queue.now)

    live = VirtualRun(policy, layout, world, model, lambda m: LabTrainer(task, seed, policy, layout, m), watch)
    live.run()
    loss = look()
    return _result(live, eyes, loss)


def _result(live: VirtualRun, eyes: Evaluator, loss: float) -> Result:
    hub, end = live.hub, live.queue.now
    up, down = hub.bytes_up.total(), hub.bytes_down.total()
    figures = final_figures("lab", hub.core, {}, (up, down), end)
    return Result(
        eval_loss=loss, eval_curve=tuple(eyes.curve), virtual_s=round(end, 6), goodput=figures.goodput,
        wait_share=live.waited / presence(hub.core, end), params=live.layout.total,
        tokens={"processed": figures.tokens_processed, "merged": figures.tokens_merged, "pending": figures.tokens_pending,
                "lost": figures.lost_by_cause},
        rounds=figures.rounds, rounds_skipped=figures.rounds_skipped, rounds_cancelled=figures.rounds_cancelled,
        mean_contributors=figures.mean_contributors, bytes={"up": up, "down": down},
        per_learner=tuple({k: getattr(one, k) for k in ("learner", "generations", "steps", "tokens", "lost_by_cause")}
                          for one in figures.per_learner),
        faults=tuple({"fault": str(s.fault), "at": s.at, "struck": s.struck, "down_s": _down(s, live.world, end)}
                     for s in live.strikes),
        model_hash=hash_of(list(eyes.parameters.by_name.values())),
    )  # fmt: skip


def _down(strike: Strike, world: World, end: float) -> float:
    """Seconds within the run that a kill took its learner away."""
    if strike.fault.kind != "kill" or strike.fault.part == "agent" or not strike.struck:
        return 0.0
    return min(strike.fault.duration or world.restart, end - strike.at)
