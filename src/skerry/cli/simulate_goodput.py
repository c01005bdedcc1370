"""`skerry simulate goodput`: how much of a fleet's time trains, when chips fail. One job, a grid, or a fit to given figures."""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from skerry.cli.amounts import count, listed, seconds
from skerry.cli.canvas import SMALL, TITLE, canvas, png, shades
from skerry.cli.complaints import as_typed
from skerry.cli.options import Maybe, parse
from skerry.cli.outputs import OutputOptions, emit, table
from skerry.cli.progress import Bar
from skerry.errors import ConfigError, cannot_work
from skerry.simulate.goodput import Job, Stalls, Stops
from skerry.simulate.goodput_fit import Fit, Target, fit
from skerry.simulate.goodput_grid import Figures, reckon, work
from skerry.simulate.pool import Pool
from skerry.simulate.returns import Law, Returns

MOST_SEEDS = 1000
MOST_TICKS = 8
FIXED: dict[str, dict[str, Any]] = {
    "rigid": {"color": "#d55e00", "marker": "s", "markersize": 3.5, "linestyle": "--", "capsize": 2},
    "elastic": {"color": "#e69f00", "linewidth": 7, "alpha": 0.4},
}
COLUMNS = ("chips", "learners", "kind", "goodput")
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
    away = seconds("mean_return", command.mean_return)
    times = {"mtbi": seconds("mtbi", command.mtbi, zero=False), "shrink": seconds("shrink", command.shrink),
             "grow": seconds("grow", command.grow)}  # fmt: skip
    return Job(chips=1, learners=1, days=command.days, slice_chips=command.slice_chips, stops=command.stops,
               stalls=command.stalls, **times,
               returns=Returns(law=command.law, mean=away, shape=command.shape, power=command.power))  # fmt: skip


def grid(command: GoodputCommand) -> list[Job]:
    """Every job that is asked for, checked before any is followed."""
    common, kinds = base(command), listed("kind", command.kind)
    chips, learners = ([count(name, one) for one in listed(name, getattr(command, name))] for name in ("chips", "learners"))
    return [replace(common, chips=n, learners=m, kind=kind) for n in chips for kind in kinds for m in learners]


def _grid(command: GoodputCommand, jobs: list[Job], seeds: range, pool: Pool) -> None:
    with Bar("following failures", work(jobs, seeds)) as bar:
        found = reckon(jobs, seeds, pool, bar.advance)
    rows = [_row(job, figures) for job, figures in zip(jobs, found, strict=True)]
    about = _about(command)
    emit(command, "goodput", rows, text=_text(about, rows), more={"about": about, "model": _model(jobs[0], seeds)},
         draw=lambda: _picture(about, rows))  # fmt: skip


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


def _name(row: dict[str, Any]) -> str:
    return f"M = {row['learners']}" if row["kind"] == "decoupled" else row["kind"]


def _text(about: str, rows: list[dict[str, Any]]) -> str:
    """A line for each size, a column for each way to train."""
    lines: dict[str, dict[int, dict[str, Any]]] = {"goodput": {}, "uptime": {}}
    for row in rows:
        for figure, ci in (("goodput", "ci"), ("uptime", "uptime_ci")):
            line = lines[figure].setdefault(row["chips"], {"chips": row["chips"]})
            spread = "" if row[ci] is None else f" ±{100 * row[ci]:.2g}"
            line[_name(row)] = f"{100 * row[figure]:.4g}{spread}"
    return "\n".join([about, "", "goodput, %:", table(list(lines["goodput"].values())),
                      "", "uptime, %:", table(list(lines["uptime"].values()))])  # fmt: skip


def _picture(about: str, rows: list[dict[str, Any]]) -> bytes:
    figure, panels = canvas("Goodput and uptime of a fleet whose chips fail", panels=2, size=(12, 5))
    for axes, value, ci in zip(panels, ("goodput", "uptime"), ("ci", "uptime_ci"), strict=True):
        for name, style in _styles(rows).items():
            own = list({row["chips"]: row for row in rows if _name(row) == name}.values())
            own.sort(key=lambda row: row["chips"])
            axes.errorbar([row["chips"] for row in own], [100 * row[value] for row in own],
                          yerr=[100 * (row[ci] or 0) for row in own], label=name, **style)  # fmt: skip
        _chips_across(axes, rows)
    panels[0].set_title(f"Goodput, %: {about}", fontsize=8, loc="left")
    panels[1].set_title("Uptime, %: some learner trains", **TITLE)
    panels[0].legend(**SMALL)
    return png(figure)


