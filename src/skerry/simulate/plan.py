"""Plans: every sensible way to train a model on a fleet, with its time, cost, goodput and traffic (advice.py: which to take).

Rules, which docs/plan.md gives reasons for:
- A choice is a set of sites, how many learners each of them has, and a method. H, tau and the codec follow: for decoupled the
  first ones in the order of preference whose traffic all links carry in time; for synchronous ones the first that let 95 % of
  the time compute, else those that let most.
- Times come from chips, speed, availability, goodput (simulate/goodput.py) and bandwidth (simulate/bandwidth.py). The model's
  quality is not predicted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, product

from skerry.core.policy import ALL, Policy
from skerry.core.presets import preset
from skerry.errors import cannot_work
from skerry.simulate import goodput
from skerry.simulate.bandwidth import Decoupled, Job, Steady, method
from skerry.simulate.fleet import Fleet, Site
from skerry.simulate.returns import Returns
from skerry.world.links import Link

DATA_PARALLEL = "data-parallel"
METHODS = ("decoupled", "streaming", "diloco", DATA_PARALLEL)
NEAR = 1.01
COMPUTING = 0.95
FAILURES = 2000
"""That each goodput is reckoned from."""
DAY, GBIT = 86400.0, 1e9


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to train, and what is to be expected of it."""

    method: str
    sites: tuple[Site, ...]
    per_site: int  # learners
    policy: Policy | None = field(repr=False)  # none: data-parallel
    days: float
    cost: float
    goodput: float  # share of the chips' time that trains while nothing is waited for
    utilisation: float  # share of time not spent waiting for others
    kept: float  # share of the tokens that is not overwritten between hand-over and take-over
    traffic: float  # bit/s of the busiest site, busier direction, on average
    syncer: float  # bit/s of the syncer, busier direction, on average

    @property
    def learners(self) -> int:
        """M."""
        return self.per_site * len(self.sites)

    @property
    def names(self) -> str:
        """Of its sites."""
        return " ".join(site.name for site in self.sites)


