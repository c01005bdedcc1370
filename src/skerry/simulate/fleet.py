"""The fleet that `skerry plan` reads: sites, the model, what may be chosen, and what is wanted. All of it is checked here.

Rule: an error names table, key and value as they stand in the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from skerry.config.checks import not_negative, one_of, positive, share, whole
from skerry.config.toml import filled, read
from skerry.config.tree import Tree, load
from skerry.core.policy import CodecName
from skerry.errors import ConfigError, cannot_work
from skerry.world.links import Link

Aim = Literal["time", "cost"]
MOST_SITES = 10
NEEDED = ("chips", "speed")  # by every site
MOST_FAILURES = 1_000_000  # a day, of all chips: their goodput is reckoned failure by failure
FLOPS_PER_PARAMETER = 6
"""Of a token, forward and backward: Kaplan et al., arXiv 2001.08361."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Chips in one place. Raises ConfigError where a value cannot work."""

    name: str
    chips: int
    speed: float  # TFLOP/s that a chip sustains in training this model
    price: float = 0.0  # of a chip for an hour, in whatever currency
    link: str = ""  # to the syncer, "LATENCY,BANDWIDTH"; empty = neither
    mtbi: float = 8760.0  # hours between two interruptions of one chip, on average
    back: float = 600.0  # seconds until what was interrupted is back, on average
    slice_chips: int = 8  # chips that are interrupted together
    availability: float = 1.0  # share of the time in which the site is there; it is paid for only then

    def __post_init__(self) -> None:
        where = f"sites.{self.name}."
        whole(self, "chips", "slice_chips", where=where)
        positive(self, "speed", "mtbi", where=where)
        not_negative(self, "price", "back", where=where)
        share(self, "availability", where=where, zero=False)
        try:
            Link.parse(self.link)
        except ConfigError as error:
            raise ConfigError(f"sites.{self.name}: {error.message}", remedy=error.remedy) from error

    @cached_property
    def link_(self) -> Link:
        """`link`, read."""
        return Link.parse(self.link)

    @property
    def daily(self) -> float:
        """Interruptions a day, of all its chips."""
        return 24 * self.chips / self.mtbi


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    """What is trained. `params` and `tokens` have to be given."""

    params: float = 0.0  # trainable parameters
    tokens: float = 0.0  # the budget: tokens processed by all learners together
    active: float = 0.0  # parameters that a token meets (mixtures of experts); 0 = all
    batch: float = float(1 << 20)  # tokens of a learner's step

    def check(self) -> None:
        """Raises ConfigError."""
        for name in ("params", "tokens", "batch"):
            value = getattr(self, name)
            if not 1 <= value < 2**63 or value % 1:
                raise cannot_work(f"model.{name}", value, "give a whole number, 1 or more")
        if not 0 <= self.active <= self.params:
            raise cannot_work("model.active", self.active, f"give 0 (all) or more, and at most params ({self.params:g})")

    @property
    def flops(self) -> float:
        """Of one token."""
        return FLOPS_PER_PARAMETER * (self.active or self.params)


