"""What follows from all choices of a plan: the one to take, which figure limits it, and what more would bring."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from skerry.core.policy import Policy
from skerry.errors import ConfigError, cannot_work
from skerry.simulate.fleet import GoalPart, Site
from skerry.simulate.plan import GBIT, METHODS, NEAR, Choice, Planner, coupling


def take(choices: Sequence[Choice], goal: GoalPart) -> Choice:
    """The one that the goal asks for. Raises ConfigError that says how far the nearest one is from it."""
    own = [choice for choice in choices if choice.policy is not None]
    within = [choice for choice in own if choice.days <= goal.max_days and choice.cost <= goal.max_cost]
    if not within:
        raise _out_of_reach(own, goal)
    value = asked(goal)
    best = min(map(value, within))
    near = [choice for choice in within if value(choice) <= best * NEAR]
    return min(near, key=lambda choice: (METHODS.index(choice.method), choice.learners, value(choice), choice.cost))


def asked(goal: GoalPart) -> Callable[[Choice], float]:
    """What should be least: days, or the cost."""
    return (lambda choice: choice.days) if goal.least == "time" else (lambda choice: choice.cost)


def _out_of_reach(choices: Sequence[Choice], goal: GoalPart) -> ConfigError:
    fastest = min(choices, key=lambda choice: choice.days)
    cheapest = min(choices, key=lambda choice: choice.cost)
    if fastest.days > goal.max_days:
        allowed = f"the fastest choice ({fastest.names}) takes {fastest.days:.4g} days"
        return cannot_work("goal.max_days", goal.max_days, allowed)
    if cheapest.cost > goal.max_cost:
        allowed = f"the cheapest choice ({cheapest.names}) costs {cheapest.cost:,.0f}"
        return cannot_work("goal.max_cost", goal.max_cost, allowed)
    least = min((choice for choice in choices if choice.days <= goal.max_days), key=lambda choice: choice.cost)
    allowed = f"what ends within goal.max_days = {goal.max_days:g} costs {least.cost:,.0f} at least ({least.names})"
    return cannot_work("goal.max_cost", goal.max_cost, allowed)


def front(choices: Sequence[Choice]) -> list[Choice]:
    """Those that no other one is both faster and cheaper than, fastest first."""
    found: list[Choice] = []
    for choice in sorted(choices, key=lambda choice: (choice.days, choice.cost)):
        if not found or choice.cost < found[-1].cost:
            found.append(choice)
    return found


@dataclass(frozen=True)
class More:
    """What a change would bring. None: it could not work."""

    change: str
    choice: Choice | None


def one_more(planner: Planner, chosen: Choice) -> list[More]:
    """With one more Gbit/s at each site of the choice and at all of them, and with a twin of each site of the fleet."""
    found, narrow = [], [site for site in chosen.sites if site.link_.bandwidth < math.inf]
    for name, which in [*((site.name, [site]) for site in narrow), *([("each site", narrow)] if len(narrow) > 1 else [])]:
        sites = [_wider(site) if site in which else site for site in chosen.sites]
        found.append(More(f"1 Gbit/s at {name}", planner.evaluate(chosen.method, sites, chosen.per_site)))
    for site in planner.fleet.sites:
        twin = replace(site, name=f"{site.name}'")
        found.append(More(f"a site like {site.name}",
                          planner.evaluate(chosen.method, [*chosen.sites, twin], chosen.per_site)))  # fmt: skip
    return found


def _wider(site: Site) -> Site:
    return replace(site, link=f"{site.link_.latency!r}s,{site.link_.bandwidth + GBIT!r}bit")


def limits(planner: Planner, chosen: Choice) -> str:
    """Which figure keeps the choice from being better."""
    assert chosen.policy is not None
    if chosen.method != "decoupled":
        slowest = max(chosen.sites, key=lambda site: planner.step_s(site, chosen.per_site))
        return f"the speed of {slowest.name}, for which all wait; links take {100 * (1 - chosen.utilisation):.3g} % of the time"
    first = planner.policies[chosen.method][0]
    if coupling(chosen.policy) == coupling(first):
        return "computing: the links carry the closest coupling that may be chosen, so only more or faster chips save time"
    run_s = planner.run_step(chosen.sites, chosen.per_site, chosen.policy.quorum)
    assert run_s is not None
    closest = [policy for policy in planner.policies[chosen.method] if coupling(policy) == coupling(first)]
    why = _lacking(planner, chosen.sites, closest, chosen.per_site, lambda site: run_s)
    return f"computing, which decides the time; what keeps H from {first.interval} with {first.codec_down} down is: {why}"


def why_not_decoupled(planner: Planner) -> str:
    """Why no set of sites can train decoupled, where that is so."""
    policies, per_site = planner.policies["decoupled"], min(planner.fleet.choices.learners_per_site)
    last = policies[-1]
    loosest = [policy for policy in policies if coupling(policy) == coupling(last)]
    why = _lacking(planner, planner.fleet.sites, loosest, per_site, lambda site: planner.step_s(site, per_site))
    return f"no decoupled run: even with H = {last.interval} and {last.codec_down} down {why}"


def _lacking(planner: Planner, sites: Sequence[Site], policies: Sequence[Policy], per_site: int,
             run_s: Callable[[Site], float]) -> str:  # fmt: skip
    found = [f"{site.name} would need {lacks}" for site in sites
             if (lacks := planner.lacks(policies, site, per_site, run_s(site)))]  # fmt: skip
    return "; ".join(found) or "the syncer's link, which all learners share, is too narrow"


def quorums(planner: Planner, chosen: Choice) -> list[dict[str, Any]]:
    """For K = 1, half of the learners, and all: the run's step, and the share of time in which so many are there."""
    there = _counts(chosen.sites, chosen.per_site)
    rows = []
    for quorum in sorted({1, max(1, chosen.learners // 2), chosen.learners}):
        rows.append({"K": quorum, "run_step_s": planner.run_step(chosen.sites, chosen.per_site, quorum),
                     "rounds_possible": sum(share for count, share in there.items() if count >= quorum)})  # fmt: skip
    return rows


def _counts(sites: Sequence[Site], per_site: int) -> dict[int, float]:
    """How likely it is that so many learners are there; a site's come and go together."""
    found = {0: 1.0}
    for site in sites:
        then: dict[int, float] = {}
        for count, share in found.items():
            then[count] = then.get(count, 0.0) + share * (1 - site.availability)
            then[count + per_site] = then.get(count + per_site, 0.0) + share * site.availability
        found = then
    return found
