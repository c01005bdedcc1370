"""A policy's timeouts against a world's steps and links: what is refused, what is not, and where rounds really get lost."""

from __future__ import annotations

from typing import Any

import pytest

from skerry.core.presets import preset
from skerry.errors import ConfigError
from skerry.simulate.rounds import RoundsResult, simulate_rounds
from skerry.world import run
from skerry.world.world import World


def _run(policy: dict[str, Any], world: dict[str, Any]) -> RoundsResult:
    kind = {"steps": 48, **policy}
    return simulate_rounds(preset(kind.pop("preset", "decoupled"), **kind), World(**{"learners": 2, **world}), params=24_000)


PATIENT = {"round_timeout": 1e6, "final_timeout": 1e6}


@pytest.mark.parametrize(
    ("policy", "world", "says"),
    [
        ({}, {"step_s": 31.0}, "policy.final_timeout = 30.0 cannot work; a learner answers at the end of its step, .*31.0 s"),
        ({}, {"step_s": 60.0}, "policy.round_timeout = 60.0 cannot work; .* 60.0 s in this world: give at least 61"),
        ({}, {"step_s": 25.0, "jitter": 0.2}, "policy.final_timeout"),
        ({"quorum": 2}, {"speeds": (1.0, 0.01)}, "policy.round_timeout = 60.0 .* give at least 101"),
        ({"quorum": 0}, {"speeds": (1.0, 0.01)}, "policy.round_timeout = 60.0"),
        ({}, {"link": "20s,1Gbit"}, "policy.final_timeout = 30.0 .* 41.0 s"),
        ({}, {"link": "0s,200bit"}, "policy.round_timeout = 60.0"),  # 2000 bytes of a fragment are 80 s
        ({"round_timeout": 0.1}, {}, "policy.round_timeout = 0.1 .* give at least 1.1"),
        ({"preset": "diloco", "interval": 500}, {"speeds": (1.0, 0.25)}, "policy.sync_timeout = 600.0 .* give at least 1501"),
        ({"preset": "diloco"}, {"speeds": (1.0, 0.02)}, "policy.sync_timeout"),
        ({"preset": "diloco", "interval": 8}, {"step_s": 40.0}, "policy.final_timeout"),
        ({**PATIENT}, {"step_s": 1e5}, "policy.silent_after = 10.0 cannot work; .* give at least 101"),
    ],
)
def test_patience_that_loses_every_round_or_the_last_is_refused(policy: Any, world: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        _run(policy, world)


@pytest.mark.parametrize(
    ("policy", "world"),
    [
        ({}, {"step_s": 29.0}),
        ({}, {"step_s": 3.0, "speeds": (1.0, 0.1)}),  # a slow one may be left behind
        ({}, {"speeds": (1.0, 0.001)}),
        ({}, {"link": "0s,1Mbit; 0s,1bit"}),
        ({"preset": "diloco", "interval": 500}, {"step_s": 10.0}),  # equals hand over at once, however long they take
        ({"preset": "streaming"}, {"speeds": (1.0, 0.1), "jitter": 0.1}),
        ({**PATIENT}, {"step_s": 9000.0}),
    ],
)
def test_what_can_work_is_not_refused(policy: Any, world: Any) -> None:
    assert _run(policy, world).figures.rounds >= 1


@pytest.mark.parametrize(
    ("policy", "world", "name", "bound"),
    [
        ({}, {"step_s": 40.0, "learners": 1}, "round_timeout", 40.0),
        ({"quorum": 2}, {"step_s": 10.0, "speeds": (1.0, 0.5)}, "round_timeout", 20.0),
        ({"preset": "diloco", "interval": 24}, {"speeds": (1.0, 0.25)}, "sync_timeout", 72.0),
    ],
)
def test_the_bounds_are_where_rounds_begin_to_be_lost(
    monkeypatch: pytest.MonkeyPatch, policy: Any, world: Any, name: str, bound: float
) -> None:
    """Without the check a little less patience loses rounds or contributors; a little more loses at most the one at the end."""
    fleet = world.get("learners", 2)
    enough = _run({**policy, "final_timeout": 999.0, name: bound + 0.5}, world)
    assert enough.figures.rounds_cancelled <= 1 and enough.figures.mean_contributors > 0.9 * fleet
    with pytest.raises(ConfigError, match=name):
        _run({**policy, "final_timeout": 999.0, name: bound - 0.5}, world)
    monkeypatch.setattr(run, "check_patience", lambda *_: None)
    short = _run({**policy, "final_timeout": 999.0, name: bound - 0.5}, world)
    assert short.figures.rounds_cancelled > 10 or short.figures.mean_contributors < 0.8 * fleet
