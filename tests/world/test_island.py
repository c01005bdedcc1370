"""Learners in virtual time: what faults cost them, what their steps are told, and what their agents' deaths leave behind.

Weightless runs; a step takes 1 s and makes 10 tokens, so that every figure can be reckoned by hand.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from skerry.core.learner import LearnerCore
from skerry.core.orders import Applied, CopiedOut, CopyOut, TakeOver
from skerry.core.presets import preset
from skerry.simulate.rounds import Learner, Versions
from skerry.store.figures import final_figures
from skerry.world.run import VirtualRun
from skerry.world.world import World
from support.layouts import tiny_layout

TOKENS = 10


class Told(Learner):
    """A trainer that writes down when its steps ended, their numbers, and the progress that they were given; and when it took
    values over."""

    def __init__(self, log: list[tuple[int, float]], times: list[float], taken: list[float], run: VirtualRun,
                 fragments: int) -> None:  # fmt: skip
        super().__init__(TOKENS, fragments)
        self._log, self._times, self._taken, self._run = log, times, taken, run

    def take_over(self, fragment: int, rule: str, body: int, copy: object) -> None:
        self._taken.append(self._run.queue.now)
        super().take_over(fragment, rule, body, copy)

    def step(self, step: int, progress: float, since_start: int) -> int:
        self._log.append((step, progress))
        self._times.append(self._run.queue.now)
        return super().step(step, progress, since_start)


class Ran:
    """A run that is over, H = 4 and one fragment unless said otherwise. Of each learner's steps: `steps`, their numbers;
    `rates`, the progress that they were given; `ends`, when they ended. `taken`: when each learner took a value over."""

    def __init__(self, faults: str = "", *, name: str = "decoupled", learners: int = 1, link: str = "", fault_rate: float = 0.0,
                 downtime: float = 60.0, **changes: Any) -> None:  # fmt: skip
        policy = preset(name, **{"fragments": 1, "interval": 4, **changes})
        world = World(learners=learners, faults=faults, link=link, fault_rate=fault_rate, downtime=downtime)
        logs: list[list[tuple[int, float]]] = [[] for _ in range(learners)]
        self.ends: list[list[float]] = [[] for _ in range(learners)]
        self.taken: list[list[float]] = [[] for _ in range(learners)]
        self.live = VirtualRun(policy, tiny_layout(policy), world, Versions(policy.fragments),
                               lambda m: Told(logs[m], self.ends[m], self.taken[m], self.live, policy.fragments))  # fmt: skip
        self.live.run()
        self.end = self.live.queue.now
        self.steps = [[step for step, _ in log] for log in logs]
        self.rates = [[rate for _, rate in log] for log in logs]
        self.figures = final_figures("virtual", self.live.hub.core, {}, (0, 0), self.end)

    def pauses(self, learner: int) -> list[float]:
        """Seconds between the ends of its steps, where these are more than a step takes."""
        return [after - before for before, after in pairwise(self.ends[learner]) if after - before > 1.01]


def test_what_a_frozen_agent_had_not_told_when_it_died_is_remembered_by_the_next() -> None:
    """It handed over at 9 s and takes the round's value over at 10 s: by design that costs the step between. Who did not know
    would take the value over once more, at the cost of the steps since."""
    ran = Ran("stop:0.agent@9.5s+60s kill:0.agent@10.5s", steps=12, interval=8)
    assert ran.figures.lost_by_cause == {"overlap": TOKENS, "excluded": 0, "refused": 0, "died": 0}


def test_a_trainer_that_is_frozen_within_a_step_ends_it_later_by_as_long() -> None:
    frozen, free = Ran("stop:0.trainer@10.125s+0.5s", steps=12), Ran(steps=12)
    assert frozen.pauses(0) == [1.5] and not free.pauses(0)
    assert frozen.end == free.end + 0.5


def test_a_killed_learner_stays_away_as_long_as_its_fault_says_and_its_steps_go_on_where_they_were() -> None:
    """10 steps, none until it is back at 40.5 s, and 20 more until the run's last one is answered at 61 s."""
    ran = Ran("kill:1@10.5s+30s", learners=2, steps=60)
    assert (len(ran.steps[0]), len(ran.steps[1])) == (61, 30)
    assert ran.pauses(1) == [31.5]
    assert ran.steps[1] == list(range(30)), "a batch is repeated, or skipped"


