"""`skerry simulate goodput`: how much of a fleet's time trains, when chips fail. One job, a grid, or a fit to given figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from skerry.cli.complaints import as_typed
from skerry.cli.options import Maybe, parse
from skerry.cli.outputs import OutputOptions, emit, table
from skerry.cli.progress import Bar
from skerry.config.amounts import count, listed, seconds
from skerry.errors import cannot_work
from skerry.report.pictures.goodput import fit_picture, picture, way
from skerry.simulate.goodput import Job, Kind, Stalls, Stops
from skerry.simulate.goodput_fit import Fit, Target, fit, targets
from skerry.simulate.goodput_grid import Figures, reckon, work
from skerry.simulate.pool import Pool
from skerry.simulate.returns import Law, Returns

MOST_SEEDS = 1000
EXAMPLES = """
skerry simulate goodput                                                       1.2M chips in eight learners
skerry simulate goodput --chips 150k,300k,600k,1.2M,2.4M --learners 1,2,4,8 --kind rigid,decoupled --out runs/goodput
skerry simulate goodput --chips 2.4M --learners 16 --mtbi 90d --mean-return 10min --seeds 20 --json
skerry simulate goodput --fit examples/goodput.csv                            which times lead to given figures
"""


@dataclass(frozen=True, kw_only=True)
class GoodputCommand(OutputOptions):
    """Goodput (share of chip time that trains) and uptime (share of time in which some learner trains) of a fleet whose chips
    fail, with 95 % confidence intervals over the seeds. What is assumed: docs/simulate.md.

    kinds of job:
      rigid      stops at a failure until every failed slice is back
      elastic    stalls to go on without the slices that fail, and stalls to let them in again
      decoupled  as many elastic learners as --learners says, that do not wait for each other

    figures (% in the table, shares from 0 to 1 in JSON and CSV; means over the seeds):
      goodput  of chip time that trained
      uptime   of time in which some learner trained
      ±        half the width of the 95 % confidence interval (JSON, CSV: ci, uptime_ci); none with one seed
      given    with --fit: the file's goodput; residual: goodput less that"""

    chips: tuple[str, ...] = ("1.2M",)  # how many; each is reckoned with: 150k,1.2M
    learners: tuple[str, ...] = ("8",)  # M; each is reckoned with; rigid and elastic jobs come to the same for any
    kind: tuple[str, ...] = ("decoupled",)  # rigid, elastic, decoupled; each is reckoned with
    mtbi: str = "1y"  # mean time between interruptions of one chip
    days: float = Job.days  # how long each run is
    seeds: int = 5  # runs of each; one gives no confidence interval
    seed: int = 0  # of the first one
    law: Law = Returns.law  # of the time a failed slice is away
    mean_return: str = f"{Returns.mean:g}s"  # its mean
    shape: float = Returns.shape  # of the (exponentiated) Weibull law
    power: float = Returns.power  # its exponent: 1 is the plain Weibull law
    shrink: str = f"{Job.shrink:g}s"  # how long a learner stalls to go on without a slice
    grow: str = f"{Job.grow:g}s"  # how long it stalls to let slices in
    slice_chips: int = Job.slice_chips  # chips that come and go together
    stops: Stops = Job.stops  # failures while a rigid job stands still: there are none, or they lengthen the stop
    stalls: Stalls = Job.stalls  # failures during a stall: cost nothing more, restart it, or are met by one more stall
    fit: Maybe[Path] = None
    """CSV with chips, learners, kind and goodput (a share): fit --mean-return, --shrink and --grow to it. Those given are where
    to start from (0: stays 0); --chips, --learners and --kind are the file's."""
    jobs: int = 0  # processes; 0: one a core


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(GoodputCommand, arguments, command="simulate goodput", examples=EXAMPLES)
    with as_typed(command, {field.name: field.name for field in fields(command)}):
        seeds = _seeds(command)
        jobs = grid(command) if command.fit is None else [base(command)]
    with Pool(command.jobs or os.cpu_count() or 1) as pool:
        if command.fit is None:
            _grid(command, jobs, seeds, pool)
        else:
            _fit(command, targets(command.fit), jobs[0], seeds, pool)
    return 0


def _seeds(command: GoodputCommand) -> range:
    if not 1 <= command.seeds <= MOST_SEEDS:
        raise cannot_work("seeds", command.seeds, f"give 1 to {MOST_SEEDS}")
    if not 0 <= command.seed < 2**63:
        raise cannot_work("seed", command.seed, "give a whole number, 0 or more, below 2**63")
    if command.jobs < 0:
        raise cannot_work("jobs", command.jobs, "give 0 (one a core) or more")
    return range(command.seed, command.seed + command.seeds)


def base(command: GoodputCommand) -> Job:
    """What all jobs have in common. Raises ConfigError for what cannot work."""
    returns = Returns(law=command.law, mean=seconds("mean_return", command.mean_return), shape=command.shape,
                      power=command.power)  # fmt: skip
    return Job(chips=1, learners=1, days=command.days, slice_chips=command.slice_chips, stops=command.stops,
               stalls=command.stalls, mtbi=seconds("mtbi", command.mtbi, zero=False), returns=returns,
               shrink=seconds("shrink", command.shrink), grow=seconds("grow", command.grow))  # fmt: skip


