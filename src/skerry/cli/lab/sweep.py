"""`skerry lab sweep`: many runs in virtual time, side by side, each in its own process; what is finished is kept.

Rules: every run's configuration is checked before the first run is started. All runs of a sweep use the code as it was when
it began.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import tyro

import skerry
from skerry.cli.lab.shown import SweepShown
from skerry.cli.options import parse
from skerry.config.toml import read
from skerry.errors import ConfigError, StorageError, cannot_work
from skerry.lab.jobs import Job, carry_out
from skerry.lab.sweep import Sweep
from skerry.lab.table import Outcome, rows_csv, table
from skerry.recipe.lab import LabConfig
from skerry.recipe.sweep import Planned, plan
from skerry.report.pictures.sweep import draw

EXAMPLES = """
skerry lab sweep sweep.toml                     every run that is not there yet, one a core; results in runs/lab
skerry lab sweep sweep.toml --out runs/mine --jobs 4
skerry lab sweep sweep.toml --dry-run           which runs it comes to, and which of them are done
"""


@dataclass(frozen=True, kw_only=True)
class SweepCommand:
    """Make many runs of the lab, side by side. Ctrl-C ends it; the same command goes on with what is not finished.

    The file has a name, seeds = [0, 1, 2], and the tables
      [base]    what all runs have in common: keys as for skerry lab, e.g. method = "diloco", policy.steps = 500
      [grid]    lists of values, every combination of which is run: "policy.outer_lr" = [0.6, 0.8]
      [[runs]]  single ones, each with a label and keys of its own; every one is run with every combination and seed.

    The table has a line a configuration, best first:
      eval loss     nats per byte on held-out data, mean over the seeds; diverged: no number under one seed or more
      +-            standard deviation over the seeds
      to best       eval loss less that of the first line
      goodput       share of the learners' time in work that was merged, or overwritten by design
      contributors  mean number of learners in a round"""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """TOML file that describes the sweep."""
    out: Path = Path("runs/lab")  # folder of the results; sweeps that share it share finished runs
    jobs: int = 0  # runs at a time; 0 = as many as there are cores
    dry_run: bool = False  # only say which runs there are


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(SweepCommand, arguments, command="lab sweep", examples=EXAMPLES)
    if command.jobs < 0:
        raise cannot_work("--jobs", command.jobs, "give 0 (one a core) or more")
    sweep = Sweep.read(read(command.file), str(command.file), LabConfig.SHORT)
    if command.dry_run:
        _list(plan(sweep, Path(skerry.__file__).parent), command.out)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever ends a sweep gently is a Ctrl-C
    with TemporaryDirectory(prefix="skerry-sweep-") as folder:
        code = Path(folder) / "skerry"  # so that work on the code does not reach a sweep that runs for hours
        shutil.copytree(Path(skerry.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
        planned = plan(sweep, code)
        failed = _carry_out(planned, command, code)
    outcomes = [Outcome(cell=one.cell, key=one.key, result=result) for one in planned if (result := one.finished(command.out))]
    _report(sweep, outcomes, command.out)
    if failed:
        print(f"skerry: {failed} of {len(_by_key(planned))} runs failed; the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def _by_key(planned: Sequence[Planned]) -> dict[str, Planned]:
    """Each run once: two that are asked for may be the same."""
    return {one.key: one for one in reversed(planned)}


def _carry_out(planned: Sequence[Planned], command: SweepCommand, code: Path) -> int:
    """Make the runs that are missing; how many failed."""
    runs = list(reversed(_by_key(planned).values()))
    missing = [one for one in runs if one.finished(command.out) is None]
    jobs = [_job(one, command.out) for one in missing]
    side_by_side = command.jobs or len(os.sched_getaffinity(0))
    # One thread each, also in what is loaded before torch can be told; the package from where this sweep put it.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(code.parent)}
    with SweepShown(len(runs), len(missing), side_by_side) as shown:
        try:
            return len(carry_out(jobs, side_by_side=side_by_side, environment=environment, watcher=shown))
        except KeyboardInterrupt:
            done = sum(one.finished(command.out) is not None for one in runs)
            print(f"skerry: interrupted; {done} of {len(runs)} runs are finished and kept, the same command goes on",
                  file=sys.stderr)  # fmt: skip
            raise


def _job(one: Planned, folder: Path) -> Job:
    """The command line of a run, and its configuration in a file: so it can be repeated alone."""
    config, result = one.file(folder, "toml"), one.file(folder, "json")
    one.config.write(config)
    lab = (sys.executable, "-P", "-m", "skerry.cli", "lab", "--config", str(config), "--json", "--out", str(result))
    return Job(label=f"{one.cell.label} seed {one.cell.seed}", command=lab, result=result, log=one.file(folder, "log"))


def _list(planned: Sequence[Planned], folder: Path) -> None:
    for one in planned:
        state = "to do" if one.finished(folder) is None else "done"
        print(f"{one.key[:12]}  {state:<5}  {one.cell.label}  seed {one.cell.seed}")
    done = sum(one.finished(folder) is not None for one in _by_key(planned).values())
    print(f"{len(_by_key(planned))} runs, {done} of them done")


def _report(sweep: Sweep, outcomes: Sequence[Outcome], folder: Path) -> None:
    """Table, CSV and picture of what is there."""
    if not outcomes:
        return
    print(table(outcomes))
    files = [folder / f"{sweep.name}.csv", folder / f"{sweep.name}.png"]
    try:
        files[0].write_text(rows_csv(outcomes))
        files[1].write_bytes(draw(sweep, outcomes))
    except ConfigError as error:  # a sweep does without matplotlib
        print(f"skerry: {error}", file=sys.stderr)
        files.pop()
    except OSError as error:
        raise StorageError(f"cannot write {error.filename}: {error.strerror}", remedy="free space there") from error
    print("\n".join(map(str, files)), file=sys.stderr)