@dataclass(frozen=True, kw_only=True)
class ChoicesPart:
    """What may be chosen from; of lists, earlier ones are preferred."""

    learners_per_site: tuple[int, ...] = (1, 2, 4)
    intervals: tuple[int, ...] = (24, 48, 96, 192, 384)  # H
    fragments: int = 24  # P
    overlaps: tuple[int, ...] = (2, 4, 8, 16, 32)  # tau
    max_overlap: float = 0.125  # of H, for decoupled: about so much of the work is overwritten
    quorum: int = 1  # K
    codec_up: CodecName = "bf16"
    codecs_down: tuple[CodecName, ...] = ("fp32", "bf16")
    min_chips: int = 1  # that a learner needs, at least, to hold the model
    headroom: float = 0.8  # share of a link that may be used

    def check(self) -> None:
        """Raises ConfigError. What the policy refuses is found when it is made."""
        for name in ("learners_per_site", "intervals", "overlaps", "codecs_down"):
            if not getattr(self, name):
                raise cannot_work(f"choices.{name}", [], "give at least one")
        for name in ("learners_per_site", "intervals", "overlaps"):
            if min(getattr(self, name)) < 1:
                raise cannot_work(f"choices.{name}", list(getattr(self, name)), "give whole numbers, 1 or more")
        whole(self, "fragments", "quorum", "min_chips", where="choices.")
        share(self, "headroom", "max_overlap", where="choices.", zero=False)
        most = self.max_overlap * max(self.intervals)
        if min(self.overlaps) > most or min(self.overlaps) >= max(self.intervals):
            allowed = f"give one of at most {most:g} (choices.max_overlap of the longest interval), and below the interval"
            raise cannot_work("choices.overlaps", list(self.overlaps), allowed)

    def distinct(self) -> ChoicesPart:
        """The same with nothing twice."""
        once = dict.fromkeys
        return replace(self, learners_per_site=tuple(once(self.learners_per_site)), intervals=tuple(once(self.intervals)),
                       overlaps=tuple(once(self.overlaps)), codecs_down=tuple(once(self.codecs_down)))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GoalPart:
    """What is wanted."""

    least: Aim = "time"  # of what: time or cost
    max_days: float = 3650.0  # the run may take so long
    max_cost: float = math.inf  # and cost so much

    def check(self) -> None:
        """Raises ConfigError."""
        one_of(self, "least", Aim, where="goal.")
        for name in ("max_days", "max_cost"):
            if not getattr(self, name) > 0:
                raise cannot_work(f"goal.{name}", getattr(self, name), "give a number above 0")


@dataclass(frozen=True, kw_only=True)
class SyncerPart:
    """Where everything meets."""

    link: str = ""  # "0s,BANDWIDTH", shared by all learners; empty = no limit

    @cached_property
    def link_(self) -> Link:
        """`link`, read."""
        return Link.parse(self.link)


@dataclass(frozen=True, kw_only=True)
class Fleet(Tree):
    """The whole file. Raises ConfigError where a value cannot work."""

    model: ModelPart = field(default_factory=ModelPart)
    sites: tuple[Site, ...] = ()
    syncer: SyncerPart = field(default_factory=SyncerPart)
    choices: ChoicesPart = field(default_factory=ChoicesPart)
    goal: GoalPart = field(default_factory=GoalPart)

    def check(self) -> None:
        """What the parts alone cannot see, too."""
        for part in (self.model, self.choices, self.goal):
            part.check()
        try:
            _ = self.syncer.link_
        except ConfigError as error:
            raise ConfigError(f"syncer: {error.message}", remedy=error.remedy) from error
        if self.syncer.link_.latency:
            raise cannot_work("syncer.link", self.syncer.link, "give it no latency (0s): that is for the links of the sites")
        names = [site.name for site in self.sites]
        if not 1 <= len(names) <= MOST_SITES:
            raise cannot_work("sites", f"{len(names)} of them", f"give 1 to {MOST_SITES} tables [[sites]]")
        for name in names:
            if not name or names.count(name) > 1:
                raise cannot_work("sites.name", name, "give every site a name of its own")
        self._check_chips()

    def _check_chips(self) -> None:
        most, least = max(site.chips for site in self.sites), self.choices.min_chips
        if most < least:
            raise cannot_work("choices.min_chips", least, f"no site has so many for a learner (the largest: {most})")
        if most < least * min(self.choices.learners_per_site):
            allowed = f"the largest site has chips for {most // least} learners at most (choices.min_chips = {least})"
            raise cannot_work("choices.learners_per_site", list(self.choices.learners_per_site), allowed)
        worst = max(self.sites, key=lambda site: site.daily)
        if sum(site.daily for site in self.sites) > MOST_FAILURES:
            name = "mtbi" if worst.mtbi < Site.mtbi else "chips"  # whichever is out of the common
            allowed = f"its chips would fail {worst.daily:.2g} times a day: give more hours (mtbi) or fewer chips"
            raise cannot_work(f"sites.{worst.name}.{name}", getattr(worst, name),
                              f"{allowed} (at most {MOST_FAILURES:,} a day in all)")  # fmt: skip


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
        sites.append(filled(Site(name=str(number), chips=1, speed=1.0), site, lambda key: str(path), f"{where}."))
    fleet = replace(load(Fleet, (str(path), tables)), sites=tuple(sites))
    for key in ("params", "tokens"):
        if key not in tables.get("model", {}):
            raise ConfigError(f"{path}: model.{key} is missing", remedy="write it into the table [model]")
    return fleet
