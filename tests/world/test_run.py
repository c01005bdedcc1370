"""Runs in virtual time with a trainer that writes down what it is told: progress, and faults that overlap."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from skerry.core.layout import TensorSpec, build_layout
from skerry.core.policy import Policy
from skerry.errors import ConfigError
from skerry.simulate.rounds import Learner, Versions
from skerry.world.run import VirtualRun
from skerry.world.world import World


class Diary(Learner):
    """`progress` at each of its steps."""

    def __init__(self, fragments: int, progress: list[float]) -> None:
        super().__init__(1, fragments)
        self.progress = progress

    def step(self, step: int, progress: float, since_start: int) -> int:
        self.progress.append(progress)
        return super().step(step, progress, since_start)


def run(world: dict[str, Any], **policy: Any) -> tuple[VirtualRun, dict[int, list[float]]]:
    settled = Policy(**{"fragments": 2, "interval": 8, "steps": 60, **policy})
    layout = build_layout([TensorSpec(name=f"{p}.weight", shape=(1,)) for p in range(2)], 2, "balanced")
    diaries: dict[int, list[float]] = defaultdict(list)
    live = VirtualRun(settled, layout, World(**{"learners": 2, **world}), Versions(2), lambda m: Diary(2, diaries[m]))
    live.run()
    return live, diaries


def test_progress_is_the_runs_and_not_that_of_a_learner_ahead_of_it() -> None:
    """K = 2: the run is as far as the slower one, and the rates of the faster one follow the run."""
    _, told = run({"speeds": (1.0, 0.25)}, quorum=2, steps=100)
    assert len(told[0]) > 390
    for steps, share in ((50, 0.125), (100, 0.25), (200, 0.5), (390, 0.975)):
        assert told[0][steps] == pytest.approx(share, abs=0.03)


def test_with_a_quorum_of_one_the_run_is_as_far_as_its_fastest() -> None:
    _, told = run({"speeds": (1.0, 0.25)}, quorum=1, steps=100)
    assert told[0] == pytest.approx([step / 100 for step in range(100)] + [1.0] * (len(told[0]) - 100))


def test_progress_never_falls_when_an_agent_is_replaced_behind_a_slow_link() -> None:
    _, told = run({"learners": 1, "link": "5s", "faults": "kill:0.agent@60.5s"}, steps=0, tokens=200)
    assert told[0] == sorted(told[0]) and told[0][62] > 0.2


def test_a_version_exists_merge_s_after_its_rounds_close() -> None:
    at_once, later = (run({"merge_s": seconds}, interval=16)[0].hub.core for seconds in (0.0, 1.5))
    assert at_once.grace.sync.value == 0.0 and later.grace.sync.value == pytest.approx(1.5), "xi_sync is from the close on"
    assert later.rounds.closed == at_once.rounds.closed and later.phase == "ended"
    total = later.ledger.total()
    assert total.processed == total.merged + sum(total.lost.values())


def test_a_round_that_is_closing_counts_as_open() -> None:
    prompt, slow = (run({"merge_s": seconds}, overlap=1, grace=0.0)[0].hub.core.rounds for seconds in (0.0, 6.0))
    assert slow.skipped > prompt.skipped == 0 and slow.closed < prompt.closed


@pytest.mark.parametrize(
    ("faults", "steps"),
    [
        ("slow:1x0.1@10s slow:1x0.5@20s+5s", 10 + 5),
        ("slow:1x0.5@10s+20s slow:1x0.5@20s+20s", 10 + 5 + 2.5 + 5 + 20),
        ("kill:1@10.5s+30s join:1@15.5s leave:1@20.5s", 10 + 5),
        ("kill:1@10.5s+30s join:1@15.5s kill:1@20.5s+30s", 10 + 5 + 9.5),
    ],
)
def test_faults_that_overlap(faults, steps) -> None:
    """Factors of slowness multiply, each as long as it lasts; a restart is for the life that its kill has ended."""
    _, told = run({"faults": faults})
    assert len(told[1]) == pytest.approx(steps, abs=2)


def test_a_pause_that_a_script_plans_is_no_standstill() -> None:
    live, told = run({"learners": 1, "faults": "kill:0@10.5s+9000s"})
    assert live.queue.now > 9000 and len(told[0]) >= 60


def test_an_agent_that_is_not_there_cannot_be_frozen() -> None:
    live, _ = run({"learners": 1, "faults": "kill:0.agent@10.5s stop:0.agent@10.6s+5s"})
    assert [strike.struck for strike in live.strikes] == [True, False]


@pytest.mark.parametrize("fault", ["cut:1@20s+6s", "cut:1@20s", "halfopen:1@20s+40s", "halfopen:1@20s+1s",
                                   "cut:1@20s+30s kill:1.agent@25s", "halfopen:1@20s+30s kill:1@25s+10s"])  # fmt: skip
def test_a_link_that_breaks_or_carries_nothing_costs_no_step_and_no_token(fault: str) -> None:
    live, told = run({"faults": fault, "restart": 5.0}, quorum=1, steps=100)
    assert [strike.struck for strike in live.strikes] == [True] * len(live.strikes)
    core = live.hub.core
    total = core.ledger.total()
    assert core.phase == "ended" and total.processed == total.merged + sum(total.lost.values())
    if "kill:1@" not in fault:
        assert total.lost["died"] == 0 and len(told[1]) >= 99, "the learner trains on"
        assert [member.generation for member in core.members] == [1, 1]


def test_nobody_is_asked_over_a_link_that_carries_nothing() -> None:
    live, _ = run({"faults": "halfopen:1@20s+40s"}, quorum=1, steps=100)
    whole, _ = run({}, quorum=1, steps=100)
    assert live.hub.core.rounds.contributors < whole.hub.core.rounds.contributors - 5


def test_virtual_time_has_no_syncers_process_and_no_disk() -> None:
    for fault, why in (("kill:syncer@3s", "the syncer is no process"), ("full:1@3s+5s", "there is no disk")):
        with pytest.raises(ConfigError, match=why):
            World(faults=fault)
