"""Rounds: unequal learners through the real core in virtual time, without tensors.

Rules: nothing is decided here; what the core, the links and the faults make of a fleet is counted. The model is only its size:
as many tensors of one size as there are fragments, so that every fragment has a P-th of the bytes, or a given layout. What
travels as a body is the number of a version: so a contribution's age is known when it is merged.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Self

from skerry.config.tree import Tree, Values
from skerry.core.layout import Layout, TensorSpec, build_layout
from skerry.core.messages import Merge
from skerry.core.policy import Policy
from skerry.core.presets import preset
from skerry.errors import cannot_work
from skerry.simulate.traffic import SAMPLES, Meter, Traffic
from skerry.store.figures import final_figures, presence
from skerry.store.records import Figures
from skerry.world.run import VirtualRun
from skerry.world.world import World

SLOWER = 0.82  # the speed of half of the learners, unless told otherwise


@dataclass(frozen=True, kw_only=True)
class RoundsConfig(Tree):
    """What decides a simulation of rounds, but for the model's size."""

    BEGIN = ("policy.preset",)

    policy: Policy = field(default_factory=Policy)
    world: World = field(default_factory=World)

    @classmethod
    def begin(cls, given: Values) -> Self:
        """The defaults, by the preset."""
        return cls(policy=preset(given.get("policy.preset", "decoupled")))

    def settled(self, given: Values) -> Self:
        """Unless speeds are given, half of the learners are slower."""
        slower, world = self.world.learners // 2, self.world
        speeds = world.speeds or (1.0,) * (world.learners - slower) + (SLOWER,) * slower
        return replace(self, world=replace(world, speeds=speeds))


class Learner:
    """A Trainer (world/island.py) that has only tokens, and the versions it stands on."""

    __slots__ = ("_base", "_tokens")

    def __init__(self, tokens: int, fragments: int) -> None:
        self._tokens = tokens
        self._base = [0] * fragments

    def step(self, step: int, progress: float, since_start: int) -> int:
        """A step's tokens."""
        return self._tokens

    def copy_out(self, fragment: int) -> None:
        """There is nothing to copy."""

    def hand_over(self, fragment: int, copy: object) -> int:
        """The version it is measured from."""
        return self._base[fragment]

    def take_over(self, fragment: int, rule: str, body: int, copy: object) -> None:
        """Stand on that version."""
        self._base[fragment] = body


class Versions:
    """A Model (world/hub.py) that has only versions. `ages`: how many contributions were how many versions old when merged."""

    def __init__(self, fragments: int) -> None:
        self.ages: Counter[int] = Counter()
        self._versions = [0] * fragments

    def provide(self, fragment: int, body: object) -> str:
        """Without flaw."""
        return ""

    def adopt(self, fragment: int, body: object) -> None:
        """Version 0."""

    def screen(self, fragment: int, body: int) -> tuple[str, tuple[float, ...], None]:
        """Without flaw."""
        return "", (), None

    def add(self, merge: Merge, body: int, screened: None) -> None:
        """Look how old it is."""
        self.ages[self._versions[merge.fragment] - body] += 1

    def close(self, fragment: int, step: int, version: int) -> str:
        """It exists when it is published."""
        return ""

    def publish(self, fragment: int) -> None:
        """The next version."""
        self._versions[fragment] += 1

    def cancel(self, fragment: int, step: int) -> None:
        """Nothing is kept."""

    def body(self, fragment: int) -> int:
        """The version itself."""
        return self._versions[fragment]


@dataclass(frozen=True, kw_only=True)
class RoundsResult:
    """`figures`: what a real run's figures.json holds. Of the learners' time: `wait_share`, in which they stood, of it
    `load_share` before the first step, for the model; `lost_share`, whose work was lost other than by design. `staleness`: mean
    age of merged contributions in versions; `ages`: how many were how old. Of the faults: how many struck, how many found
    nothing to strike, and those of the script that the run did not live to see."""

    figures: Figures
    virtual_s: float
    wait_share: float
    load_share: float
    lost_share: float
    staleness: float
    ages: dict[int, int]
    struck: int
    missed: int
    unfired: tuple[str, ...]
    traffic: Traffic = field(repr=False)


def simulate_rounds(policy: Policy, world: World, *, params: int = 0, tokens: int = 1, layout: Layout | None = None,
                    progress: Callable[[float], None] | None = None) -> RoundsResult:  # fmt: skip
    """The run of that policy in that world. `params`: of the model (or give its `layout`); `tokens`: of a step. Raises
    ConfigError."""
    if layout is None:
        if params < policy.fragments:
            raise cannot_work("params", params, f"give at least one a fragment ({policy.fragments})")
        sizes = [params // policy.fragments + (p < params % policy.fragments) for p in range(policy.fragments)]
        specs = [TensorSpec(name=f"{p}.weight", shape=(size,)) for p, size in enumerate(sizes)]
        layout = build_layout(specs, policy.fragments, "balanced")
    if tokens < 1:
        raise cannot_work("tokens", tokens, "give 1 a step or more")
    versions = Versions(policy.fragments)
    live = VirtualRun(policy, layout, world, versions, lambda learner: Learner(tokens, policy.fragments),
                      (lambda: progress(live.hub.core.progress)) if progress else (lambda: None))  # fmt: skip
    steps = policy.steps or policy.tokens // (tokens * world.learners)
    meter = Meter(live, max(steps, 1) * world.run_step(policy.quorum) / SAMPLES)
    with _without_collection():
        live.run()
    return _result(live, versions, meter.end())


def _result(live: VirtualRun, versions: Versions, traffic: Traffic) -> RoundsResult:
    core, end, hub = live.hub.core, live.queue.now, live.hub
    present = presence(core, end)
    merged, total = versions.ages.total(), core.ledger.total()
    lost_us = sum(total.busy_lost.values()) - total.busy_lost["overlap"]
    struck = sum(strike.struck for strike in live.strikes)
    return RoundsResult(
        figures=final_figures("simulated", core, {}, (hub.bytes_up.total(), hub.bytes_down.total()), end), virtual_s=end,
        wait_share=live.waited / present, load_share=live.loaded / present, traffic=traffic,
        lost_share=lost_us / 1e6 / core.layout.total / present, ages=dict(sorted(versions.ages.items())),
        struck=struck, missed=len(live.strikes) - struck, unfired=tuple(map(str, live.unfired)),
        staleness=sum(age * count for age, count in versions.ages.items()) / merged if merged else 0.0,
    )  # fmt: skip


@contextmanager
def _without_collection() -> Iterator[None]:
    """A thousand learners are millions of objects, none of them in circles: looking for circles costs a quarter of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
