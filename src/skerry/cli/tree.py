"""The config tree: one dataclass that holds the configuration of a whole run, as TOML, flags and Python see it.

    TrainConfig(learners=4, policy=Policy(outer_lr=0.8), recipe=RecipeConfig(model="tiny"))      Python
    [policy]  outer_lr = 0.8                                                                     TOML, --config FILE
    --learners 4 --policy.outer-lr 0.8 --recipe.model tiny                                       flags, over the file

Rules: every command reads the same file and uses the parts that concern it; what a file or flag does not name stays as
in the dataclasses; `preset` is the one key that is no field: in [policy] it names the policy to start from. Nothing but
file and flags changes a value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from skerry.cli.toml import filled, read
from skerry.core.policy import Policy
from skerry.core.presets import preset
from skerry.errors import ConfigError, cannot_work
from skerry.fabric.tls import TlsConfig
from skerry.launch.processes import LaunchConfig
from skerry.recipe.config import RecipeConfig
from skerry.syncer.config import SyncerConfig
from skerry.world.faults import FaultScript

STEPS = 1000
T = TypeVar("T", bound="Tree")


@dataclass(frozen=True, kw_only=True)
class LearnerPart:
    """What every learner of the recipe is told besides the recipe."""

    shm_dir: Path = Path("/dev/shm")  # folder in memory for what trainer and agent share; no file stays there
    tls: TlsConfig | None = None  # encrypt, and check the syncer's certificate; none: plain TCP


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Every part of the configuration. What a part alone cannot be is refused by the part."""

    learners: int = 4  # M: learners that the run starts with
    chaos: str = ""  # faults to strike real processes with, e.g. "kill:2.trainer@30s stop:1@45s+20s"
    policy: Policy = field(default_factory=lambda: Policy(steps=STEPS))
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    syncer: SyncerConfig = field(default_factory=lambda: SyncerConfig(run_dir=Path("runs/train")))
    learner: LearnerPart = field(default_factory=LearnerPart)
    launch: LaunchConfig = field(default_factory=LaunchConfig)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Tree):
    """The tree of a whole run on this machine. Raises ConfigError where its parts do not fit each other."""

    def __post_init__(self) -> None:
        if self.learners < 1:
            raise cannot_work("learners", self.learners, "give 1 or more")
        for name in ("quorum", "wait_for"):
            if getattr(self.policy, name) > self.learners:
                raise ConfigError(f"policy.{name} = {getattr(self.policy, name)} is more than learners = {self.learners}: "
                                  "the run could never begin", remedy="lower it, or start more learners")  # fmt: skip
        self.faults.check_learners(self.learners)

    @property
    def faults(self) -> FaultScript:
        """`chaos`, read."""
        return FaultScript.parse(self.chaos)


def load(kind: type[T], path: Path | None, policy: str | None = None) -> T:
    """The tree (Tree or TrainConfig) that a command starts from: the defaults, changed by a file. `policy`: the preset to
    start from, instead of the file's. Raises ConfigError."""
    tables = read(path) if path else {}
    named: Any = tables.get("policy", {}).pop("preset", None) if isinstance(tables.get("policy"), dict) else None
    start = preset(policy or named or "decoupled", steps=STEPS)
    return filled(kind(policy=start), tables, str(path))
