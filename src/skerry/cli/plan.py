"""`skerry plan FLEET`: which sites, how many learners, which policy; what it takes, what limits it, and its config.toml."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from skerry.cli.canvas import COLOURS, SMALL, TITLE, canvas, png
from skerry.cli.options import parse
from skerry.cli.outputs import OutputOptions, emit, table
from skerry.cli.progress import Bar
from skerry.cli.toml import filled, read, write
from skerry.errors import ConfigError
from skerry.simulate.advice import More, asked, front, limits, one_more, quorums, take, why_not_decoupled
from skerry.simulate.fleet import Fleet, Site
from skerry.simulate.plan import GBIT, METHODS, Choice, Planner

NEEDED = ("chips", "speed")
EXAMPLES = """
skerry plan examples/fleet.toml                  the plan, its figures, and runs/plan/config.toml
skerry plan fleet.toml --out plans/march --json
skerry train --config runs/plan/config.toml      the chosen policy on this machine
skerry syncer --config runs/plan/config.toml     the syncer of the real thing
"""


@dataclass(frozen=True, kw_only=True)
class PlanCommand(OutputOptions):
    """Compare the ways to train a model on a fleet (which sites, how many learners, H, tau, codec) by their time, cost, goodput
    and traffic. Says which figure limits the chosen one, what one more site or Gbit/s would bring, and writes its config.toml.
    The file is described in docs/plan.md."""

    fleet: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FLEET")]
    """TOML file with the model, the sites and the goal."""
    out: Path | None = Path("runs/plan")  # folder for config.toml, plan.json, plan.csv and the picture plan.png


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(PlanCommand, arguments, command="plan", examples=EXAMPLES)
    planner = Planner(read_fleet(command.fleet))
    with Bar("weighing sets of sites", len(planner.sets())) as bar:
        choices = planner.choices(bar.advance)
    chosen = take(choices, planner.fleet.goal)
    more = [_more_row(one, chosen) for one in one_more(planner, chosen)]
    advice = {"chosen": _row(chosen), "limit": limits(planner, chosen), "sites": _site_rows(planner, chosen), "more": more,
              "quorums": quorums(planner, chosen)}  # fmt: skip
    emit(command, "plan", [{**_row(choice), "chosen": choice is chosen} for choice in choices],
         text=_text(planner, choices, chosen, advice), more=advice, draw=lambda: _picture(choices, chosen))  # fmt: skip
    if command.out is not None:
        write_config(command.out / "config.toml", planner, chosen)
    return 0


def read_fleet(path: Path) -> Fleet:
    """The file. Raises ConfigError for unknown keys, wrong types, and what a site cannot do without."""
    tables = read(path)
    listed = tables.pop("sites", [])
    if not isinstance(listed, list) or not all(isinstance(site, dict) for site in listed):
        raise ConfigError(f"{path}: sites is no list of tables", remedy="write [[sites]] above the keys of each site")
    sites = []
    for number, site in enumerate(listed):
        where = f"sites.{site.get('name', number)}"
        for key in NEEDED:
            if key not in site:
                raise ConfigError(f"{path}: {where} has no {key}", remedy=f"every site needs {' and '.join(NEEDED)}")
        sites.append(filled(Site(name=str(number), chips=1, speed=1.0), site, str(path), f"{where}."))
    fleet = replace(filled(Fleet(), tables, str(path)), sites=tuple(sites))
    for key in ("params", "tokens"):
        if key not in tables.get("model", {}):
            raise ConfigError(f"{path}: model.{key} is missing", remedy="write it into the table [model]")
    return fleet


def write_config(path: Path, planner: Planner, chosen: Choice) -> None:
    """The chosen run, for `skerry train` and `skerry syncer`. Raises StorageError."""
    from skerry.cli.tree import TrainConfig  # late: it brings torch
    from skerry.syncer.config import SyncerConfig

    assert chosen.policy is not None
    patience = 10.0 * math.ceil(max(planner.step_s(site, chosen.per_site) for site in chosen.sites))
    policy = replace(chosen.policy, round_timeout=max(chosen.policy.round_timeout, patience),
                     final_timeout=max(chosen.policy.final_timeout, patience))  # fmt: skip
    write(path, TrainConfig(learners=chosen.learners, policy=policy, syncer=SyncerConfig(run_dir=Path("runs/planned"))))


def _row(choice: Choice) -> dict[str, Any]:
    policy = choice.policy
    return {
        "method": choice.method, "sites": choice.names, "M": choice.learners,
        **{short: getattr(policy, name) if policy else None
           for short, name in (("H", "interval"), ("P", "fragments"), ("tau", "overlap"), ("K", "quorum"), ("up", "codec_up"),
                               ("down", "codec_down"))},
        "days": choice.days, "cost": choice.cost, "goodput": choice.goodput, "utilisation": choice.utilisation,
        "kept": choice.kept, "site_gbit": choice.traffic / GBIT, "syncer_gbit": choice.syncer / GBIT,
    }  # fmt: skip


def _site_rows(planner: Planner, chosen: Choice) -> list[dict[str, Any]]:
    return [{"site": site.name, "learners": chosen.per_site, "step_s": planner.step_s(site, chosen.per_site),
             "goodput": planner.goodput(site, chosen.per_site), "availability": site.availability,
             "link_gbit": site.link_.bandwidth / GBIT, "used": chosen.traffic / site.link_.bandwidth,
             "cost": 24 * chosen.days * site.chips * site.price * site.availability} for site in chosen.sites]  # fmt: skip


def _more_row(more: More, chosen: Choice) -> dict[str, Any]:
    choice, policy = more.choice, more.choice.policy if more.choice else None
    return {"one more": more.change, "days": choice.days if choice else None, "cost": choice.cost if choice else None,
            "saves_days": chosen.days - choice.days if choice else None, "H": policy.interval if policy else None,
            "tau": policy.overlap if policy else None, "down": policy.codec_down if policy else None,
            "kept": choice.kept if choice else None}  # fmt: skip


def _text(planner: Planner, choices: Sequence[Choice], chosen: Choice, advice: dict[str, Any]) -> str:
    """The plan for the terminal: with it, the best that each method could do for the same goal."""
    goal, model = planner.fleet.goal, planner.fleet.model
    others = [min(own, key=asked(goal)) for name in METHODS if (own := [
        choice for choice in choices if choice.method == name and choice.sites == chosen.sites])]  # fmt: skip
    wanted = f"least {goal.least}" + "".join(f", {name} {value:,g}" for name, value in (
        ("at most days", goal.max_days), ("at most cost", goal.max_cost)) if value < float("inf"))  # fmt: skip
    return "\n".join([
        f"{model.params:.4g} parameters, {model.tokens:.4g} tokens; {wanted}; {len(choices)} choices",
        "", "the plan:", table([advice["chosen"]]), table(advice["sites"]), "", f"limited by {advice['limit']}",
        "", "on the same sites, by each method:", table([_row(choice) for choice in others]),
        *([] if any(choice.method == "decoupled" for choice in choices) else [why_not_decoupled(planner)]),
        "", "faster for more, or cheaper for longer (none is both faster and cheaper than these):",
        table([_row(choice) for choice in front([choice for choice in choices if choice.policy])]),
        "", "what one more would bring to the plan:", table(advice["more"]),
        "", "other quorums, on the same sites:", table(advice["quorums"]),
    ])  # fmt: skip


def _picture(choices: Sequence[Choice], chosen: Choice) -> bytes:
    figure, (axes,) = canvas("Plan: cost against time", size=(9, 6))
    for name, colour in zip(METHODS, COLOURS, strict=False):
        own = [choice for choice in choices if choice.method == name]
        days, costs = [choice.days for choice in own], [choice.cost for choice in own]
        axes.scatter(days, costs, s=18, color=colour, alpha=0.5, label=name)
    best = front([choice for choice in choices if choice.policy])
    axes.step([choice.days for choice in best], [choice.cost for choice in best], where="post", color="#555555", linewidth=0.9,
              label="none is both faster and cheaper")  # fmt: skip
    label = f"the plan: {chosen.names}, M = {chosen.learners}"
    axes.plot(chosen.days, chosen.cost, "*", color="black", markersize=16, label=label)
    axes.set_xscale("log")
    if min(choice.cost for choice in choices) > 0:
        axes.set_yscale("log")
    axes.set_title("A point for each set of sites, learners per site and method", **TITLE)
    axes.set_xlabel("days")
    axes.set_ylabel("cost")
    axes.legend(**SMALL)
    return png(figure)