def test_a_slowed_learner_has_its_speed_back_when_the_fault_is_over() -> None:
    """Slow are the steps that begin at 11, 15, 19, 23 and 27 s: 11 steps, these, and 30 more until 61 s."""
    ran = Ran("slow:1x0.25@10.5s+20s", learners=2, steps=60)
    assert ran.pauses(1) == [4.0] * 5
    assert len(ran.steps[1]) == 46


def test_slow_steps_are_busy_for_as_long_as_they_take() -> None:
    ran = Ran("slow:0x0.25@0s", steps=40)
    assert ran.end == 164.0 and ran.figures.goodput > 0.99


def test_synchronous_learners_hear_of_a_token_budgets_progress_with_what_is_delivered() -> None:
    (rates,) = Ran(name="diloco", interval=10, tokens=100 * TOKENS).rates
    assert [rates[step] for step in (5, 25, 50, 95)] == pytest.approx([0.0, 0.2, 0.5, 0.9], abs=0.06)


def test_a_step_goes_by_the_progress_that_was_known_when_it_began() -> None:
    """Over a link of 0.25 s the question after step 4 arrives in the middle of the next one, and is heard by the one after."""
    (rates,) = Ran(tokens=40 * TOKENS, link="0.25s").rates
    assert rates[5] == 4 / 40
    assert all(rate <= max(0, step - 1) / 40 for step, rate in enumerate(rates))


def test_an_agent_takes_up_what_waited_when_it_is_thawed() -> None:
    """Frozen before its Welcome has come, and all that follows on it."""
    assert Ran("stop:0.agent@0.5s+30s", link="1s", steps=3).end < 60


def test_the_end_of_a_freeze_means_nothing_to_the_learners_next_life() -> None:
    """Frozen until 40.5 s, but killed; back at 20.5 s, and frozen anew from 31 s to 51 s."""
    ran = Ran("stop:1@10.5s+30s kill:1@15.5s+5s stop:1@31s+20s", learners=2, steps=60)
    assert ran.pauses(1) == [11.5, 21.0]


def test_random_kills_strike_again_and_again() -> None:
    """Four learners, each killed every 20 s on average, for 600 s."""
    ran = Ran(learners=4, fault_rate=0.3, downtime=6.0, steps=600)
    assert sum(strike.struck for strike in ran.live.strikes) > 50


def test_a_killed_agent_is_back_after_a_second() -> None:
    """Synchronous, so that its trainer has to wait for it: from the end of a step at 11 s until 11.5 s."""
    ran = Ran("kill:1.agent@10.5s", name="diloco", learners=2, steps=40)
    assert ran.pauses(1) == [1.5]
    assert ran.end == 40.5


def test_the_end_of_a_freeze_does_not_wake_an_agent_that_is_dead() -> None:
    """Synchronous: its trainer stands at the boundary of 71 s when the agent, frozen and killed, would order a take-over."""
    faults = "stop:1.agent@70s+3s kill:1.agent@72.5s"
    ran = Ran(faults, name="streaming", learners=3, fragments=4, interval=8, steps=100, link="0.1s")
    assert not [at for at in ran.taken[1] if 70 < at < 73.5]
    assert [at for at in ran.taken[1] if 73.5 < at < 80]


@pytest.mark.parametrize("name", ["decoupled", "diloco"])
def test_an_order_is_carried_out_at_the_boundary_that_it_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every order is for the third boundary from where it was given; in synchronous policies, where a trainer waits, for
    that boundary itself."""
    named: dict[tuple[type, int], list[int]] = {}
    carried_out: list[tuple[int, int]] = []
    handle = LearnerCore.handle

    def later(core: LearnerCore, now: float, event: Any) -> list[Any]:
        actions = handle(core, now, event)
        for at, action in enumerate(actions):
            if isinstance(action, CopyOut | TakeOver) and core.begun:
                actions[at] = order = replace(action, at=core.count.steps + (0 if core.policy.synchronous else 3))
                named.setdefault((type(order), order.fragment), []).append(order.at)
        if isinstance(event, CopiedOut | Applied) and core.count.steps:
            kind = CopyOut if isinstance(event, CopiedOut) else TakeOver
            carried_out.append((named[kind, event.fragment].pop(0), event.count.steps))
        return actions

    monkeypatch.setattr(LearnerCore, "handle", later)
    Ran(name=name, learners=2, steps=40)
    assert len(carried_out) > 10
    assert all(at == steps for at, steps in carried_out)
