"""A run in virtual time: the hub, the islands, and what strikes them. With tensors it is the lab, without the simulator.

Rules: time moves only in the queue, so equal arguments give equal runs, to the bit if the tensors' work does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from skerry.core.layout import Layout
from skerry.core.phase import ENDED
from skerry.core.policy import Policy
from skerry.errors import ConfigError
from skerry.world.faults import Fault
from skerry.world.hub import Hub
from skerry.world.island import Island, State
from skerry.world.patience import check_budget, check_learners, check_patience
from skerry.world.plane import Model
from skerry.world.queue import Queue
from skerry.world.shared import Trainer
from skerry.world.world import World

STANDSTILL_STEPS = 5000


@dataclass(frozen=True)
class Strike:
    """A fault, when it came, and whether there was anything to strike."""

    fault: Fault
    at: float
    struck: bool


class VirtualRun:
    """`new_trainer(learner)`: the tensors of a learner's new life; `watch`: called after every Close (a new version)."""

    def __init__(self, policy: Policy, layout: Layout, world: World, model: Model, new_trainer: Callable[[int], Trainer],
                 watch: Callable[[], None] = lambda: None) -> None:  # fmt: skip
        """Raises ConfigError if the policy has no budget, wants more learners than start, or has no patience with them."""
        check_budget(policy)
        check_learners(policy, world.learners)
        check_patience(policy, layout, world)
        self.policy, self.layout, self.world = policy, layout, world
        self.queue = Queue()
        self.hub = Hub(self.queue, policy, layout, model, watch, world.merge_s)
        self.islands: dict[int, Island] = {}
        self.strikes: list[Strike] = []
        self._new_trainer = new_trainer
        self._do: dict[str, Callable[[Fault], bool]] = {
            "kill": self._kill, "stop": self._stop, "slow": self._slow, "join": self._join, "leave": self._leave,
            "cut": self._cut, "halfopen": self._cut,
        }  # fmt: skip

    def run(self) -> None:
        """Until the core says that the run is over. Raises ConfigError if it never will be."""
        for learner in range(self.world.learners):
            self._start(learner)
        for fault in self.world.script:
            self.queue.at(fault.at, self._strike, fault)
        for learner in range(self.world.learners):
            self._strike_at_random(self.world.random_faults(learner))
        hub, queue, patience = self.hub, self.queue, STANDSTILL_STEPS * self.world.run_step(self.policy.quorum)
        patience += sum(fault.duration or self.world.restart for fault in self.world.script)  # whom these stop comes back
        core, advance, until = hub.core, queue.advance, patience
        while core.phase is not ENDED and advance():
            if queue.now > until:
                until = hub.moved_at + patience
                if queue.now > until:
                    raise self._standstill()
        if not hub.ended:
            raise self._standstill()

    def _standstill(self) -> ConfigError:
        core, now = self.hub.core, self.queue.now
        loading = sum(island.state is State.JOINING for island in self.islands.values())
        needs, live = core.members.quorum, core.members.live
        why, remedy = f"{live} learners live, a round needs {needs}", "lower policy.quorum, or let some return"
        if loading and not (core.phase == "waiting" and core.versions):
            why = f"after {now:,.0f} s {loading} learners have not got the whole model yet"
            remedy = "give world.link more bandwidth, or less latency"
        elif live >= needs:
            why = f"{live} learners live, and the run made no step for {now - self.hub.moved_at:,.0f} s"
            remedy = "give faster learners, or links"
        return ConfigError(f"the run came to a standstill at step {core.step}: {why}", remedy=remedy)

    @property
    def waited(self) -> float:
        """Seconds in which trainers stood, for others or for the model, added up over the learners."""
        return sum(island.waited for island in self.islands.values())

    @property
    def loaded(self) -> float:
        """Seconds of these before a life's first step, for the model."""
        return sum(island.loaded for island in self.islands.values())

    @property
    def unfired(self) -> list[Fault]:
        """The script's faults that the run did not live to see."""
        seen = {id(strike.fault) for strike in self.strikes}
        return [fault for fault in self.world.script if id(fault) not in seen]

    # ------------------------------------------------------------------ faults

    def _strike_at_random(self, faults: Iterator[Fault]) -> None:
        fault = next(faults, None)
        if fault is not None:
            self.queue.at(fault.at, self._strike_next, fault, faults)

    def _strike_next(self, fault: Fault, faults: Iterator[Fault]) -> None:
        self._strike(fault)
        self._strike_at_random(faults)

    def _strike(self, fault: Fault) -> None:
        self.strikes.append(Strike(fault, self.queue.now, self._do[fault.kind](fault)))

    def _kill(self, fault: Fault) -> bool:
        if fault.learner not in self.islands or not self.islands[fault.learner].kill(fault.part):
            return False
        if fault.part != "agent":
            lives = self.islands[fault.learner].lives
            self.queue.after(fault.duration or self.world.restart, self._restart, fault.learner, lives)
        return True

    def _restart(self, learner: int, lives: int) -> None:
        """After a kill, unless it has come and gone since."""
        if self.islands[learner].lives == lives:
            self._start(learner)

    def _stop(self, fault: Fault) -> bool:
        island = self.islands.get(fault.learner)
        if island is None or not island.freeze(fault.part):
            return False
        self.queue.after(fault.duration, island.thaw, fault.part, island.lives)
        return True

    def _slow(self, fault: Fault) -> bool:
        island = self.islands.get(fault.learner)
        if island is None:
            return False
        island.slowed.append(fault.factor)
        if fault.duration:
            self.queue.after(fault.duration, island.slowed.remove, fault.factor)
        return True

    def _cut(self, fault: Fault) -> bool:
        island = self.islands.get(fault.learner)
        return island is not None and island.cut(fault.duration, mute=fault.kind == "halfopen")

    def _join(self, fault: Fault) -> bool:
        return self._start(fault.learner)

    def _leave(self, fault: Fault) -> bool:
        return fault.learner in self.islands and self.islands[fault.learner].leave()

    def _start(self, learner: int) -> bool:
        """A learner comes, or comes back."""
        if learner not in self.islands:
            self.islands[learner] = Island(learner, self.queue, self.hub, self.policy, self.layout, self.world.link_of(learner),
                                           self.world.step_times(learner), self._new_trainer)  # fmt: skip
        if self.hub.core.phase in ("final", "ended") or self.islands[learner].state is not State.DOWN:
            return False
        self.islands[learner].start()
        return True
