"""`skerry status`: ask a syncer how its run is doing."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from skerry.cli.options import Maybe, TlsOptions, parse
from skerry.errors import ConfigError, RunDirError
from skerry.fabric.client import ask_status
from skerry.fabric.tokens import Token

EXAMPLES = """
skerry status runs/demo
skerry status 10.0.0.5:7000 --token-file token --json
"""


@dataclass(frozen=True, kw_only=True)
class StatusCommand:
    """Say how a run is doing, asked from its syncer."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's directory on this machine, or its syncer's HOST:PORT."""
    token_file: Maybe[Path] = None  # the run's token; not needed with a directory
    tls: TlsOptions = field(default_factory=TlsOptions)
    json: bool = False  # print the syncer's answer as it came


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(StatusCommand, arguments, command="status", examples=EXAMPLES)
    address, token_file = whereabouts(command.run, command.token_file)
    text = asyncio.run(ask_status(address, token=Token.read(token_file), tls=command.tls.config()))
    if command.json:
        print(text)
    else:
        _show(json.loads(text))
    return 0


def whereabouts(run: str, token_file: Path | None) -> tuple[str, Path]:
    """The syncer's address and its token file, from a run's directory or an address. Raises RunDirError, ConfigError."""
    folder = Path(run)
    if folder.is_dir():
        try:
            return (folder / "address").read_text().strip(), token_file or folder / "token"
        except OSError as error:
            raise RunDirError(f"{run} holds no run that is going on", remedy="name its directory under runs/") from error
    if token_file is None:
        raise ConfigError(f"{run} is no directory, and an address needs the run's token",
                          remedy="name a run's directory, or add --token-file FILE")  # fmt: skip
    return run, token_file


def _show(status: dict[str, Any]) -> None:
    console = Console()
    learners = status.pop("learners", [])
    for key, value in status.items():
        console.print(f"{key:>14}  {value}", highlight=False)
    if learners:
        table = Table(*learners[0])
        for learner in learners:
            table.add_row(*(str(value) for value in learner.values()))
        console.print(table)
