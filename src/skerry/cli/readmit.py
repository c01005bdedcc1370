"""`skerry readmit`: the operator lets a learner in again whose contributions were refused too often."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from skerry.cli.options import Maybe, TlsOptions, parse
from skerry.cli.status import whereabouts
from skerry.errors import ConfigError
from skerry.fabric.client import ask_readmit
from skerry.fabric.tokens import Token

EXAMPLES = """
skerry readmit runs/shared 3
skerry readmit 10.0.0.5:7000 3 --token-file token
"""


@dataclass(frozen=True, kw_only=True)
class ReadmitCommand:
    """Let a quarantined learner in again: the run asks for its work from now on. `skerry status` says who is in quarantine."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's directory on this machine, or its syncer's HOST:PORT."""
    learner: Annotated[int, tyro.conf.Positional, tyro.conf.arg(metavar="LEARNER")]
    """The learner's number."""
    token_file: Maybe[Path] = None  # the run's own token, or one with the role operator; not needed with a directory
    tls: TlsOptions = field(default_factory=TlsOptions)


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(ReadmitCommand, arguments, command="readmit", examples=EXAMPLES)
    if command.learner < 0:
        raise ConfigError(f"there is no learner {command.learner}", remedy="give the number that skerry status shows")
    address, token_file = whereabouts(command.run, command.token_file)
    answer = asyncio.run(ask_readmit(address, command.learner, token=Token.read(token_file), tls=command.tls.config()))
    if not answer.done:
        raise ConfigError(answer.text, remedy="skerry status shows the learners and who is in quarantine")
    print(answer.text)
    return 0
