"""`skerry plan FLEET`: which sites, how many learners, which policy; what it takes, what limits it, and its config.toml."""

from __future__ import annotations

import sys
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
from skerry.simulate.advice import (
    More,
    Neighbour,
    front,
    limits,
    neighbours,
    one_more,
    simplest,
    take,
    why_not,
    why_not_decoupled,
)
from skerry.simulate.fleet import Fleet, Site
from skerry.simulate.plan import GBIT, METHODS, Choice, Planner

NEEDED = ("chips", "speed")
FAR = 3.0  # times the longest and the dearest choice that could be sensible
BESIDE = ("instead", "tau", "days", "cost", "goodput", "kept", "site_gbit", "why_not")
EXAMPLES = """
skerry plan examples/fleet.toml                  the plan, its figures, and runs/plan/config.toml
skerry plan fleet.toml --out plans/march --json
skerry train --config runs/plan/config.toml --policy.tokens 2000000   its policy tried on this machine, with a small model
skerry syncer --config runs/plan/config.toml --host 0.0.0.0 --port 7000 --tls.cert c.pem --tls.key k.pem   the real thing
"""
REACHING = """\
# The syncer of this file listens on this machine alone. For learners at other sites give it, in [syncer] below or on the
# command line, an address of its own, a port that stays, and a certificate for its name:
#     skerry syncer --config THIS_FILE --host 0.0.0.0 --port 7000 --tls.cert cert.pem --tls.key key.pem
# It refuses to listen beyond this machine without TLS, unless insecure = true says that the network itself is trusted.
"""


@dataclass(frozen=True, kw_only=True)
class PlanCommand(OutputOptions):
    """Compare the ways to train a model on a fleet (which sites, how many learners, H, P, tau, codec, K) by their time, cost,
    goodput and traffic. Says which figure limits the chosen one, what one more site or Gbit/s would bring, and writes its
    config.toml. The file is described in docs/plan.md."""

    fleet: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FLEET")]
    """TOML file with the model, the sites and the goal."""
    out: Path | None = Path("runs/plan")  # folder for config.toml, plan.json, plan.csv and the picture plan.png


def main(arguments: list[str]) -> int:
    """The command."""
    command = parse(PlanCommand, arguments, command="plan", examples=EXAMPLES)
    planner = Planner(read_fleet(command.fleet))
    with Bar("weighing sets of sites", len(planner.sets())) as bar:
        choices = planner.choices(bar.advance)
    chosen = take(planner, choices)
    more = [_more_row(one, chosen) for one in one_more(planner, chosen)]
    near = [_neighbour_row(one) for one in neighbours(planner, chosen)]
    advice = {"chosen": _row(chosen), "limit": limits(planner, chosen), "sites": _site_rows(planner, chosen), "more": more,
              "neighbours": near}  # fmt: skip
    rows = [{**_row(choice), "chosen": choice is chosen, "why_not": why_not(choice, chosen, planner.fleet.goal)}
            for choice in choices]  # fmt: skip
    emit(command, "plan", [*rows, *({name: row.get(name, False) for name in rows[0]} for row in near)],
         text=_text(planner, choices, chosen, advice), more=advice, draw=lambda: picture(choices, chosen))  # fmt: skip
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
    policy = chosen.policy.replace(**planner.patience(chosen))
    planned = TrainConfig(learners=chosen.learners, policy=policy, syncer=SyncerConfig(run_dir=Path("runs/planned")))
    write(path, planned, head=REACHING)
    print(f"{path} listens on this machine alone; for other sites, its first lines say what to set", file=sys.stderr)


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


def _neighbour_row(near: Neighbour) -> dict[str, Any]:
    return {"instead": near.change, **_row(near.choice), "why_not": near.why}


def _more_row(more: More, chosen: Choice) -> dict[str, Any]:
    choice, policy = more.choice, more.choice.policy if more.choice else None
    return {"one more": more.change, "days": choice.days if choice else None, "cost": choice.cost if choice else None,
            "saves_days": chosen.days - choice.days if choice else None, "H": policy.interval if policy else None,
            "tau": policy.overlap if policy else None, "down": policy.codec_down if policy else None,
            "kept": choice.kept if choice else None}  # fmt: skip