def grid(command: GoodputCommand) -> list[Job]:
    """Every job that is asked for, checked before any is followed."""
    common, kinds = base(command), listed("kind", command.kind)
    chips, learners = ([count(name, one) for one in listed(name, getattr(command, name))] for name in ("chips", "learners"))
    return [replace(common, chips=n, learners=m, kind=cast(Kind, kind)) for n in chips for kind in kinds for m in learners]


def _grid(command: GoodputCommand, jobs: list[Job], seeds: range, pool: Pool) -> None:
    with Bar("following failures", work(jobs, seeds)) as bar:
        found = reckon(jobs, seeds, pool, bar.advance)
    rows = [_row(job, figures) for job, figures in zip(jobs, found, strict=True)]
    about = _about(command)
    emit(command, "goodput", rows, text=_text(about, rows), more={"about": about, "model": _model(jobs[0], seeds)},
         draw=lambda: picture(about, rows))  # fmt: skip


def _row(job: Job, figures: Figures) -> dict[str, Any]:
    """`ci`: half the width of goodput's 95 % confidence interval."""
    return {"chips": job.chips, "learners": job.learners, "kind": job.kind, "goodput": figures.goodput,
            "uptime": figures.uptime, "ci": figures.goodput_ci, "uptime_ci": figures.uptime_ci}  # fmt: skip


def _model(job: Job, seeds: range) -> dict[str, Any]:
    """What led to the figures."""
    returns = {"law": job.returns.law, "mean_return_s": job.returns.mean}
    if job.returns.law == "weibull":
        returns |= {"shape": job.returns.shape, "power": job.returns.power}
    return {"mtbi_s": job.mtbi, "days": job.days, "seeds": list(seeds), **returns, "shrink_s": job.shrink, "grow_s": job.grow,
            "slice_chips": job.slice_chips, "stops": job.stops, "stalls": job.stalls}  # fmt: skip


def _about(command: GoodputCommand) -> str:
    return (f"a chip fails every {command.mtbi}, away {command.mean_return} ({command.law}), stalls {command.shrink} and "
            f"{command.grow}; {command.days:g} days, {command.seeds} seed{'s' if command.seeds > 1 else ''}")  # fmt: skip


def _text(about: str, rows: list[dict[str, Any]]) -> str:
    """A line for each size, a column for each way to train."""
    lines: dict[str, dict[int, dict[str, Any]]] = {"goodput": {}, "uptime": {}}
    for row in rows:
        for figure, ci in (("goodput", "ci"), ("uptime", "uptime_ci")):
            line = lines[figure].setdefault(row["chips"], {"chips": row["chips"]})
            spread = "" if row[ci] is None else f" ±{100 * row[ci]:.2g}"
            line[way(row)] = f"{100 * row[figure]:.4g}{spread}"
    return "\n".join([about, "", "goodput, %:", table(list(lines["goodput"].values())),
                      "", "uptime, %:", table(list(lines["uptime"].values()))])  # fmt: skip


def _fit(command: GoodputCommand, given: list[Target], start: Job, seeds: range, pool: Pool) -> None:
    for target in given:  # checked before any is followed
        replace(start, chips=target.chips, learners=target.learners, kind=target.kind)
    with Bar("fitting") as bar:

        def goodputs(jobs: Sequence[Job]) -> list[float]:
            bar.restart(work(jobs, seeds))
            return [figures.goodput for figures in reckon(jobs, seeds, pool, bar.advance)]

        result = fit(given, start, goodputs)
    rows: list[dict[str, Any]] = [
        {"chips": target.chips, "learners": target.learners, "kind": target.kind, "given": target.goodput, "goodput": goodput,
         "residual": goodput - target.goodput} for target, goodput in zip(given, result.goodputs, strict=True)
    ]  # fmt: skip
    errors = [abs(row["residual"]) for row in rows]
    more = {"fitted": {f"{name}_s": value for name, value in result.times.items()},
            "undetermined": list(result.undetermined), "mean_error": sum(errors) / len(errors), "worst_error": max(errors),
            "model": _model(result.job, seeds)}  # fmt: skip
    emit(command, "goodput-fit", rows, text=_fit_text(result, rows, more), more=more, draw=lambda: fit_picture(rows))


def _fit_text(result: Fit, rows: list[dict[str, Any]], more: dict[str, Any]) -> str:
    shown = [{**row, "given": f"{100 * row['given']:.1f}", "goodput": f"{100 * row['goodput']:.1f}",
              "residual": f"{100 * row['residual']:+.1f}"} for row in rows]  # fmt: skip
    flags = " ".join(f"--{name.replace('_', '-')} {value:.4g}s" for name, value in result.times.items())
    unsure = f"\nundetermined by these figures: {', '.join(result.undetermined)}" if result.undetermined else ""
    return (f"given, goodput and residual in %:\n{table(shown)}\n\n"
            f"mean error {100 * more['mean_error']:.2f} points, worst {100 * more['worst_error']:.2f}\n"
            f"fitted: {flags}{unsure}")  # fmt: skip
