"""`skerry syncer`: the syncer alone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from skerry.cli.options import Maybe, Shown, TlsOptions, parse, start_from
from skerry.core.policy import Policy
from skerry.recipe.tree import RunConfig
from skerry.syncer.config import SyncerConfig

EXAMPLES = """
skerry syncer --run-dir runs/shared                                     for learners on this machine
skerry syncer --run-dir runs/shared --host 0.0.0.0 --port 7000 --tls.cert c.pem --tls.key k.pem
skerry syncer --run-dir runs/shared --resume                            go on from its snapshot
skerry syncer --preset streaming --policy.steps 5000 --policy.wait-for 4
"""


@dataclass(frozen=True, kw_only=True)
class SyncerCommand:
    """Run a syncer alone; learners join it from anywhere with the command line that it prints.

    It holds the global model, merges what learners contribute and writes the run's directory. It knows nothing about
    data or architecture: the first learner brings the model."""

    config: Maybe[Path] = None  # TOML file to start from; its [policy] and [syncer] are used
    preset: Maybe[str] = None  # policy to start from: decoupled, streaming or diloco
    tls: TlsOptions = field(default_factory=TlsOptions)
    policy: Policy = field(default_factory=Policy)
    syncer: Annotated[Shown[SyncerConfig], tyro.conf.arg(name="")] = field(default_factory=SyncerConfig)


def main(arguments: list[str]) -> int:
    """The command."""
    tree, rest = start_from(RunConfig, arguments)
    default = SyncerCommand(policy=tree.policy, syncer=tree.syncer, **rest)
    command = parse(SyncerCommand, arguments, command="syncer", examples=EXAMPLES, default=default)
    tls = command.tls.config()
    syncer = replace(command.syncer, tls=tls) if tls else command.syncer
    _keep_config(command.config, replace(tree, policy=command.policy, syncer=replace(syncer, resume=False)),
                 resume=syncer.resume)  # fmt: skip
    from skerry.syncer.server import run_syncer  # late: it brings torch

    return run_syncer(syncer, command.policy)


def _keep_config(given: Path | None, tree: RunConfig, *, resume: bool) -> None:
    """Write the run's config.toml, from which --resume starts; unless `skerry train` did, or another run lies there."""
    own = tree.syncer.run_dir / "config.toml"
    if own.exists() and (not resume or (given is not None and given.resolve() == own.resolve())):
        return
    tree.write(own)
