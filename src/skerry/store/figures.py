"""The run in numbers: the status that observers are given, and the final figures (figures.json).

Ledger amounts are exact integers, tokens x parameters; figures in tokens are those divided by the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from skerry.core.ledger import Tally
from skerry.core.syncer import SyncerCore


class Vitals(Protocol):
    """What a generation of a learner measured (fabric/messages.py)."""

    @property
    def median_step_us(self) -> int: ...
    @property
    def span_us(self) -> int: ...
    @property
    def max_gap_us(self) -> int: ...
    @property
    def hook_us(self) -> int: ...
    @property
    def max_hook_us(self) -> int: ...


def ledger(total: Tally) -> dict[str, int]:
    """The ledger's four amounts; pending is what neither was merged nor lost."""
    lost = sum(total.lost.values())
    return {"processed": total.processed, "merged": total.merged, "lost": lost,
            "pending": total.processed - total.merged - lost}  # fmt: skip


def presence(core: SyncerCore, end: float) -> float:
    """Seconds, up to `end`, that all learners have been of the run, from each one's first join on."""
    return sum(end - member.first_join for member in core.members)


def mean_contributors(core: SyncerCore) -> float:
    """Of a round."""
    return core.rounds.contributors / core.rounds.closed if core.rounds.closed else 0.0


def final_figures(run: str, core: SyncerCore, vitals: Mapping[int, Mapping[int, Vitals]], traffic: tuple[int, int],
                  end: float) -> dict[str, Any]:  # fmt: skip
    """What figures.json holds: every key of summary.json that the syncer knows. `end`: seconds, as the core's times."""
    total, params, members = core.ledger.total(), core.layout.total, list(core.members)
    amounts = ledger(total)
    present = presence(core, end)
    steps = sum(member.first_step + member.account.count.steps for member in members)
    useful_us = (total.busy_merged + total.busy_lost["overlap"]) / params
    return {
        "run": run, "phase": core.phase, "params": params, "learners": len(members), "step": core.step,
        "rounds": core.rounds.closed, "rounds_cancelled": core.rounds.cancelled, "rounds_skipped": core.rounds.skipped,
        "mean_contributors": mean_contributors(core),
        "wall_s": round(end - min((member.first_join for member in members), default=end), 3),
        **{f"tokens_{name}": round(amount / params, 3) for name, amount in amounts.items()},
        "lost_by_cause": {cause: round(amount / params, 3) for cause, amount in total.lost.items()},
        "ledger": amounts, "goodput": useful_us / 1e6 / present if present else None,
        "bytes_up": traffic[0], "bytes_down": traffic[1],
        # in a ring all-reduce of bf16 gradients each of M members sends 2 (M - 1) / M of the gradient at each of its steps
        "data_parallel_bytes": round(steps * 2 * (len(members) - 1) / max(len(members), 1) * params * 2),
        "per_learner": [_learner(core, member.id, vitals.get(member.id, {})) for member in members],
    }  # fmt: skip


def _learner(core: SyncerCore, learner: int, vitals: Mapping[int, Vitals]) -> dict[str, Any]:
    """One learner, over all its generations; the median step is that of the generation that lasted longest."""
    member, tally = core.members.get(learner), core.ledger.tallies[learner]
    assert member is not None
    seen = [v for v in vitals.values() if v.median_step_us > 0]
    longest = max(seen, key=lambda v: v.span_us, default=None)
    return {
        "learner": learner, "generations": member.generation, "steps": member.first_step + member.account.count.steps,
        "tokens": tally.tokens, "median_step_s": longest.median_step_us / 1e6 if longest else None,
        "max_gap_s": max((v.max_gap_us for v in seen), default=0) / 1e6 if seen else None,
        "max_gap_ratio": max((v.max_gap_us / v.median_step_us for v in seen), default=None),
        "hook_share": sum(v.hook_us for v in seen) / max(sum(v.span_us for v in seen), 1) if seen else None,
        "max_hook_s": max((v.max_hook_us for v in seen), default=0) / 1e6 if seen else None,
        "lost_by_cause": {cause: round(amount / core.layout.total, 3) for cause, amount in tally.lost.items()},
    }  # fmt: skip