def _styles(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How each job is drawn: decoupled ones by shade, from few learners to many; elastic wide and pale, since it is M = 1."""
    names = list(dict.fromkeys(map(_name, sorted(rows, key=lambda row: (row["kind"] == "decoupled", row["learners"])))))
    many = [name for name in names if name not in FIXED]
    own = {name: {"color": shade, "marker": "o", "markersize": 3.5, "capsize": 2}
           for name, shade in zip(many, shades(len(many)), strict=True)}  # fmt: skip
    return {name: FIXED.get(name) or own[name] for name in names}


def _chips_across(axes: Any, rows: list[dict[str, Any]]) -> None:
    sizes = sorted({row["chips"] for row in rows})
    apart = sizes[:: math.ceil(len(sizes) / MOST_TICKS)]
    axes.set_xscale("log")
    axes.set_xticks(apart, [f"{size / 1e6:.4g}M" if size >= 1e6 else f"{size / 1e3:.4g}k" for size in apart])
    axes.minorticks_off()
    axes.set_xlabel("chips")
    axes.set_ylim(0, 102)


def targets(path: Path) -> list[Target]:
    """The given figures. Raises ConfigError naming the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", remedy="name a CSV file with --fit") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text: {error}", remedy="name a CSV file with --fit") from error
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ConfigError(f"{path}: no column {missing[0]!r}", remedy=f"its first line has to name {', '.join(COLUMNS)}")
    found = [_target(line, f"{path}, line {reader.line_num}: ") for line in reader]
    if not found:
        raise ConfigError(f"{path} holds no figures", remedy="give a line for each below the names")
    return found


def _target(line: dict[str, Any], where: str) -> Target:
    values = {name: (line[name] or "").strip() for name in COLUMNS}
    try:
        goodput = float(values["goodput"])
    except ValueError:
        goodput = -1.0
    if not 0 < goodput <= 1:
        raise ConfigError(f"{where}goodput = {values['goodput']!r} cannot work",
                          remedy="give a share above 0, at most 1, like 0.88")  # fmt: skip
    chips, learners = (count(f"{where}{name}", values[name]) for name in ("chips", "learners"))
    try:
        job = Job(chips=chips, learners=learners, kind=values["kind"])  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"{where}{error.message}", remedy=error.remedy) from error
    return Target(chips=job.chips, learners=job.learners, kind=job.kind, goodput=goodput)


def _fit(command: GoodputCommand, given: list[Target], start: Job, seeds: range, pool: Pool) -> None:
    for target in given:  # checked before any is followed
        replace(start, chips=target.chips, learners=target.learners, kind=target.kind)
    with Bar("fitting") as bar:

        def goodputs(jobs: list[Job]) -> list[float]:
            bar.restart(work(jobs, seeds))
            return [figures.goodput for figures in reckon(jobs, seeds, pool, bar.advance)]

        result = fit(given, start, goodputs)
    rows = [{"chips": target.chips, "learners": target.learners, "kind": target.kind, "given": target.goodput,
             "goodput": goodput, "residual": goodput - target.goodput}
            for target, goodput in zip(given, result.goodputs, strict=True)]  # fmt: skip
    errors = [abs(row["residual"]) for row in rows]
    more = {"fitted": {f"{name}_s": value for name, value in result.times.items()},
            "undetermined": list(result.undetermined), "mean_error": sum(errors) / len(errors), "worst_error": max(errors),
            "model": _model(result.job, seeds)}  # fmt: skip
    emit(command, "goodput-fit", rows, text=_fit_text(result, rows, more), more=more, draw=lambda: _fit_picture(rows))


def _fit_text(result: Fit, rows: list[dict[str, Any]], more: dict[str, Any]) -> str:
    shown = [{**row, "given": f"{100 * row['given']:.1f}", "goodput": f"{100 * row['goodput']:.1f}",
              "residual": f"{100 * row['residual']:+.1f}"} for row in rows]  # fmt: skip
    flags = " ".join(f"--{name.replace('_', '-')} {value:.4g}s" for name, value in result.times.items())
    unsure = f"\nundetermined by these figures: {', '.join(result.undetermined)}" if result.undetermined else ""
    return (f"given, goodput and residual in %:\n{table(shown)}\n\n"
            f"mean error {100 * more['mean_error']:.2f} points, worst {100 * more['worst_error']:.2f}\n"
            f"fitted: {flags}{unsure}")  # fmt: skip


def _fit_picture(rows: list[dict[str, Any]]) -> bytes:
    figure, (axes,) = canvas("Goodput: given (crosses) and fitted (lines)", size=(8, 5))
    for name, style in _styles(rows).items():
        own = sorted((row for row in rows if _name(row) == name), key=lambda row: row["chips"])
        colour = style["color"]
        chips = [row["chips"] for row in own]
        axes.plot(chips, [100 * row["goodput"] for row in own], "o-", markersize=3, color=colour, label=name)
        axes.plot(chips, [100 * row["given"] for row in own], "x", markersize=9, color=colour)
    _chips_across(axes, rows)
    axes.set_ylabel("goodput, %")
    axes.legend(**SMALL)
    return png(figure)
