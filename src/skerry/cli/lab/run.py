"""`skerry lab`: one run in virtual time, all learners in this process.

Rules: stdout is the result alone (a table, or with --json one line), everything else goes to stderr; one torch thread, so
that runs side by side do not wait for each other; an interrupted run leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from skerry.cli.complaints import as_typed
from skerry.cli.options import Maybe, by_key, hint, parse
from skerry.cli.outputs import cell, finite
from skerry.cli.progress import Bar
from skerry.config.toml import read
from skerry.config.tree import Tables, assigned, load, one_name
from skerry.errors import StorageError, cannot_work
from skerry.recipe.lab import LabConfig, Method, carry_out, check
from skerry.recipe.sizes import Size
from skerry.store.files import settle
from skerry.world.world import parse_speeds

EXAMPLES = """
skerry lab                                                       four learners, 1000 steps, a nano model, virtual time
skerry lab --method diloco --steps 500 --set policy.interval=50  synchronous DiLoCo
skerry lab --speeds 1,1,0.8,0.5 --jitter 0.1 --link 100ms,1Gbit --faults "kill:2@30s slow:3x0.5@60s"
skerry lab --method data-parallel --learners 8 --json --out dp.json
skerry lab --config lab.toml --set policy.outer_lr=0.6 --set world.downtime=30
skerry lab sweep sweep.toml --out runs/lab                       many runs; skerry lab sweep --help tells more
"""
FAULTS = 4
"""So many are named; of more, their number."""
FLAGS = {
    "method": "method", "seed": "seed", "evals": "evals", "policy.steps": "steps", "recipe.model": "model", "recipe.lr": "lr",
    "recipe.data": "data", "world.learners": "learners", "world.step_s": "step_time", "world.speeds": "speeds",
    "world.jitter": "jitter", "world.link": "link", "world.faults": "faults", "world.fault_rate": "fault_rate",
}  # fmt: skip
"""Keys of the tree that have an option of their own."""


@dataclass(frozen=True, kw_only=True)
class LabCommand:
    """Train a model with many learners in this one process, in virtual time: same algorithm, any speeds, links and faults.

    Everything is decided by the configuration: the same one gives the same result, bit for bit. What has no flag is
    reached by --set KEY=VALUE, any key of the tables policy, recipe and world (docs/configuration.md has them all)."""

    config: Maybe[Path] = None  # TOML file to start from; flags change single values of it
    method: Maybe[Method] = None  # how learners work together; the file's, or decoupled
    learners: Maybe[int] = None  # how many (4)
    steps: Maybe[int] = None  # global steps (1000)
    model: Maybe[Size] = None  # size of the model (nano)
    data: Annotated[tuple[str, ...] | None, tyro.conf.arg(aliases=("--recipe.data",), help_behavior_hint=hint)] = None
    """Files or folders; none: the Python standard library's own sources."""
    seed: Maybe[int] = None  # of initial values, batches, jitter and random faults (0)
    lr: Maybe[float] = None  # peak of the inner learning rate
    speeds: Maybe[str] = None  # of the learners, relative: 1,1,0.8,0.5; fewer are repeated in turn
    jitter: Maybe[float] = None  # spread of step times: standard deviation over mean
    link: Maybe[str] = None  # of every learner: LATENCY or LATENCY,BANDWIDTH (100ms,1Gbit)
    faults: Maybe[str] = None  # what strikes whom when, in virtual time: "kill:2@30s stop:1@45s+20s"
    fault_rate: Maybe[float] = None  # share of each learner's time that random kills take away
    step_time: Maybe[float] = None  # virtual seconds of a step at speed 1 (1)
    evals: Maybe[int] = None  # evaluations over the run (12)
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE, over everything else, as often as you like: policy.outer_lr=0.6"""
    json: bool = False  # print one line of JSON instead of the table
    out: Maybe[Path] = None  # write the JSON there too


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(LabCommand, arguments, command="lab", examples=EXAMPLES)
    config = read_config(command)
    check(config)
    if command.out:
        _check_place(command.out)
    from skerry.lab.table import trouble  # late: it brings torch

    with Shown(config.policy.steps) as shown:
        try:
            result = carry_out(config, shown)
        except KeyboardInterrupt:
            print(f"skerry: interrupted at {shown}; nothing of it is kept", file=sys.stderr)
            raise
    text = json.dumps(finite(result), allow_nan=False)
    try:  # neither a full disk nor a reader that has gone costs the run
        print(text if command.json else summary(result), flush=True)
    finally:
        if command.out:
            _write(command.out, text)
    if said := trouble(result):
        print(f"skerry: this run learnt little: {said}", file=sys.stderr)
    return 0


def read_config(command: LabCommand) -> LabConfig:
    """The command line over the file it names."""
    given, over = by_key(command, FLAGS), assigned(command.set)
    if command.speeds is not None:
        given["world.speeds"] = list(parse_speeds(command.speeds))
    file = [(str(command.config), read(command.config))] if command.config else []
    overridden = one_name(over, LabConfig.SHORT, "--set")
    with as_typed(command, {key: FLAGS[key] for key in given.keys() - overridden.keys()}):
        return load(LabConfig, *file, ("skerry lab", given), ("--set", over))


def summary(result: Tables) -> str:
    """The main figures, for the terminal."""
    lost = sum(result["tokens"]["lost"].values())
    processed = result["tokens"]["processed"]
    causes = ", ".join(f"{cause} {_percent(count / processed)}"
                       for cause, count in sorted(result["tokens"]["lost"].items()) if count)  # fmt: skip
    more = "".join(f", {result[f'rounds_{what}']:,} {what}" for what in ("skipped", "cancelled") if result[f"rounds_{what}"])
    rows = [
        ("method", f"{result['method']}, {result['learners']} learners, {result['model']} model, seed {result['seed']}"),
        ("eval loss", f"{cell(result['eval_loss'])} nats per byte"),
        ("rounds", f"{cell(result['rounds'])} merged{more}; mean contributors {cell(result['mean_contributors'])}"),
        ("faults", _faults(result["faults"])),
        ("tokens", f"{processed:,.0f} processed, {result['tokens']['merged']:,.0f} merged, {lost:,.0f} lost"
                   + (f" ({causes})" if causes else "")),
        ("goodput", cell(result["goodput"])),
        ("virtual", f"{cell(result['virtual_s'])} s, of it waiting {_percent(result['wait_share'])}"),
        ("traffic", f"{result['bytes']['up'] / 1e9:.3f} GB up, {result['bytes']['down'] / 1e9:.3f} GB down"),
        ("model", f"sha256 {str(result['model_hash'])[:16]}"),
    ]  # fmt: skip
    curve = [f"  step {step:>6,}  {virtual:>10,.0f} s  {cell(loss)}" for step, _, virtual, loss in result["eval_curve"]]
    return "\n".join([*(f"{name:<9}  {text}" for name, text in rows if text), "loss over the run:", *curve])


def _faults(faults: Sequence[Tables]) -> str:
    """Those that struck, in one line; empty if none was to."""
    struck = [f"{one['fault'].partition('@')[0]} at {one['at']:,.0f} s" for one in faults if one["struck"]]
    more = f" and {len(struck) - FAULTS} more" if len(struck) > FAULTS else ""
    said = f": {', '.join(struck[:FAULTS])}{more}" if struck else ""
    return f"{len(struck)} of {len(faults)} struck{said}" if faults else ""


class Shown:
    """How far the run is, on stderr if that is a terminal. Call it with what `run` tells its progress."""

    def __init__(self, steps: int) -> None:
        self._steps, self._step = steps, 0
        self._bar = Bar("starting", 1.0)

    def __enter__(self) -> Shown:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def __call__(self, share: float, step: int, virtual_s: float) -> None:
        self._step = step
        self._bar.reach(share, f"{self}, {virtual_s:,.0f} virtual s")

    def __str__(self) -> str:
        return f"step {self._step:,} of {self._steps:,}" if self._steps else f"step {self._step:,}"


def _check_place(path: Path) -> None:
    """Raises ConfigError or StorageError if a result could not be written there, before there is one."""
    if path.exists() and not path.is_file():
        raise cannot_work("--out", str(path), "it is no file: name one")
    with _part(path) as part:
        part.touch()


def _write(path: Path, text: str) -> None:
    """The whole file or none, so that a sweep never takes half a result for one."""
    with _part(path) as part:
        part.write_text(text + "\n")
        settle(part, path)


@contextmanager
def _part(path: Path) -> Iterator[Path]:
    """What is written first, beside it; gone in the end. Raises ConfigError or StorageError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
    except FileExistsError as error:
        raise cannot_work("--out", str(path), f"{path.parent} is a file: name a folder") from error
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}", remedy="free space there, or name another with --out") \
            from error  # fmt: skip
    finally:
        with suppress(OSError):
            part.unlink()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
