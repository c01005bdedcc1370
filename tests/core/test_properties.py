"""Random events in random order for both real drivers over wires that misbehave; the invariants and the ledger after each."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.core.policy import ALL, Policy
from support.storm import calm, deaths, gusts, storm


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Every field of the policy, in every combination that can work."""
    synchronous = draw(st.booleans())
    interval = draw(st.integers(2, 6))
    overlap = draw(st.integers(0 if synchronous else 1, min(3, interval - 1)))
    included = ["overwrite", "blend"] + (["rebase"] if overlap else [])
    return Policy(
        fragments=draw(st.integers(1, 4)),
        fragmentation=draw(st.sampled_from(["balanced", "strided", "layer"])),
        interval=interval,
        overlap=overlap,
        synchronous=synchronous,
        quorum=ALL if synchronous else draw(st.sampled_from([ALL, 1, 1, 2])),
        grace=draw(st.sampled_from([0.0, 0.5, 0.9])),
        max_staleness=draw(st.integers(0, 2)),
        wait_for=draw(st.integers(1, 2)),
        norm_limit=draw(st.sampled_from([0.0, 2.0, 10.0])),
        weight_limit=draw(st.sampled_from([0.0, 1.0, 10.0])),
        quarantine_after=draw(st.sampled_from([0, 1, 2, 5])),
        merge=draw(st.sampled_from(["rda", "direct"])),
        on_included=draw(st.sampled_from(included)),
        on_excluded=draw(st.sampled_from(["overwrite", "carry"])),
        round_timeout=draw(st.sampled_from([1.0, 20.0])),
        sync_timeout=draw(st.sampled_from([5.0, 60.0])),
        silent_after=draw(st.sampled_from([2.0, 10.0])),
        final_timeout=draw(st.sampled_from([1.0, 30.0])),
        steps=draw(st.sampled_from([0, 8, 25])),
        tokens=draw(st.sampled_from([60, 200, 1000])),
    )


@settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
@given(policy=policies(), more=st.integers(0, 2), blows=st.integers(0, 150), seed=st.integers(0, 2**32))
def test_any_events_in_any_order_keep_the_invariants(policy: Policy, more: int, blows: int, seed: int) -> None:
    storm(policy, max(policy.quorum, policy.wait_for) + more, blows, seed)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(policy=policies(), more=st.integers(0, 2), blows=st.integers(0, 100), seed=st.integers(0, 2**32))
def test_in_a_calm_nothing_is_lost_but_by_overlap(policy: Policy, more: int, blows: int, seed: int) -> None:
    calm(policy.replace(on_excluded="carry"), max(policy.quorum, policy.wait_for) + more, blows, seed)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(policy=policies(), more=st.integers(0, 2), blows=st.integers(0, 100), seed=st.integers(0, 2**32))
def test_links_that_break_as_the_run_ends_cost_nothing(policy: Policy, more: int, blows: int, seed: int) -> None:
    gusts(policy.replace(on_excluded="carry"), max(policy.quorum, policy.wait_for) + more, blows, seed)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(policy=policies(), more=st.integers(0, 2), blows=st.integers(0, 100), seed=st.integers(0, 2**32))
def test_a_syncer_that_dies_and_keeps_its_log_costs_nothing(policy: Policy, more: int, blows: int, seed: int) -> None:
    deaths(policy.replace(on_excluded="carry"), max(policy.quorum, policy.wait_for) + more, blows, seed)
