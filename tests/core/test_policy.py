"""The policy: each impossible value is refused by name; presets; progress."""

from __future__ import annotations

from typing import Any

import pytest

from skerry.core.policy import ALL, Policy
from skerry.core.presets import PRESETS, preset
from skerry.errors import ConfigError

NAN, INF = float("nan"), float("inf")

IMPOSSIBLE: list[tuple[str, dict[str, Any]]] = [
    *((name, {name: "of another kind"})
      for name in ("fragmentation", "merge", "on_included", "on_excluded", "codec_up", "codec_down")),
    ("on_included", {"on_included": "carry"}),
    ("on_excluded", {"on_excluded": "rebase"}),
    *((name, {name: value}) for name in ("fragments", "interval", "wait_for") for value in (0, -1, 2.5, "3")),
    *((name, {name: value}) for name in ("overlap", "quorum", "max_staleness", "steps", "tokens") for value in (-1, 0.5, NAN)),
    *((name, {name: value}) for name in ("round_timeout", "sync_timeout", "silent_after", "final_timeout", "outer_lr")
      for value in (0.0, -1.0, NAN, INF, "1")),
    *((name, {name: value}) for name in ("grace", "outer_momentum") for value in (-0.1, 1.0, NAN)),
    *(("blend", {"blend": value}) for value in (0.0, 1.1, NAN)),
    ("direct", {"direct": ("norm", "(")}),
    ("direct", {"direct": "norm"}),
    ("overlap", {"interval": 2, "overlap": 2}),
    ("overlap", {"interval": 2, "overlap": 3}),
    ("overlap", {"overlap": 0}),
    ("quorum", {"synchronous": True, "quorum": 1}),
    ("on_included", {"synchronous": True, "quorum": ALL, "overlap": 0, "on_included": "rebase"}),
]  # fmt: skip


@pytest.mark.parametrize(("field", "values"), IMPOSSIBLE, ids=lambda x: str(x))
def test_an_impossible_value_is_refused_by_name_and_with_a_remedy(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^policy\.{field} = ") as caught:
        Policy(**values)
    assert caught.value.remedy and caught.value.exit_code == 2


def test_the_presets_are_the_lineage() -> None:
    decoupled, streaming, diloco = (preset(name) for name in PRESETS)
    assert decoupled == Policy() and not decoupled.synchronous and decoupled.quorum == 1
    assert (decoupled.fragments, decoupled.interval, decoupled.overlap) == (24, 24, 2)
    assert streaming.synchronous and streaming.quorum == ALL and streaming.fragments > 1 and streaming.overlap > 0
    assert diloco.synchronous and diloco.quorum == ALL and diloco.fragments == 1 and diloco.overlap == 0


def test_a_preset_can_be_changed_and_is_checked_again() -> None:
    assert preset("diloco", interval=7).interval == 7
    with pytest.raises(ConfigError, match=r"policy\.quorum"):
        preset("streaming", quorum=2)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="choose one of decoupled, streaming, diloco"):
        preset("fast")
    with pytest.raises(ConfigError, match=r"no field 'intervall'.*interval"):
        Policy().replace(intervall=3)


def test_progress_is_the_larger_share_of_the_two_budgets() -> None:
    assert Policy().progress(10**9, 10**9) == 0.0
    assert Policy(steps=100).progress(25, 10**9) == 0.25
    assert Policy(tokens=1000).progress(10**9, 100) == 0.1
    assert Policy(steps=100, tokens=1000).progress(25, 100) == 0.25
    assert Policy(steps=100, tokens=1000).progress(5, 100) == 0.1
    assert Policy(steps=100).progress(101, 0) == 1.0


def test_either_budget_ends_a_run_and_none_never_does() -> None:
    assert not Policy().reached(10**9, 10**9)
    both = Policy(steps=100, tokens=1000)
    assert not both.reached(99, 999) and both.reached(100, 0) and both.reached(0, 1000)


@pytest.mark.parametrize(("fragments", "interval", "offsets"), [
    (4, 4, [0, 1, 2, 3]), (2, 8, [0, 4]), (4, 2, [0, 0, 1, 1]), (1, 100, [0]), (3, 8, [0, 2, 5]),
])  # fmt: skip
def test_offsets_are_spread_evenly_over_the_interval(fragments: int, interval: int, offsets: list[int]) -> None:
    policy = Policy(fragments=fragments, interval=interval, overlap=1)
    assert [policy.offset(p) for p in range(fragments)] == offsets


def test_at_most_tau_rounds_are_open_and_at_least_one() -> None:
    assert Policy(overlap=3).open_rounds == 3
    assert preset("diloco").open_rounds == 1
