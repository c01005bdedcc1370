"""`skerry plan FLEET`: which sites, how many learners, which policy; what it takes, what limits it, and its config.toml."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from skerry.cli.options import parse
from skerry.cli.outputs import OutputOptions, emit, table
from skerry.cli.progress import Bar
from skerry.recipe.tree import TrainConfig
from skerry.report.pictures.plan import picture
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
from skerry.simulate.fleet import read_fleet
from skerry.simulate.plan import GBIT, METHODS, Choice, Planner
from skerry.syncer.config import SyncerConfig

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


def write_config(path: Path, planner: Planner, chosen: Choice) -> None:
    """The chosen run, for `skerry train` and `skerry syncer`. Raises StorageError."""
    assert chosen.policy is not None
    policy = chosen.policy.replace(**planner.patience(chosen))
    planned = TrainConfig(learners=chosen.learners, policy=policy, syncer=SyncerConfig(run_dir=Path("runs/planned")))
    planned.write(path, head=REACHING)
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
