"""`skerry simulate scavenging`: what extra learners bring that come for parts of the time."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any

from skerry.cli.complaints import as_typed
from skerry.cli.options import Maybe, parse
from skerry.cli.outputs import OutputOptions, emit, table
from skerry.cli.progress import shown
from skerry.config.amounts import listed, number, seconds
from skerry.errors import cannot_work
from skerry.report.pictures.scavenging import picture
from skerry.simulate.scavenging import PUBLISHED, Clock, Fleet, Outcome, decoupled, elastic

MOST_RUNS = 1000
TIMES = ("window", "stay", "join", "stall", "checkpoint")
EXAMPLES = """
skerry simulate scavenging                                                eight learners, and from 25 to 300 % extra compute
skerry simulate scavenging --published                                    beside the published figures
skerry simulate scavenging --clock time --window 24h --offered 0.33       extra compute for eight hours of every day
skerry simulate scavenging --stay 10min --checkpoint 0                    gone after ten minutes; data-parallel stalls at once
"""


@dataclass(frozen=True, kw_only=True)
class ScavengingCommand(OutputOptions):
    """Time to a token budget with extra learners that come and go, relative to none: decoupled, and data-parallel that
    stalls to reconfigure. What is assumed, and how it was fitted to the published figures: docs/simulate.md.

    figures (means over --runs seeds):
      share                     extra compute on offer, relative to that of the learners that are always there
      decoupled, data_parallel  time to the budget, relative to that without extra learners; ..._h: hours
      spread                    of the seeds, largest less smallest, relative as above; whichever kind's is more
      changes, stalled          data-parallel: times that it reconfigured; share of its time that it stood still
      off                       with --published: how far from the published figures, as a share; whichever is more"""

    tokens: str = "1T"  # the budget
    rate: str = "125k"  # tokens a second of one learner
    learners: int = Fleet.learners  # M: always there
    shares: tuple[str, ...] = tuple(f"{share:g}" for share in PUBLISHED)  # extra compute on offer, relative to theirs
    extra_learners: Maybe[int] = Fleet.extra_learners  # in which it comes; none: as large as the others
    efficiency: float = Fleet.efficiency  # how much of an extra learner's compute becomes progress
    offered: float = Fleet.offered  # share of a cycle in which the extra learners are on offer
    window: str = f"{Fleet.window_s:g}s"  # a cycle: first without them, then with them
    clock: Clock = Fleet.clock  # what the cycles go by: time, or the tokens that the learners alone process in such a time
    stay: str = "45min"  # how long an extra learner stays, on average, before another takes its place
    join: str = "1min"  # decoupled: from its coming to its first step
    stall: str = "11min"  # data-parallel: all stand still for so long when members change
    checkpoint: str = "10min"  # data-parallel: takes changes up after so much training; 0: at once
    runs: int = 8  # of each, with seeds of their own; their mean is shown
    seed: int = Fleet.seed  # of the first one
    published: bool = False  # show the published figures beside those of the same shares


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(ScavengingCommand, arguments, command="simulate scavenging", examples=EXAMPLES)
    names = {field.name: field.name for field in fields(command)} | {"share": "shares"}
    with as_typed(command, names | {f"{name}_s": name for name in TIMES}):
        if not 1 <= command.runs <= MOST_RUNS:
            raise cannot_work("runs", command.runs, f"give 1 to {MOST_RUNS}")
        fleets = [fleet_of(command, number("shares", share)) for share in listed("shares", command.shares)]
    jobs = [(fleet, seed) for fleet in fleets for seed in range(command.seed, command.seed + command.runs)]
    outcomes: dict[float, list[tuple[Outcome, Outcome]]] = {}
    for fleet, seed in shown(jobs, "training with extra learners"):
        one = replace(fleet, seed=seed)
        outcomes.setdefault(fleet.share, []).append((decoupled(one), elastic(one)))
    rows = [_row(fleet, outcomes[fleet.share], published=command.published) for fleet in fleets]
    about = f"{fleets[0].learners} learners alone need {fleets[0].base_s / 3600:,.1f} h for {command.tokens} tokens"
    emit(command, "scavenging", rows, text=f"{about}; time relative to that:\n{table(rows)}", more={"about": about},
         draw=lambda: picture(about, rows))  # fmt: skip
    return 0


def fleet_of(command: ScavengingCommand, share: float) -> Fleet:
    """Raises ConfigError for what cannot work, before anything is simulated."""
    names = ("learners", "extra_learners", "efficiency", "offered", "clock", "seed")
    rest: dict[str, Any] = {name: getattr(command, name) for name in names}
    rest |= {f"{name}_s": seconds(name, getattr(command, name), zero=name not in ("window", "stay")) for name in TIMES}
    return Fleet(share=share, tokens=number("tokens", command.tokens), rate=number("rate", command.rate), **rest)


def _row(fleet: Fleet, outcomes: list[tuple[Outcome, Outcome]], *, published: bool) -> dict[str, Any]:
    free, held = zip(*outcomes, strict=True)
    times = [[outcome.seconds / fleet.base_s for outcome in kind] for kind in (free, held)]
    row = {
        "share": fleet.share, "extra_learners": fleet.extras, "decoupled": fmean(times[0]), "data_parallel": fmean(times[1]),
        "decoupled_h": fmean(times[0]) * fleet.base_s / 3600, "data_parallel_h": fmean(times[1]) * fleet.base_s / 3600,
        "spread": max(max(kind) - min(kind) for kind in times), "changes": fmean(outcome.changes for outcome in held),
        "stalled": fmean(outcome.stalled / outcome.seconds for outcome in held),
    }  # fmt: skip
    if published:
        said = dict(zip(("decoupled", "data_parallel"), PUBLISHED.get(fleet.share, ()), strict=False))
        row |= {f"published_{name}": said.get(name) for name in ("decoupled", "data_parallel")}
        row["off"] = max((abs(row[name] / figure - 1) for name, figure in said.items()), default=None)
    return row
