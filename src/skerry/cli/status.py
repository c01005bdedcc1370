"""`skerry status`: how a run is doing, asked from its syncer; or how it stood last, from the files that it has left."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec
import tyro
from rich.console import Console

from skerry.cli.options import Maybe, TlsOptions, parse
from skerry.errors import ConfigError, ProtocolError, RefusedError, RunDirError, UnreachableError
from skerry.fabric.client import ask_status
from skerry.fabric.tokens import Token
from skerry.launch.display import learners_table, step_of
from skerry.launch.view import told
from skerry.store.fold import RunState
from skerry.store.metrics import read_run
from skerry.store.records import decode, encode

EXAMPLES = """
skerry status runs/demo
skerry status 10.0.0.5:7000 --token-file token --json
"""


@dataclass(frozen=True, kw_only=True)
class StatusCommand:
    """Say how a run is doing, asked from its syncer. Of a run's directory whose syncer is gone: how it stood last."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's directory on this machine, or its syncer's HOST:PORT."""
    token_file: Maybe[Path] = None  # the run's token; not needed with a directory
    tls: TlsOptions = field(default_factory=TlsOptions)
    json: bool = False  # print the syncer's answer as it came


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(StatusCommand, arguments, command="status", examples=EXAMPLES)
    try:
        address, token_file = whereabouts(command.run, command.token_file)
        text, note = asyncio.run(ask_status(address, token=Token.read(token_file), tls=command.tls.config())), ""
        state, answer = RunState(), decode(text.encode())
        if answer is not None:
            state.take(answer)
    except (UnreachableError, RefusedError, ProtocolError, RunDirError):  # gone; its port may be another's by now
        if not Path(command.run).is_dir():
            raise
        state = read_run(Path(command.run))
        text = encode(state.answer()).decode()
        note = f"no syncer answers for it; this is what its files say, {state.t:,.0f} s after it began"
    if command.json:
        print(text)
    else:
        _show(state, note)
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


def _show(state: RunState, note: str) -> None:
    console = Console(highlight=False)
    for line in _lines(state):
        console.print(line)
    if note:
        console.print(note)
    if state.learners:
        console.print(learners_table(state))
    for alarm in state.alarms:
        console.print(f"{alarm.t:6.1f}s  {told(alarm)}", style="red")


def _lines(state: RunState) -> list[str]:
    status = state.answer()
    lines = [
        f"run {status.run}: {status.phase}, step {step_of(state)}",
        f"rounds {status.rounds:,}, {status.rounds_cancelled:,} cancelled, {status.rounds_skipped:,} skipped, "
        f"{status.mean_contributors:.1f} contributors on average",
    ]
    if status.params:
        ledger = msgspec.structs.asdict(status.ledger)
        parts = [f"{ledger[name] / status.params:,.0f} {name}" for name in ("processed", "merged", "pending", "lost")]
        lines += ["tokens " + ", ".join(parts),
                  f"traffic {status.bytes_up / 1e9:.2f} GB up, {status.bytes_down / 1e9:.2f} GB down"]  # fmt: skip
    return lines
