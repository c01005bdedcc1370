"""summary.json: one flat object of final figures. What each key means stands here and, for people, in docs/summary.md
(a test compares both with the records).

Rules: the syncer's own figures (store: figures.json) are taken as they are; this file adds what only the launcher's files
know: evaluation and faults. Absent figures (no evaluation, an interrupted run) are null, never left out.
"""

from __future__ import annotations

import msgspec

from skerry.store.fold import RunState
from skerry.store.records import FaultFigures, Summary

KEYS = {
    "params": "trainable parameters; tied ones once",
    "learners": "learners that ever joined",
    "rounds": "rounds that brought a new version",
    "mean_contributors": "learners merged in a round, on average",
    "wall_s": "seconds from the first learner's join to the end of the run",
    "tokens_processed": "tokens that all learners trained on",
    "tokens_merged": "of these, merged into the global model (parameter-weighted)",
    "tokens_pending": "of these, neither merged nor lost; 0 after a clean end",
    "tokens_lost": "of these, in no version and never to be",
    "lost_by_cause": "tokens_lost by cause: overlap (overwritten after its hand-over, by design), excluded (overwritten "
    "without a merge), refused, died",
    "ledger": "the same exactly, in integers: tokens times parameters; processed = merged + pending + lost",
    "goodput": "sum over steps of step time times the parameter-weighted share of its tokens merged or overlapped, over "
    "the sum over learners of end minus first join",
    "eval_loss_first": "loss of the first global model on the held-out windows, nats per byte",
    "eval_loss": "loss of the last global model on the held-out windows, nats per byte",
    "bytes_up": "bytes from learners to the syncer as on the sockets, without TLS",
    "bytes_down": "bytes from the syncer to learners as on the sockets, without TLS",
    "data_parallel_bytes": "what a bf16 ring all-reduce of the gradients would have sent for the same steps",
    "data_sha256": "hash over the names and contents of the training data's files",
    "per_learner": "one entry a learner",
    "faults": "one entry for each fault of --chaos that struck",
}
LEARNER_KEYS = {
    "learner": "its id",
    "generations": "how often it began anew, its first time among them",
    "steps": "steps made, over all generations",
    "tokens": "tokens trained on",
    "median_step_s": "median time between two step hooks",
    "max_gap_s": "longest time between two step hooks from the third step on, its trainer being alive and unfrozen",
    "max_gap_ratio": "max_gap_s over median_step_s",
    "hook_share": "share of the training time spent inside the step hook",
    "max_hook_s": "longest time inside one step hook",
    "lost_by_cause": "its lost tokens by cause",
}
FAULT_KEYS = {
    "kind": "kill, stop, slow, join, leave, cut, halfopen or full",
    "target": "learner, or learner.trainer, learner.agent, or syncer",
    "at_s": "when it struck, in seconds since the run began",
    "recovered_s": "from the strike to the target's next merged contribution (the syncer's: version); null if none",
}


def summarise(known: Summary, state: RunState, data_sha256: str | None = None) -> Summary:
    """`known`: what figures.json tells; `state`: of all the run's records."""
    return msgspec.structs.replace(
        known,
        eval_loss_first=state.losses[0].loss if state.losses else None,
        eval_loss=state.losses[-1].loss if state.losses else None,
        data_sha256=data_sha256,
        faults=tuple(FaultFigures(kind=fault.note.kind, target=fault.note.target, at_s=fault.t, recovered_s=fault.recovered_s)
                     for fault in state.faults),
    )  # fmt: skip
