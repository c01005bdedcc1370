"""The config tree of the lab: a run under virtual time, as a file, flags and a sweep see it.

    method = "decoupled"   learners = 4        policy.steps = 1000        [recipe] model = "nano"       [world] jitter = 0.1

Rules: the method decides where the policy starts from; values of the file go over that, flags over the file, --set over
the flags. `learners` is short for world.learners. What follows from other values (a shard for each learner, the seeds of
recipe and world) is settled here, once: a settled tree, written and read again, is itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from skerry.cli.toml import filled, plain
from skerry.core.policy import Policy
from skerry.core.presets import preset
from skerry.errors import ConfigError, cannot_work
from skerry.recipe.config import RecipeConfig
from skerry.world.world import World

Method = Literal["decoupled", "streaming", "diloco", "data-parallel"]
DATA_PARALLEL: Method = "data-parallel"
SHORT = {"learners": "world.learners"}
STEPS = 1000
MODEL: Literal["nano"] = "nano"

Tables: TypeAlias = dict[str, Any]
Layer: TypeAlias = tuple[str, Tables]
"""Where values come from (for errors), and the values, as nested tables."""


@dataclass(frozen=True, kw_only=True)
class LabConfig:
    """A run in virtual time. Raises ConfigError where its parts do not fit each other."""

    method: Method = "decoupled"  # how learners work together: a preset of the policy, or a gradient all-reduce each step
    seed: int = 0  # of recipe and world, where they have none of their own
    evals: int = 12  # evaluations of the global model, spread evenly over the run
    policy: Policy = field(default_factory=lambda: Policy(steps=STEPS))
    recipe: RecipeConfig = field(default_factory=lambda: RecipeConfig(model=MODEL))
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise cannot_work("seed", self.seed, "give a whole number, 0 or more")
        if self.evals < 1:
            raise cannot_work("evals", self.evals, "give 1 or more")
        if not self.policy.steps and (self.method == DATA_PARALLEL or not self.policy.tokens):
            raise ConfigError("policy.steps = 0: the run would never end", remedy="give 1 or more")
        if self.method == DATA_PARALLEL and (self.world.faults or self.world.fault_rate):
            name = "faults" if self.world.faults else "fault_rate"
            raise ConfigError(f"world.{name} = {getattr(self.world, name)!r}, but data-parallel has no faults here",
                              remedy="leave it out, or choose another method")  # fmt: skip
        for name in ("quorum", "wait_for"):
            if getattr(self.policy, name) > self.world.learners:
                raise ConfigError(f"policy.{name} = {getattr(self.policy, name)} is more than learners = {self.world.learners}:"
                                  " the run could never begin", remedy="lower it, or have more learners")  # fmt: skip


def load(layers: Sequence[Layer]) -> LabConfig:
    """The settled tree: later layers go over earlier ones. Raises ConfigError naming the layer, the key and its value."""
    layers = [(source, _long(tables, source)) for source, tables in layers]
    method = next((tables["method"] for _, tables in reversed(layers) if "method" in tables), "decoupled")
    if method not in get_args(Method):
        raise ConfigError(f"method = {method!r} is none that there is", remedy=f"choose one of {', '.join(get_args(Method))}")
    start = preset("decoupled" if method == DATA_PARALLEL else method, steps=STEPS)
    config = LabConfig(method=method, policy=start)
    for source, tables in layers:
        if method == DATA_PARALLEL:
            _without_policy(tables, source)
        config = filled(config, {**tables, "method": method}, source)
    return _settled(config, {part for _, tables in layers for part in ("recipe", "world") if "seed" in tables.get(part, {})})


def resolved(config: LabConfig) -> Tables:
    """Everything that decides the run, as tables which `load` reads back: data-parallel has no policy but its steps."""
    tables = plain(config)
    if config.method == DATA_PARALLEL:
        tables["policy"] = {"steps": config.policy.steps}
    return tables


def nested(flat: Mapping[str, Any]) -> Tables:
    """{"policy.steps": 5} as {"policy": {"steps": 5}}; of two values of one key the later. Raises ConfigError where a key is a
    value and a table at once."""
    tables: Tables = {}
    for name, value in flat.items():
        *parts, last = SHORT.get(name, name).split(".")
        inner = tables
        for part in parts:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{name}: {part} is a value already", remedy="give one of the two")
        inner[last] = value
    return tables


def _long(tables: Tables, source: str) -> Tables:
    """With `learners` where it belongs."""
    if "learners" not in tables or not isinstance(tables.get("world", {}), dict):
        return tables
    rest = {name: value for name, value in tables.items() if name != "learners"}
    world = tables.get("world", {})
    if world.get("learners", tables["learners"]) != tables["learners"]:
        raise ConfigError(f"{source}: learners = {tables['learners']!r} and world.learners = {world['learners']!r} are one key",
                          remedy="give it once")  # fmt: skip
    return {**rest, "world": {**world, "learners": tables["learners"]}}


def _without_policy(tables: Tables, source: str) -> None:
    given = tables.get("policy", {})
    for name, value in given.items() if isinstance(given, dict) else ():
        if name != "steps":
            raise ConfigError(f"{source}: policy.{name} = {value!r}, but data-parallel has no policy",
                              remedy="leave it out (policy.steps may stay), or choose another method")  # fmt: skip


def _settled(config: LabConfig, own_seed: set[str]) -> LabConfig:
    recipe = replace(config.recipe, shards=config.recipe.shards or config.world.learners)
    world = config.world
    if "recipe" not in own_seed:
        recipe = replace(recipe, seed=config.seed)
    if "world" not in own_seed:
        world = replace(world, seed=config.seed)
    return replace(config, recipe=recipe, world=world)
