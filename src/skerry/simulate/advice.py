"""What follows from all choices of a plan: the one to take, which figure limits it, and what more would bring."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from skerry.core.policy import CodecName, Policy
from skerry.errors import ConfigError, cannot_work
from skerry.simulate.fleet import MOST_SITES, GoalPart, Site
from skerry.simulate.plan import GBIT, METHODS, NEAR, Choice, Planner, coupling


def take(planner: Planner, choices: Sequence[Choice]) -> Choice:
    """The one that the goal asks for. Raises ConfigError that says how far the nearest one is from it."""
    goal = planner.fleet.goal
    own = [choice for choice in choices if choice.policy is not None]
    within = [choice for choice in own if choice.days <= goal.max_days and choice.cost <= goal.max_cost]
    if not within:
        raise _out_of_reach(planner, own)
    return simplest(within, goal)


def simplest(choices: Sequence[Choice], goal: GoalPart) -> Choice:
    """Of those with the least of what the goal asks for the ones with the least of the other; of these the simplest. Less than
    a hundredth counts as none: so no other choice is noticeably better in one and as good in the other."""
    return min(_least(_least(choices, asked(goal)), _other(goal)), key=_simplicity)


def _simplicity(choice: Choice) -> tuple[float, ...]:
    return METHODS.index(choice.method), choice.learners, choice.days, choice.cost


def _least(choices: Sequence[Choice], value: Callable[[Choice], float]) -> list[Choice]:
    best = min(map(value, choices))
    return [choice for choice in choices if value(choice) <= best * NEAR]


def asked(goal: GoalPart) -> Callable[[Choice], float]:
    """What should be least: days, or the cost."""
    return (lambda choice: choice.days) if goal.least == "time" else (lambda choice: choice.cost)


def _other(goal: GoalPart) -> Callable[[Choice], float]:
    """What should be least besides."""
    return (lambda choice: choice.cost) if goal.least == "time" else (lambda choice: choice.days)


def _out_of_reach(planner: Planner, choices: Sequence[Choice]) -> ConfigError:
    goal = planner.fleet.goal
    fastest = min(choices, key=lambda choice: choice.days)
    cheapest = min(choices, key=lambda choice: choice.cost)
    if fastest.days > goal.max_days:
        allowed = f"the fastest choice ({fastest.names}) takes {fastest.days:.4g} days"
        return cannot_work("goal.max_days", goal.max_days, f"{allowed}, limited by {slowed_by(planner, fastest)}")
    if cheapest.cost > goal.max_cost:
        allowed = f"the cheapest choice ({cheapest.names}) costs {cheapest.cost:,.0f}"
        return cannot_work("goal.max_cost", goal.max_cost, allowed)
    least = min((choice for choice in choices if choice.days <= goal.max_days), key=lambda choice: choice.cost)
    allowed = f"what ends within goal.max_days = {goal.max_days:g} costs {least.cost:,.0f} at least ({least.names})"
    return cannot_work("goal.max_cost", goal.max_cost, allowed)


def why_not(choice: Choice, chosen: Choice, goal: GoalPart) -> str:
    """Why another choice of the same fleet is not the plan."""
    if choice is chosen:
        return ""
    if choice.policy is None:
        return "there to compare with"
    if choice.days > goal.max_days or choice.cost > goal.max_cost:
        return "beyond goal.max_days" if choice.days > goal.max_days else "beyond goal.max_cost"
    words = ("slower", "dearer") if goal.least == "time" else ("dearer", "slower")
    for word, value in zip(words, (asked(goal), _other(goal)), strict=True):
        if value(choice) > value(chosen) * NEAR:
            return f"{100 * (value(choice) / value(chosen) - 1):.3g}% {word}" if value(chosen) else word
    return "not noticeably better, and less simple"


def front(choices: Sequence[Choice], chosen: Choice) -> list[Choice]:
    """The chosen one, and those than which no other one is noticeably faster and cheaper, fastest first. Of those that are
    alike, the simplest."""
    found: list[Choice] = []
    others = [choice for choice in choices if choice.policy and not _alike(choice, chosen)]
    for choice in sorted([chosen, *others], key=lambda choice: (choice.days, choice.cost)):
        if choice is chosen:
            found.append(choice)
        elif not found or choice.cost * NEAR < found[-1].cost:
            found.append(min((other for other in others if _alike(other, choice)), key=_simplicity))
    return found


def _alike(one: Choice, other: Choice) -> bool:
    """No noticeable difference in either figure."""
    return all(max(pair) <= min(pair) * NEAR for pair in ((one.days, other.days), (one.cost, other.cost)))


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
        return slowed_by(planner, chosen)
    first = planner.policies[chosen.method][0]
    if coupling(chosen.policy) == coupling(first):
        return "computing: the links carry the closest coupling that may be chosen, so only more or faster chips save time"
    run_s = planner.run_step(chosen.sites, chosen.per_site, chosen.policy.quorum)
    assert run_s is not None
    closest = [policy for policy in planner.policies[chosen.method] if coupling(policy) == coupling(first)]
    why = _lacking(planner, chosen.sites, closest, chosen.per_site, lambda site: run_s)
    return f"computing, which decides the time; what keeps H from {first.interval} with {first.codec_down} down is: {why}"


def slowed_by(planner: Planner, choice: Choice) -> str:
    """What decides how long it takes: in synchronous runs whatever costs the others more time, a link or a slow site."""
    if choice.policy is None or not choice.policy.synchronous:
        return "computing"
    steps = {site.name: planner.step_s(site, choice.per_site) for site in choice.sites}
    slowest = max(steps, key=steps.__getitem__)
    unequal, share = steps[slowest] / min(steps.values()), f"{100 * (1 - choice.utilisation):.3g} % of the time"
    site, steady = planner.narrowest(choice.policy, choice.sites, choice.per_site)
    if 1 / choice.utilisation > max(unequal, NEAR):
        shared = steady.limit == "bandwidth" and planner.syncer_narrower(site, len(choice.sites))
        return f"the {steady.limit} of {'the syncer' if shared else site.name}'s link, for which all wait {share}"
    if unequal > NEAR:
        return f"the speed of {slowest}, for which all wait; links take {share}"
    return f"computing; links take {share}"


def why_not_decoupled(planner: Planner) -> str:
    """Why no set of sites can train decoupled, where that is so."""
    policies, per_site = planner.policies["decoupled"], min(planner.fleet.choices.learners_per_site)
    last = policies[-1]
    loosest = [policy for policy in policies if coupling(policy) == coupling(last)]
    why = _lacking(planner, planner.fleet.sites, loosest, per_site, lambda site: planner.step_s(site, per_site))
    return f"no decoupled run: even with H = {last.interval} and {last.codec_down} down {why}"


def _lacking(planner: Planner, sites: Sequence[Site], policies: Sequence[Policy], per_site: int,
             run_s: Callable[[Site], float], most: int = MOST_SITES) -> str:  # fmt: skip
    found = [f"{site.name} would need {lacks}" for site in sites
             if (lacks := planner.lacks(policies, site, per_site, run_s(site)))]  # fmt: skip
    more = f" (and {len(found) - most} more)" if len(found) > most else ""
    return "; ".join(found[:most]) + more or "the syncer's link, which all learners share, is too narrow"


@dataclass(frozen=True)
class Neighbour:
    """The chosen run with one of its knobs set otherwise, and why it is not that."""

    change: str
    choice: Choice
    why: str


def neighbours(planner: Planner, chosen: Choice) -> list[Neighbour]:
    """By knob: the other values that may be chosen; for those of which [choices] has one alone, what lies next to it."""
    assert chosen.policy is not None
    may, own = planner.fleet.choices, chosen.policy
    knobs: dict[str, tuple[str, Iterable[int | str]]] = {
        "interval": ("H", may.intervals), "fragments": ("P", {max(1, own.fragments // 2), 2 * own.fragments}),
        "overlap": ("tau", may.overlaps), "codec_up": ("up", get_args(CodecName)), "codec_down": ("down", may.codecs_down),
        "quorum": ("K", sorted({1, max(1, chosen.learners // 2), chosen.learners})),
    }  # fmt: skip
    fixed = {"decoupled": (), "streaming": ("quorum",), "diloco": ("quorum", "fragments", "overlap")}[chosen.method]
    found = []
    for knob, (short, values) in knobs.items():
        for value in values:
            if knob not in fixed and value != getattr(own, knob) and (policies := _with(planner, chosen, knob, value)):
                best = planner.prefer(policies, chosen.sites, chosen.per_site) or policies[0]
                choice = planner.weigh(chosen.method, best, chosen.sites, chosen.per_site)
                if choice is not None:
                    found.append(Neighbour(f"{short} = {value}", choice, _why(planner, chosen, choice, policies, knob)))
    return found


def _with(planner: Planner, chosen: Choice, knob: str, value: int | str) -> list[Policy]:
    """Policies with that value; tau follows H."""
    assert chosen.policy is not None
    if knob == "interval":
        return [policy for policy in planner.policies[chosen.method]
                if coupling(policy) == (value, chosen.policy.codec_down)]  # fmt: skip
    if knob == "overlap" and int(value) >= chosen.policy.interval:
        return []
    return [chosen.policy.replace(**{knob: value})]


def _why(planner: Planner, chosen: Choice, choice: Choice, policies: Sequence[Policy], knob: str) -> str:
    assert chosen.policy is not None and choice.policy is not None
    may, policy = planner.fleet.choices, choice.policy
    if not policy.synchronous:
        if not planner.carried(policy, chosen.sites, chosen.per_site):
            run_s = planner.run_step(chosen.sites, chosen.per_site, policy.quorum) or 0.0
            return _lacking(planner, chosen.sites, policies, chosen.per_site, lambda site: run_s, most=1)
        if policy.overlap > may.max_overlap * policy.interval:
            return f"may overwrite more than choices.max_overlap = {may.max_overlap:g} of H"
    elif choice.utilisation < chosen.utilisation:
        return f"slower, limited by {slowed_by(planner, choice)}"
    if knob == "quorum":
        there = sum(share for count, share in _counts(chosen.sites, chosen.per_site).items() if count >= policy.quorum)
        return f"choices.quorum is {chosen.policy.quorum}; {policy.quorum} or more are there {100 * there:.3g} % of the time"
    if knob in ("fragments", "codec_up"):
        return f"could work; choices.{knob} is {getattr(chosen.policy, knob)}"
    listed = {"interval": "intervals", "overlap": "overlaps", "codec_down": "codecs_down"}[knob]
    return f"could work; choices.{listed} has {getattr(chosen.policy, knob)} first"


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
