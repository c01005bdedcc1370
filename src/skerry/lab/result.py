"""What a run of the lab gives: figures that a real run's files have too, under the same meanings, and the loss curve."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch


class Point(NamedTuple):
    """An evaluation of the global model on the held-out part."""

    step: int  # the run's step t
    tokens: int  # processed by all learners
    virtual_s: float
    loss: float  # nats per token


@dataclass(frozen=True, kw_only=True)
class Result:
    """`tokens`: processed, merged, pending, lost (by cause); of all learners. `wait_share`: share of the learners' time in
    which they stood because of others; `goodput`: share of it that went into work which was merged, or overwritten by
    design (`overlap`). `bytes`: of bodies, up and down. `model_hash`: SHA-256 of the final parameters."""

    eval_loss: float
    eval_curve: tuple[Point, ...]
    tokens: dict[str, Any]
    per_learner: tuple[dict[str, Any], ...] = ()
    rounds: int = 0
    rounds_skipped: int = 0
    rounds_cancelled: int = 0
    mean_contributors: float = 0.0
    virtual_s: float
    wait_share: float
    goodput: float
    bytes: dict[str, int]
    params: int
    faults: tuple[dict[str, Any], ...] = ()
    model_hash: str

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "eval_curve": [list(point) for point in self.eval_curve]}


def hash_of(parameters: Sequence[torch.Tensor]) -> str:
    """SHA-256 of their bytes, in order."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().to("cpu").contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
