"""`skerry simulate rounds`: unequal learners through the real core, without tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tyro

from skerry.cli.canvas import COLOURS, SMALL, TITLE, canvas, png
from skerry.cli.lab import assignment, speeds_of
from skerry.cli.lab_tree import nested
from skerry.cli.options import parse
from skerry.cli.outputs import OutputOptions, emit
from skerry.cli.progress import Bar
from skerry.cli.toml import filled
from skerry.core.policy import ALL, Policy
from skerry.core.presets import preset
from skerry.errors import ConfigError
from skerry.simulate.rounds import RoundsResult, simulate_rounds
from skerry.world.world import World

EXAMPLES = """
skerry simulate rounds                                                    eight learners, half of them 18% slower
skerry simulate rounds --speeds 1,0.5 --link "50ms,1Gbit; 100ms,200Mbit"  two kinds of sites
skerry simulate rounds --learners 1000 --steps 1000 --rule grace
skerry simulate rounds --fault-rate 0.1 --set policy.quorum=4 --set world.downtime=300
"""
RULES = ("K=M", "K=1", "grace")
"""The three policies of the published comparison of unequal hardware."""


@dataclass(frozen=True, kw_only=True)
class RoundsCommand(OutputOptions):
    """Put learners of unequal speed, links and luck through the syncer's and the learners' real core, in virtual time.

    A row for each way to close rounds: K=M (synchronous: learners wait for all), K=1 (no grace) and K=1 with adaptive grace."""

    learners: int = 8  # how many
    params: float = 1e9  # parameters of the model
    tokens: int = 512  # of a learner's step
    steps: int = 1000  # global steps
    preset: str = "decoupled"  # policy to start from
    rule: str = "all"  # K=M, K=1 or grace: one row alone; policy: as the policy says; all: the three
    speeds: str = "1,1,1,1,0.82,0.82,0.82,0.82"  # relative; fewer than learners are repeated in turn
    jitter: float = 0.1  # spread of step times: standard deviation over mean
    step_time: float = 1.0  # seconds of a step at speed 1
    link: str = ""  # LATENCY,BANDWIDTH; several, parted by ";", go to the learners in turn
    faults: str = ""  # what strikes whom when: "kill:2@30s stop:1@45s+20s"
    fault_rate: float = 0.0  # share of each learner's time that random kills take away
    seed: int = 0  # of jitter and random faults
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """KEY=VALUE, any field of policy and world: policy.interval=96"""


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(RoundsCommand, arguments, command="simulate rounds", examples=EXAMPLES)
    policy, world = read_config(command)
    policies = variants(policy, command.rule)
    results = {}
    with Bar(f"{command.learners:,} learners", len(policies)) as bar:
        for done, (name, one) in enumerate(policies.items()):
            results[name] = simulate_rounds(one, world, params=int(command.params), tokens=command.tokens,
                                            progress=lambda share, done=done: bar.reach(done + share))  # fmt: skip
    rows = [row(name, result) for name, result in results.items()]
    emit(command, "rounds", rows, more={"traffic": {name: traffic(result) for name, result in results.items()}},
         draw=lambda: picture(results))  # fmt: skip
    return 0


def read_config(command: RoundsCommand) -> tuple[Policy, World]:
    """Policy and world of the flags, --set over them. Raises ConfigError."""
    if command.params < 1:
        raise ConfigError(f"--params = {command.params:g} cannot work", remedy="give 1 or more parameters")
    speeds = speeds_of(command.speeds)
    world = {"learners": command.learners, "speeds": speeds[: command.learners], "jitter": command.jitter,
             "step_s": command.step_time, "link": command.link, "faults": command.faults, "fault_rate": command.fault_rate,
             "seed": command.seed}  # fmt: skip
    given = nested(dict(map(assignment, command.set)))
    for part in given:
        if part not in ("policy", "world"):
            raise ConfigError(f"--set {part}: there is no such table here", remedy="set fields of policy and world")
    policy = filled(preset(command.preset, steps=command.steps), given.get("policy", {}), "--set", "policy.")
    return policy, filled(World(), {**world, **given.get("world", {})}, "skerry simulate rounds", "world.")


def variants(policy: Policy, rule: str) -> dict[str, Policy]:
    """The policies to compare, by the name of their row."""
    grace = policy.grace or Policy().grace
    known = {
        "K=M": policy.replace(synchronous=True, quorum=ALL),
        "K=1": policy.replace(synchronous=False, quorum=1, overlap=max(1, policy.overlap), grace=0.0),
        "grace": policy.replace(synchronous=False, quorum=1, overlap=max(1, policy.overlap), grace=grace),
        "policy": policy,
    }  # fmt: skip
    if rule == "all":
        return {name: known[name] for name in RULES}
    if rule not in known:
        raise ConfigError(f"--rule {rule!r} is none that there is", remedy=f"choose one of all, {', '.join(known)}")
    return {rule: known[rule]}


def row(name: str, result: RoundsResult) -> dict[str, Any]:
    """A line of the table. Tokens are those of all learners; staleness is in versions, bytes are of bodies."""
    figures = result.figures
    return {
        "rule": name, "goodput": figures["goodput"], "wait_share": result.wait_share, "rounds": figures["rounds"],
        "skipped": figures["rounds_skipped"], "contributors": figures["mean_contributors"], "staleness": result.staleness,
        "tokens": figures["tokens_processed"], "merged": figures["tokens_merged"],
        **{f"lost_{cause}": amount for cause, amount in figures["lost_by_cause"].items()},
        "virtual_s": result.virtual_s, "GB_up": figures["bytes_up"] / 1e9, "GB_down": figures["bytes_down"] / 1e9,
    }  # fmt: skip


def traffic(result: RoundsResult) -> list[dict[str, Any]]:
    """Bytes over time: of all links, and of the link with most."""
    samples = []
    for at, links in result.traffic:
        totals = [up + down for up, down in links.values()]
        samples.append({"t": at, "up": sum(up for up, _ in links.values()), "down": sum(down for _, down in links.values()),
                        "busiest": max(totals, default=0)})  # fmt: skip
    return samples


def picture(results: dict[str, RoundsResult]) -> bytes:
    """Where the learners' time went, who contributed, and the traffic over time. Raises ConfigError without matplotlib."""
    figure, (shares, contributors, links) = canvas("Rounds of unequal learners", panels=3, size=(13, 4.5))
    names = list(results)
    useful = [100 * results[name].figures["goodput"] for name in names]
    waited = [100 * results[name].wait_share for name in names]
    shares.bar(names, useful, color=COLOURS[2], label="trained to a purpose")
    shares.bar(names, waited, bottom=useful, color=COLOURS[4], label="waited for others")
    shares.set_title("Share of the learners' time, %", **TITLE)
    shares.legend(**SMALL)
    contributors.bar(names, [results[name].figures["mean_contributors"] for name in names], color=COLOURS[0])
    contributors.set_title("Contributors to a round, mean", **TITLE)
    for name, colour in zip(names, COLOURS, strict=False):
        samples = traffic(results[name])
        times = [0.0, *(sample["t"] for sample in samples)]
        rates = [8 * (sample["up"] + sample["down"]) / 1e9 / max(sample["t"] - before, 1e-9)
                 for sample, before in zip(samples, times, strict=False)]  # fmt: skip
        links.step(times[1:], rates, where="pre", color=colour, linewidth=1, label=name)
    links.set_title("Traffic of all links, Gbit/s", **TITLE)
    links.set_xlabel("seconds")
    links.set_ylim(bottom=0)
    links.legend(**SMALL)
    return png(figure)
