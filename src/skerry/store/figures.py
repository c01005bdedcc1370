"""The run in numbers, from the syncer's core: the status of each second, and the final figures.

Ledger amounts are exact integers, tokens x parameters; figures in tokens are those divided by the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from skerry.core.ledger import Tally
from skerry.core.syncer import SyncerCore
from skerry.store.records import Amounts, Budget, Figures, LearnerFigures, Pace, Status


def ledger(total: Tally) -> Amounts:
    """The ledger's four amounts; pending is what neither was merged nor lost."""
    lost = sum(total.lost.values())
    return Amounts(processed=total.processed, merged=total.merged, lost=lost, pending=total.processed - total.merged - lost)


def status(run: str, core: SyncerCore, t: float, traffic: tuple[int, int]) -> Status:
    """What the core knows of it."""
    rounds, policy, total = core.rounds, core.policy, core.ledger.total()
    return Status(
        t=round(t, 3), run=run, phase=core.phase, step=core.step, progress=core.progress,
        budget=Budget(steps=policy.steps, tokens=policy.tokens), params=core.layout.total, rounds=rounds.closed,
        rounds_open=rounds.under_way, refused=rounds.refused, rounds_cancelled=rounds.cancelled, rounds_skipped=rounds.skipped,
        mean_contributors=mean_contributors(core), grace_s=core.grace.window(), live=core.members.live,
        bytes_up=traffic[0], bytes_down=traffic[1], ledger=ledger(total), lost_by_cause=dict(total.lost.items()),
    )  # fmt: skip


def final_figures(run: str, core: SyncerCore, paces: Mapping[int, Pace], traffic: tuple[int, int], end: float) -> Figures:
    """What the syncer knows of the summary. `paces`: of the learners that told theirs; `end`: seconds, as the core's times."""
    total, params, members = core.ledger.total(), core.layout.total, list(core.members)
    amounts = ledger(total)
    present = presence(core, end)
    steps = sum(member.first_step + member.account.count.steps for member in members)
    useful_us = (total.busy_merged + total.busy_lost["overlap"]) / params
    return Figures(
        run=run, phase=core.phase, params=params, learners=len(members), step=core.step,
        rounds=core.rounds.closed, rounds_cancelled=core.rounds.cancelled, rounds_skipped=core.rounds.skipped,
        mean_contributors=mean_contributors(core),
        wall_s=round(end - min((member.first_join for member in members), default=end), 3),
        tokens_processed=_tokens(amounts.processed, params), tokens_merged=_tokens(amounts.merged, params),
        tokens_lost=_tokens(amounts.lost, params), tokens_pending=_tokens(amounts.pending, params),
        lost_by_cause={cause: _tokens(amount, params) for cause, amount in total.lost.items()},
        ledger=amounts, goodput=useful_us / 1e6 / present if present else 0.0,
        bytes_up=traffic[0], bytes_down=traffic[1],
        # in a ring all-reduce of bf16 gradients each of M members sends 2 (M - 1) / M of the gradient at each of its steps
        data_parallel_bytes=round(steps * 2 * (len(members) - 1) / max(len(members), 1) * params * 2),
        per_learner=tuple(_learner(core, member.id, paces.get(member.id, Pace())) for member in members),
    )  # fmt: skip


def presence(core: SyncerCore, end: float) -> float:
    """Seconds, up to `end`, that all learners have been of the run, from each one's first join on."""
    return sum(end - member.first_join for member in core.members)


def mean_contributors(core: SyncerCore) -> float:
    """Of a round."""
    return core.rounds.contributors / core.rounds.closed if core.rounds.closed else 0.0


def _learner(core: SyncerCore, learner: int, pace: Pace) -> LearnerFigures:
    member, tally = core.members.get(learner), core.ledger.tallies[learner]
    assert member is not None
    return LearnerFigures(
        **msgspec.structs.asdict(pace), learner=learner, generations=member.generation,
        steps=member.first_step + member.account.count.steps, tokens=tally.tokens,
        lost_by_cause={cause: _tokens(amount, core.layout.total) for cause, amount in tally.lost.items()},
    )  # fmt: skip


def _tokens(amount: int, params: int) -> float:
    return round(amount / params, 3)