class Planner:
    """All reckoning for one fleet. Raises ConfigError where the fleet or a policy cannot work."""

    def __init__(self, fleet: Fleet) -> None:
        fleet.check()
        self.fleet = fleet = replace(fleet, choices=fleet.choices.distinct())
        most = max(fleet.choices.learners_per_site) * len(fleet.sites)
        if fleet.choices.quorum > most:
            raise cannot_work("choices.quorum", fleet.choices.quorum, f"the fleet has {most} learners at most")
        self.policies = {name: list(self._policies(name)) for name in METHODS if name != DATA_PARALLEL}

    def _policies(self, name: str) -> Iterator[Policy]:
        """Those that may be chosen, in the order of preference. What is done during the overlap is overwritten in decoupled
        runs: there it is bounded."""
        may = self.fleet.choices
        whole, most = name == "diloco", may.max_overlap if name == "decoupled" else 1.0
        for interval, codec, overlap in product(may.intervals, may.codecs_down, (0,) if whole else may.overlaps):
            if overlap <= most * interval and overlap < interval:
                yield preset(name, interval=interval, overlap=overlap, fragments=1 if whole else may.fragments,
                             quorum=may.quorum if name == "decoupled" else ALL, codec_up=may.codec_up, codec_down=codec,
                             tokens=int(self.fleet.model.tokens))  # fmt: skip

    # ------------------------------------------------------------------ all choices

    def choices(self, heard: Callable[[int], None] = lambda done: None) -> list[Choice]:
        """All that can work. `heard` is told when another of `sets` is dealt with."""
        found = []
        ways = [*product(self.fleet.choices.learners_per_site, self.policies), (1, DATA_PARALLEL)]
        for sites in self.sets():
            found += [self.evaluate(name, sites, per_site) for per_site, name in ways]
            heard(1)
        return [choice for choice in found if choice is not None]

    def sets(self) -> list[tuple[Site, ...]]:
        """Every set of sites."""
        sites = self.fleet.sites
        return [some for count in range(1, len(sites) + 1) for some in combinations(sites, count)]

    def evaluate(self, name: str, sites: Sequence[Site], per_site: int) -> Choice | None:
        """That choice; None if it cannot work."""
        if any(site.chips < per_site * self.fleet.choices.min_chips for site in sites):
            return None
        if name == DATA_PARALLEL:
            return self._data_parallel(tuple(sites))
        policy = self.prefer(self.policies[name], sites, per_site)
        return None if policy is None else self.weigh(name, policy, sites, per_site)

    def prefer(self, policies: Sequence[Policy], sites: Sequence[Site], per_site: int) -> Policy | None:
        """The first that is good enough. Of synchronous ones else the one with which most of the time computes."""
        if not policies[0].synchronous:
            return next((policy for policy in policies if self.carried(policy, sites, per_site)), None)
        shares = ((self.computing(policy, sites, per_site), policy) for policy in policies)
        best, computing = policies[0], -1.0
        for share, policy in shares:
            if share > computing:
                best, computing = policy, share
            if share >= COMPUTING:
                break
        return best

    def weigh(self, name: str, policy: Policy, sites: Sequence[Site], per_site: int) -> Choice | None:
        """What that policy would bring, whether or not the links carry its traffic. None: there are not K learners."""
        return (self._decoupled if name == "decoupled" else self._synchronous)(name, policy, tuple(sites), per_site)

    def _decoupled(self, name: str, policy: Policy, sites: tuple[Site, ...], per_site: int) -> Choice | None:
        run_s = self.run_step(sites, per_site, policy.quorum)
        if run_s is None:
            return None
        form = method(policy, self._job(run_s))
        rates = {site: per_site * self._batch / self.step_s(site, per_site) * site.availability * self.goodput(site, per_site)
                 for site in sites}  # fmt: skip
        rate = sum(rates.values())
        lost = sum(rates[site] * self._lag_s(policy, site, per_site, len(sites)) / (policy.interval * run_s) for site in sites)
        busier = 8 * max(form.traffic.up, form.traffic.down) / policy.interval / run_s
        return self._choice(name, sites, per_site, policy, rate=rate, utilisation=1.0,
                            goodput_=_mean(sites, lambda site: self.goodput(site, per_site)),
                            kept=max(0.0, 1 - lost / rate), busier=busier)  # fmt: skip

    def _synchronous(self, name: str, policy: Policy, sites: tuple[Site, ...], per_site: int) -> Choice:
        """All wait for the slowest learner and link, and for who stalls."""
        run_s = self.slowest(sites, per_site)
        computing, share = self.computing(policy, sites, per_site), self.elastic(sites)
        form = method(policy, self._job(run_s))
        rate = computing * share * sum(per_site * site.availability for site in sites) * self._batch / run_s
        busier = 8 * max(form.traffic.up, form.traffic.down) / policy.interval / run_s * computing
        lost = policy.overlap / policy.interval * (policy.blend if policy.on_included == "blend" else 1.0)
        return self._choice(name, sites, per_site, policy, rate=rate, utilisation=computing, goodput_=share, kept=1 - lost,
                            busier=busier)  # fmt: skip

    def _data_parallel(self, sites: tuple[Site, ...]) -> Choice:
        """A site is one member of the ring; each has the same batch."""
        run_s = self.slowest(sites, 1)
        links = [self._link(site, 1) for site in sites]
        worst = Link(latency=max(link.latency for link in links), bandwidth=min(link.bandwidth for link in links))
        steady = method(None, replace(self._job(run_s), sites=len(sites))).steady(worst)
        share = self.elastic(sites)
        rate = steady.utilisation * share * sum(site.availability for site in sites) * self._batch / run_s
        return self._choice(DATA_PARALLEL, sites, 1, None, rate=rate, utilisation=steady.utilisation, goodput_=share, kept=1.0,
                            busier=steady.up)  # fmt: skip

    def _choice(self, name: str, sites: tuple[Site, ...], per_site: int, policy: Policy | None, *, rate: float,
                utilisation: float, goodput_: float, kept: float, busier: float) -> Choice:  # fmt: skip
        days = self.fleet.model.tokens / rate / DAY
        hourly = sum(site.chips * site.price * site.availability for site in sites)
        return Choice(method=name, sites=sites, per_site=per_site, policy=policy, days=days, cost=24 * days * hourly,
                      goodput=goodput_, utilisation=utilisation, kept=kept, traffic=per_site * busier,
                      syncer=per_site * len(sites) * busier if policy else 0.0)  # fmt: skip

    # ------------------------------------------------------------------ what they are made of

    @property
    def _batch(self) -> float:
        return self.fleet.model.batch

    def step_s(self, site: Site, per_site: int) -> float:
        """Seconds of a learner's step."""
        return self._batch * self.fleet.model.flops / (site.chips / per_site * site.speed * 1e12)

    def slowest(self, sites: Sequence[Site], per_site: int) -> float:
        """Seconds of the slowest learner's step."""
        return max(self.step_s(site, per_site) for site in sites)

    def run_step(self, sites: Sequence[Site], per_site: int, quorum: int) -> float | None:
        """Seconds in which the run's step advances: those of the K-th fastest learner. None: there are not so many."""
        steps = sorted(self.step_s(site, per_site) for site in sites for _ in range(per_site))
        return steps[quorum - 1] if quorum <= len(steps) else None

    def _job(self, step_s: float) -> Job:
        return Job(params=int(self.fleet.model.params), step_s=step_s)

    def _link(self, site: Site, per_site: int, sites: int = 0) -> Link:
        """What each learner of a site has of its link, and of the syncer's, which so many sites share."""
        link, syncer = site.link_, self.fleet.syncer.link_
        share = min(link.bandwidth, syncer.bandwidth / sites if sites else math.inf)
        return Link(latency=link.latency, bandwidth=share * self.fleet.choices.headroom / per_site)

    def carried(self, policy: Policy, sites: Sequence[Site], per_site: int) -> bool:
        """Whether all links carry every round of a decoupled run in time."""
        run_s = self.run_step(sites, per_site, policy.quorum)
        if run_s is None:
            return False
        traffic = method(policy, self._job(run_s)).traffic
        together = 8 * max(traffic.up, traffic.down) / policy.interval / run_s * per_site * len(sites)
        return (together <= self.fleet.syncer.link_.bandwidth * self.fleet.choices.headroom
                and all(self._enough(self.required(policy, site, per_site, run_s), site) for site in sites))  # fmt: skip

    def _enough(self, required: float, site: Site) -> bool:
        return required < math.inf and required <= site.link_.bandwidth

    @cache  # noqa: B019  # one planner a program
    def required(self, policy: Policy, site: Site, per_site: int, run_s: float) -> float:
        """Bandwidth of the site's link, bit/s, with which its learners are in every round of a decoupled run, and answer within
        the overlap, which is as long as the grace may last. Infinite if none does."""
        form = method(policy, self._job(run_s))
        assert isinstance(form, Decoupled)
        latency = site.link_.latency
        spare = policy.overlap * run_s - self.step_s(site, per_site) - 2 * latency
        answer = 8 * form.at_once * form.up / spare if spare > 0 else math.inf
        return max(form.needed(latency, 1.0), answer) * per_site / self.fleet.choices.headroom

    def computing(self, policy: Policy, sites: Sequence[Site], per_site: int) -> float:
        """Share of the time in which a synchronous run does not wait for links."""
        return self.narrowest(policy, sites, per_site)[1].utilisation

    def narrowest(self, policy: Policy, sites: Sequence[Site], per_site: int) -> tuple[Site, Steady]:
        """The site whose link holds a synchronous run up most, and how it does."""
        run_s = self.slowest(sites, per_site)
        found = [(site, self._steady(policy, site, per_site, len(sites), run_s)) for site in sites]
        return min(found, key=lambda pair: pair[1].utilisation)

    @cache  # noqa: B019
    def _steady(self, policy: Policy, site: Site, per_site: int, sites: int, run_s: float) -> Steady:
        return method(policy, self._job(run_s)).steady(self._link(site, per_site, sites))

    def syncer_narrower(self, site: Site, sites: int) -> bool:
        """Whether a site's part of the syncer's link is less than its own link."""
        return self.fleet.syncer.link_.bandwidth / sites < site.link_.bandwidth

    def patience(self, chosen: Choice) -> dict[str, float]:
        """Timeouts of the policy that suit the slowest learner and the narrowest link of a choice: twice what they need, as
        waiting in vain costs less than a last round without them. A learner's link may still be busy with old hand-overs."""
        policy = chosen.policy
        assert policy is not None
        needs = {"round_timeout": 0.0, "sync_timeout": 0.0, "final_timeout": 0.0}
        for site in chosen.sites:
            step, link = self.step_s(site, chosen.per_site), self._link(site, chosen.per_site, len(chosen.sites))
            trip, fragment = step + 2 * link.latency, method(policy, self._job(step)).traffic.up / policy.fragments
            one = 8 * fragment / link.bandwidth
            answer = trip + policy.slots * one
            whole = math.ceil(policy.fragments / policy.slots) * trip + (policy.fragments + policy.slots) * one
            for name, seconds in zip(needs, (answer, policy.interval * step + answer, whole), strict=True):
                needs[name] = max(needs[name], seconds)
        return {name: max(getattr(policy, name), 10.0 * math.ceil(2 * need / 10)) for name, need in needs.items()}

    def _lag_s(self, policy: Policy, site: Site, per_site: int, sites: int) -> float:
        """Seconds from hand-over to take-over."""
        step = self.step_s(site, per_site)
        return method(policy, self._job(step)).steady(self._link(site, per_site, sites)).lag * step

    @cache  # noqa: B019
    def goodput(self, site: Site, learners: int) -> float:
        """Of a site that is there, its learners failing each for itself."""
        return _goodput(site.chips, learners, "decoupled", site.mtbi, site)

    @cache  # noqa: B019
    def elastic(self, sites: tuple[Site, ...]) -> float:
        """Of all chips as one job; slices and returns are those of the site with most failures."""
        chips = sum(site.chips for site in sites)
        failures = sum(site.chips / site.mtbi for site in sites)
        return _goodput(chips, 1, "elastic", chips / failures, max(sites, key=lambda site: site.chips / site.mtbi))

    def lacks(self, policies: Sequence[Policy], site: Site, per_site: int, run_s: float) -> str:
        """What a site lacks for each of these policies, which differ in tau; "" if it lacks nothing for one."""
        need = min(self.required(policy, site, per_site, run_s) for policy in policies)
        if self._enough(need, site):
            return ""
        longest, step_s = max(policy.overlap for policy in policies), self.step_s(site, per_site)
        if longest * run_s <= step_s:
            return f"steps of less than {longest * run_s:.3g} s, the overlap of {longest}, instead of {step_s:.3g} s"
        if need == math.inf:
            return f"less latency than {1000 * site.link_.latency:g} ms"
        return f"{need / GBIT:.3g} Gbit/s instead of {site.link_.bandwidth / GBIT:.3g}"


def coupling(policy: Policy) -> tuple[int, str]:
    """How closely learners are coupled, whatever the overlap."""
    return policy.interval, policy.codec_down


def _goodput(chips: int, learners: int, kind: goodput.Kind, mtbi_h: float, site: Site) -> float:
    daily = chips / learners / (mtbi_h / 24)
    job = goodput.Job(chips=chips, learners=learners, kind=kind, mtbi=mtbi_h * 3600, days=max(1.0, FAILURES / daily),
                      slice_chips=site.slice_chips, returns=Returns(mean=site.back))  # fmt: skip
    return goodput.simulate(job, 0).goodput


def _mean(sites: Sequence[Site], figure: Callable[[Site], float]) -> float:
    """Over what the sites compute."""
    weights = [site.chips * site.speed * site.availability for site in sites]
    return sum(weight * figure(site) for weight, site in zip(weights, sites, strict=True)) / sum(weights)
