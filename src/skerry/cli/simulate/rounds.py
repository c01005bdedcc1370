"""`skerry simulate rounds`: unequal learners through the real core, without tensors."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from typing import Any

import tyro

from skerry.cli.options import by_key, parse
from skerry.cli.outputs import OutputOptions, emit
from skerry.cli.progress import Bar
from skerry.config.amounts import count, seconds
from skerry.config.tree import assigned, load
from skerry.core.policy import Policy
from skerry.errors import cannot_work
from skerry.report.pictures.rounds import picture
from skerry.simulate.rounds import RoundsConfig, RoundsResult, simulate_rounds
from skerry.simulate.rules import variants
from skerry.world.world import World, parse_speeds

EXAMPLES = """
skerry simulate rounds                                                    eight learners, half of them 18% slower
skerry simulate rounds --speeds 1,0.5 --link "50ms,1Gbit; 100ms,200Mbit"  two kinds of sites
skerry simulate rounds --learners 1000 --rule grace                       about a minute
skerry simulate rounds --fault-rate 0.1 --set world.downtime=300 --rule policy --set policy.quorum=4
"""
SERIES = 16  # links whose traffic over time the JSON holds
MOST_PARAMS = 10**15
FLAGS = {"policy.preset": "preset", "policy.steps": "steps"} | {
    f"world.{name}": name for name in ("learners", "jitter", "link", "faults", "fault_rate", "seed")
}
"""Keys of the tree that have an option of their own."""


@dataclass(frozen=True, kw_only=True)
class RoundsCommand(OutputOptions):
    """Put learners of unequal speed, links and luck through the syncer's and the learners' real core, in virtual time.

    A row for each way to close rounds: K=M (synchronous: learners wait for all), K=1 (no grace) and K=1 with adaptive grace.
    Shares are of the learners' time, virtual_s is in seconds, GB are 1e9 bytes; docs/simulate.md tells what each figure is."""

    learners: int = 8  # how many
    params: str = "1B"  # parameters of the model
    tokens: int = 512  # of a learner's step
    steps: int = 1000  # global steps
    preset: str = "decoupled"  # policy to start from
    rule: str | None = None
    """K=M, K=1 or grace: one row alone; policy: as the policy says; all: the three. None: all, or policy if --set changes what
    they settle themselves (policy.quorum, policy.synchronous, policy.grace)."""
    speeds: tuple[str, ...] = ()  # relative: 1,0.5; fewer than learners are repeated in turn; none: half of the learners 0.82
    jitter: float = 0.1  # spread of step times: standard deviation over mean
    step_time: str = "1s"  # of a step at speed 1
    link: str = ""  # of every learner: LATENCY,BANDWIDTH; several, parted by ";", go to the learners in turn
    faults: str = ""  # what strikes whom when: "kill:2@30s stop:1@5min+20s"
    fault_rate: float = 0.0  # share of the time of each learner there from the start that random kills take away
    seed: int = 0  # of jitter and random faults
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE, any field of policy and world: policy.interval=96"""


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(RoundsCommand, arguments, command="simulate rounds", examples=EXAMPLES)
    policies, world = read_config(command)
    params, results = count("--params", command.params), dict[str, RoundsResult]()
    with Bar(f"{world.learners:,} learners", len(policies)) as bar:

        def reach(share: float) -> None:
            bar.reach(len(results) + share)

        for name, one in policies.items():
            results[name] = simulate_rounds(one, world, params=params, tokens=command.tokens, progress=reach)
    rows = [row(name, result) for name, result in results.items()]
    emit(command, "rounds", rows, draw=lambda: picture(results, world),
         more={"traffic": {name: traffic(result, world) for name, result in results.items()},
               "faults": {name: faults(name, result) for name, result in results.items()}})  # fmt: skip
    return 0


def read_config(command: RoundsCommand) -> tuple[dict[str, Policy], World]:
    """The policies to compare, by the name of their row, and the world: of the flags, --set over them. Raises ConfigError."""
    if count("--params", command.params) > MOST_PARAMS:
        raise cannot_work("--params", command.params, f"give at most {MOST_PARAMS:.0e} parameters")
    given, over = by_key(command, FLAGS), assigned(command.set)
    given["world.step_s"] = seconds("--step-time", command.step_time, zero=False, bare=True)
    if command.speeds:
        given["world.speeds"] = list(parse_speeds(re.sub(r"\s*,\s*|\s+", ",", " ".join(command.speeds).strip())))
    tree = load(RoundsConfig, ("skerry simulate rounds", given), ("--set", over))
    own = [key.removeprefix("policy.") for key in over if key.startswith("policy.")]
    return variants(tree.policy, command.rule, own), tree.world


def row(name: str, result: RoundsResult) -> dict[str, Any]:
    """A line of the table. Tokens are those of all learners; staleness is in versions, bytes are of bodies."""
    figures = result.figures
    return {
        "rule": name, "goodput": figures.goodput, "wait_share": result.wait_share, "load_share": result.load_share,
        "rounds": figures.rounds,
        "skipped": figures.rounds_skipped, "contributors": figures.mean_contributors, "staleness": result.staleness,
        "tokens": figures.tokens_processed, "merged": figures.tokens_merged,
        **{f"lost_{cause}": amount for cause, amount in figures.lost_by_cause.items()},
        "virtual_s": result.virtual_s, "GB_up": figures.bytes_up / 1e9, "GB_down": figures.bytes_down / 1e9,
    }  # fmt: skip


def traffic(result: RoundsResult, world: World) -> dict[str, Any]:
    """Rates over time: of all links together, and of each, the busiest first; series only of so many."""
    flow = result.traffic
    gbit, total = flow.gbit.round(6), flow.sent.sum(axis=0)
    links = []
    for place, link in enumerate(flow.busiest_first()):
        up, down = gbit[:, link].T
        links.append({
            "learner": flow.learners[link], "link_gbit": world.link_of(flow.learners[link]).bandwidth / 1e9,
            "GB_up": int(total[link, 0]) / 1e9, "GB_down": int(total[link, 1]) / 1e9,
            "peak_up_gbit": up.max(), "peak_down_gbit": down.max(),
            **({"up_gbit": up.tolist(), "down_gbit": down.tolist()} if place < SERIES else {}),
        })  # fmt: skip
    up, down = flow.gbit.sum(axis=1).round(6).T
    return {"t_s": list(flow.times), "up_gbit": up.tolist(), "down_gbit": down.tolist(), "links": links}


def faults(name: str, result: RoundsResult) -> dict[str, Any]:
    """What became of the faults; what the run did not live to see is told on stderr besides."""
    if result.unfired:
        print(
            f"skerry: {name}: the run was over after {result.virtual_s:,.0f} s, before {' '.join(result.unfired)}",
            file=sys.stderr,
        )
    return {"struck": result.struck, "missed": result.missed, "unfired": list(result.unfired)}
