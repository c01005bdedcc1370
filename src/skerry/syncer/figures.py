"""How a run fares just now, as a plain dict; its final figures are in store/figures.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from skerry.core.syncer import SyncerCore
from skerry.store.figures import ledger, mean_contributors

if TYPE_CHECKING:
    from skerry.syncer.journal import Sample


def status(run: str, core: SyncerCore, samples: Iterable[Sample], traffic: tuple[int, int]) -> dict[str, Any]:
    """How the run fares; what StatusText holds."""
    rounds, policy = core.rounds, core.policy
    return {
        "run": run, "phase": core.phase, "step": core.step, "progress": core.progress,
        "budget": {"steps": policy.steps, "tokens": policy.tokens}, "params": core.layout.total,
        "rounds": rounds.closed, "rounds_open": len(rounds.open), "rounds_cancelled": rounds.cancelled,
        "rounds_skipped": rounds.skipped, "mean_contributors": mean_contributors(core),
        "grace_s": core.grace.window(), "live": core.members.live, "bytes_up": traffic[0], "bytes_down": traffic[1],
        "ledger": ledger(core.ledger.total()), "lost_by_cause": dict(core.ledger.total().lost),
        "learners": [sample.plain() for sample in samples],
    }  # fmt: skip
