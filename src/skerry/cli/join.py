"""`skerry join`: one learner of the reference recipe, against any syncer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from skerry.cli.options import Maybe, TlsOptions, parse, start_from
from skerry.learner.config import LearnerConfig
from skerry.recipe.config import RecipeConfig
from skerry.recipe.tree import RunConfig

EXAMPLES = """
skerry join 10.0.0.5:7000 --token-file token                         one more learner, Python's own sources
skerry join 10.0.0.5:7000 --token-file token --data ~/texts --id 3   learner 3, whose place it takes again
skerry join 10.0.0.5:7000 --token-file token --tls.ca ca.pem
"""


@dataclass(frozen=True, kw_only=True)
class JoinCommand:
    """Join a syncer with one learner of the reference recipe.

    All learners of a run need the same --recipe.model (and --recipe.context); their data may differ. The policy comes from
    the syncer."""

    address: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="HOST:PORT")]  # the syncer's address
    token_file: Path  # file with the run's token
    id: int = -1  # the learner's id; -1: a free one
    config: Maybe[Path] = None  # TOML file to start from; its [recipe] and [learner] are used
    fixed: bool = False  # look for the syncer at this address only, not where it says that it is besides
    shm_dir: Path = Path("/dev/shm")  # folder in memory for what trainer and agent share
    tls: TlsOptions = field(default_factory=TlsOptions)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)


def main(arguments: list[str]) -> int:
    """The command."""
    tree, rest = start_from(RunConfig, arguments)
    default = JoinCommand(address=tyro.MISSING, token_file=tyro.MISSING, config=rest["config"], recipe=tree.recipe,
                          shm_dir=tree.learner.shm_dir)  # fmt: skip
    command = parse(JoinCommand, arguments, command="join", examples=EXAMPLES, default=default)
    learner = LearnerConfig(syncer=command.address, token_file=command.token_file, learner=command.id, fixed=command.fixed,
                            tls=command.tls.config() or tree.learner.tls, shm_dir=command.shm_dir)  # fmt: skip
    from skerry.recipe.job import run_learner  # late: it brings torch

    run_learner(command.recipe, learner)
    return 0
