"""The configuration of a whole run of the recipe: one tree, as TOML, flags and Python see it (config/tree.py).

    TrainConfig(learners=4, policy=Policy(outer_lr=0.8), recipe=RecipeConfig(model="tiny"))      Python
    [policy]  outer_lr = 0.8                                                                     TOML, --config FILE
    --learners 4 --policy.outer-lr 0.8 --recipe.model tiny                                       flags, over the file

Rules: every command reads the same file and uses the parts that concern it; `policy.preset` is the one key that is no
field: it names the policy to start from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from skerry.config.checks import whole
from skerry.config.tree import Tree, Values
from skerry.core.policy import Policy
from skerry.core.presets import preset
from skerry.fabric.tls import TlsConfig
from skerry.launch.processes import LaunchConfig
from skerry.recipe.config import RecipeConfig
from skerry.syncer.config import SyncerConfig
from skerry.world.faults import FaultScript
from skerry.world.patience import check_learners

STEPS = 1000
PRESET = "policy.preset"


@dataclass(frozen=True, kw_only=True)
class LearnerPart:
    """What every learner of the recipe is told besides the recipe."""

    shm_dir: Path = Path("/dev/shm")  # folder in memory for what trainer and agent share; no file stays there
    tls: TlsConfig | None = None  # encrypt, and check the syncer's certificate; none: plain TCP


@dataclass(frozen=True, kw_only=True)
class RunConfig(Tree):
    """Every part of the configuration. What a part alone cannot be is refused by the part."""

    BEGIN = (PRESET,)

    learners: int = 4  # M: learners that the run starts with
    chaos: str = ""  # faults to strike real processes with, e.g. "kill:2.trainer@30s stop:1@45s+20s kill:syncer@60s"
    policy: Policy = field(default_factory=lambda: Policy(steps=STEPS))
    recipe: RecipeConfig = field(default_factory=RecipeConfig)
    syncer: SyncerConfig = field(default_factory=lambda: SyncerConfig(run_dir=Path("runs/train")))
    learner: LearnerPart = field(default_factory=LearnerPart)
    launch: LaunchConfig = field(default_factory=LaunchConfig)

    @classmethod
    def begin(cls, given: Values) -> Self:
        """The defaults, by the preset."""
        return cls(policy=preset(given.get(PRESET, "decoupled"), steps=STEPS))


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """The tree of a whole run on this machine. Raises ConfigError where its parts do not fit each other."""

    def __post_init__(self) -> None:
        whole(self, "learners")
        check_learners(self.policy, self.learners)
        self.faults.check_learners(self.learners)

    @property
    def faults(self) -> FaultScript:
        """`chaos`, read."""
        return FaultScript.parse(self.chaos)
