"""The recipe in the lab: a run in virtual time as one tree (config/tree.py), what is known of it beforehand, and making it.

    method = "decoupled"   learners = 4        policy.steps = 1000        [recipe] model = "nano"       [world] jitter = 0.1

Rules: the method decides where the policy starts from; every value goes over that. `learners` is short for world.learners.
What follows from other values (a shard for each learner, the seeds of recipe and world) is settled here, once: a settled
tree, written and read again, is itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

from skerry.config.checks import whole
from skerry.config.toml import plain
from skerry.config.tree import Tables, Tree, Values
from skerry.core.layout import TensorSpec, build_layout
from skerry.core.policy import Policy
from skerry.core.presets import preset
from skerry.errors import ConfigError
from skerry.recipe.config import RecipeConfig
from skerry.recipe.sizes import SIZES, Size
from skerry.recipe.tree import STEPS
from skerry.world.patience import check_budget, check_data_parallel, check_learners
from skerry.world.world import World

Method = Literal["decoupled", "streaming", "diloco", "data-parallel"]
DATA_PARALLEL: Method = "data-parallel"
BYTES = 20
"""Of a parameter, for each learner: model, AdamW's two moments, base, a gradient or what was handed over (measured: 21.5)."""
_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True, kw_only=True)
class LabConfig(Tree):
    """A run in virtual time. Raises ConfigError where its parts do not fit each other."""

    SHORT = {"learners": "world.learners"}  # noqa: RUF012  # Tree says that it is the class's
    BEGIN = ("method",)

    method: Method = "decoupled"  # how learners work together: a preset of the policy, or a gradient all-reduce each step
    seed: int = 0  # of recipe and world, where they have none of their own
    evals: int = 12  # evaluations of the global model, spread evenly over the run
    policy: Policy = field(default_factory=lambda: Policy(steps=STEPS))
    recipe: RecipeConfig = field(default_factory=lambda: RecipeConfig(model="nano"))
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        whole(self, "seed", least=0)
        whole(self, "evals")
        if self.method == DATA_PARALLEL:
            check_data_parallel(self.policy.steps, self.world)
        else:
            check_budget(self.policy)
            check_learners(self.policy, self.world.learners)

    @classmethod
    def begin(cls, given: Values) -> Self:
        """The defaults, by the method."""
        method = given.get("method", "decoupled")
        if method not in get_args(Method):
            raise ConfigError(f"method = {method!r} is none that there is",
                              remedy=f"choose one of {', '.join(get_args(Method))}")  # fmt: skip
        policy = next((key for key in given if key.startswith("policy.") and key != "policy.steps"), None)
        if method == DATA_PARALLEL and policy:
            raise ConfigError(f"{policy} = {given[policy]!r}, but data-parallel has no policy",
                              remedy="leave it out (policy.steps may stay), or choose another method")  # fmt: skip
        return cls(method=method, policy=preset("decoupled" if method == DATA_PARALLEL else method, steps=STEPS))

    def settled(self, given: Values) -> Self:
        """With a shard for each learner, and the one seed where recipe and world have none of their own."""
        recipe, world = self.recipe.shared_by(self.world.learners), self.world
        if "recipe.seed" not in given:
            recipe = replace(recipe, seed=self.seed)
        if "world.seed" not in given:
            world = replace(world, seed=self.seed)
        return replace(self, recipe=recipe, world=world)

    def tables(self) -> Tables:
        """Everything that decides the run, to be loaded again: data-parallel has no policy but its steps."""
        tables = plain(self)
        if self.method == DATA_PARALLEL:
            tables["policy"] = {"steps": self.policy.steps}
        return tables


def check(config: LabConfig) -> None:
    """Raises ConfigError for a run whose fragments do not fit the model, or that does not fit in memory."""
    specs, policy = _specs(config.recipe.model), config.policy
    if config.method == DATA_PARALLEL:
        return
    build_layout(specs, policy.fragments, policy.fragmentation, policy.direct)
    learners, has = config.world.learners, memory()
    needs = BYTES * (learners + 1) * sum(spec.size for spec in specs)
    if needs > has:
        raise ConfigError(f"learners = {learners} with the {config.recipe.model} model need about {needs / 1e9:,.0f} GB of "
                          f"memory, and this machine has {has / 1e9:,.0f}", remedy="give fewer or a smaller model")  # fmt: skip


def memory() -> float:
    """Bytes that this process may take, at most."""
    has = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        return min(has, float(_CGROUP.read_text()))
    except (OSError, ValueError):  # no such limit here, or "max"
        return has


@lru_cache
def _specs(size: Size) -> tuple[TensorSpec, ...]:
    from skerry.numerics.parameters import Parameters  # late: they bring torch
    from skerry.recipe.model import Decoder

    return Parameters(Decoder(SIZES[size], context=1, seed=0)).specs


def carry_out(config: LabConfig, progress: Callable[[float, int, float], None] | None = None) -> dict[str, Any]:
    """Make the run, with one torch thread; what comes of it, as `skerry lab --json` prints it. `progress` hears the share
    done, the step and the virtual seconds. Raises ConfigError, DataError."""
    import torch  # late: a wrong option need not wait for it

    from skerry.lab import run, run_data_parallel
    from skerry.recipe.task import LanguageTask

    torch.set_num_threads(1)
    task = LanguageTask(config.recipe)
    rest: dict[str, Any] = {"seed": config.recipe.seed, "evals": config.evals, "progress": progress}
    if config.method == DATA_PARALLEL:
        result = run_data_parallel(task, config.world, steps=config.policy.steps, **rest)
    else:
        result = run(task, config.policy, config.world, **rest)
    about = {"method": config.method, "learners": config.world.learners, "steps": config.policy.steps,
             "seed": config.seed, "model": config.recipe.model}  # fmt: skip
    return {**about, **result.plain(), "config": config.tables()}