def _text(planner: Planner, choices: Sequence[Choice], chosen: Choice, advice: dict[str, Any]) -> str:
    """The plan for the terminal: with it, the best that each method could do for the same goal."""
    goal, model = planner.fleet.goal, planner.fleet.model
    others = [simplest(own, goal) for name in METHODS if (own := [
        choice for choice in choices if choice.method == name and choice.sites == chosen.sites])]  # fmt: skip
    wanted = f"least {goal.least}" + "".join(f", {name} {value:,g}" for name, value in (
        ("at most days", goal.max_days), ("at most cost", goal.max_cost)) if value < float("inf"))  # fmt: skip
    return "\n".join([
        f"{model.params:.4g} parameters, {model.tokens:.4g} tokens; {wanted}; {len(choices)} choices",
        "", "the plan:", table([advice["chosen"]]), table(advice["sites"]), "", f"limited by {advice['limit']}",
        "", "on the same sites, by each method:", table([_row(choice) for choice in others]),
        *([] if any(choice.method == "decoupled" for choice in choices) else [why_not_decoupled(planner)]),
        "", "faster for more, or cheaper for longer (none is both faster and cheaper than these; 1 % counts for nothing):",
        table([_row(choice) for choice in front(choices, chosen)]),
        "", "what one more would bring to the plan:", table(advice["more"]),
        "", "the plan with one knob set otherwise (quality is not predicted: what [choices] has first counts as better):",
        table([{name: row[name] for name in BESIDE} for row in advice["neighbours"]]),
    ])  # fmt: skip


def picture(choices: Sequence[Choice], chosen: Choice) -> bytes:
    """A point for each choice. What is so far off that the rest would shrink to a corner is a note in the legend."""
    figure, (axes,) = canvas("Plan: cost against time", size=(9, 6))
    best = front(choices, chosen)
    days, cost = FAR * max(choice.days for choice in best), FAR * max(choice.cost for choice in best)
    shown = [choice for choice in choices if choice.days <= days and choice.cost <= cost]
    for name, mark, size, colour in zip(METHODS, "osd^", (22, 60, 110, 30), COLOURS, strict=False):
        some = [choice for choice in shown if choice.method == name]
        far = [choice.days for choice in choices if choice.method == name and choice not in shown]
        label = name + (f" ({len(far)} beyond the picture: {min(far):,.0f} to {max(far):,.0f} days)" if far else "")
        axes.scatter([choice.days for choice in some], [choice.cost for choice in some], s=size, marker=mark, facecolors="none",
                     edgecolors=colour, linewidths=1.2, label=label)  # fmt: skip
    axes.step([choice.days for choice in best], [choice.cost for choice in best], where="post", color="#555555", linewidth=0.9,
              label="none is both faster and cheaper", zorder=0)  # fmt: skip
    label = f"the plan: {chosen.names}, M = {chosen.learners}"
    axes.plot(chosen.days, chosen.cost, "*", color="black", markersize=14, label=label, zorder=0)
    axes.set_title("A point for each set of sites, learners per site and method", **TITLE)
    axes.set_xlabel("days")
    axes.set_ylabel("cost")
    _scales(axes, shown)
    axes.legend(**SMALL)
    return png(figure)


def _scales(axes: Any, shown: Sequence[Choice]) -> None:
    """Logarithms with plain numbers at their ticks; no scale of cost where nothing costs anything."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    costs = [choice.cost for choice in shown]
    axes.set_xscale("log")
    if min(costs) > 0:
        axes.set_yscale("log")
    elif max(costs) == 0:
        axes.set_ylim(-1, 1)
        axes.set_yticks([0.0])
        axes.set_ylabel("cost (the fleet has no prices)")
    else:
        axes.set_ylim(bottom=-0.03 * max(costs))  # so that the marks of what costs nothing are whole
    for axis in [axes.xaxis] if min(costs) <= 0 else [axes.xaxis, axes.yaxis]:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
        axis.set_minor_formatter(NullFormatter())
