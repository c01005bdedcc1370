"""A share of the worlds (`make worlds` runs ten thousand), and that a world is repeated, shrunk and able to fail."""

from __future__ import annotations

import pytest

from worlds import __main__ as program
from worlds.blows import ORDINARY, ROUGH
from worlds.plan import Plan, failure, shrunk
from worlds.planted import MOST, PLANTED, found

WORLDS, SHARES = 1000, 10
PATHS = ("restart in waiting", "restart in running", "restart in final", "restart in ended", "stale epoch", "quarantine",
         "death in a pause", "death in the middle of an event", "events that were not committed",
         "a version that the log had not heard of", "half-open link made anew")  # fmt: skip
"""Rare ones that must be taken, each in a thousand worlds."""


@pytest.mark.parametrize("share", range(SHARES))
def test_in_any_world_the_invariants_hold_and_nothing_is_lost_that_was_promised(share: int) -> None:
    counts, failed = program.some(range(share * WORLDS // SHARES, (share + 1) * WORLDS // SHARES))
    assert not failed, "\n".join(f"python -m worlds --seed {seed}: {what[:200]}" for seed, what in failed)
    assert sum(counts[f"fault: {kind}"] for kind in ROUGH if kind not in ORDINARY) > WORLDS // SHARES


def test_every_fault_strikes_and_rare_paths_are_taken() -> None:
    counts, _ = program.some(range(160))
    assert [kind for kind in ROUGH if kind not in ORDINARY and not counts[f"fault: {kind}"]] == []
    assert [path for path in PATHS if not counts[f"path: {path}"]] == []


def test_a_seed_is_the_same_world_again() -> None:
    first, second = (Plan.of(11).carry_out() for _ in range(2))
    assert first.log == second.log and first.values() == second.values()


@pytest.mark.parametrize("rule", PLANTED)
def test_a_planted_fault_is_found(rule: str) -> None:
    hint = HINTS.get(rule, 0)
    assert found(rule, (*range(hint, hint + 10), *range(MOST))) is not None


def test_a_failing_world_is_shrunk_to_blows_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = "a version is in the store before it is published"
    seed = found(rule)
    assert seed is not None
    PLANTED[rule](monkeypatch)
    plan = Plan.of(seed)
    left = shrunk(plan)
    assert failure(left)[:20] == failure(plan)[:20] != ""
    assert sum(map(len, left.stages)) < sum(map(len, plan.stages)) / 3


HINTS = {
    "in a pause only reports are forgotten": 35,
    "who was refused too often is asked for nothing": 131,
}
"""Where the rare ones were found last: there it is looked first."""
