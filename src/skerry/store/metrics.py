"""metrics.jsonl: one JSON object a line. Every line has `t` (seconds since the run began) and `kind`:

learner   once a second for each learner that was ever here: learner, generation, state (joining, training, silent, dead, left),
          clock, steps, tokens (of all its generations), tokens_s, and once it sent vitals: loss, median_step_s, max_gap_s,
          max_hook_s, hook_share, pid_trainer, pid_agent, host
round     once for each closed round: fragment, step, version, contributors, included (in order of arrival), learners (live),
          open_s (from its opening to its close), grace_s (of that, waited after the quorum was complete)
event     event (begin, join, dead, silent, back, leave, refused, cancelled, finish, end, snapshot, export, trouble), text, and
          learner where one is meant. `begin` bears the machine's clock (unix), the run id and the address.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from skerry.store.files import Growing, Say


class MetricsLog:
    """The writer of metrics.jsonl; `say` hears of disk trouble."""

    def __init__(self, path: Path, say: Say) -> None:
        """Append to `path`, or create it. Raises OSError."""
        self._file = Growing(path, say)

    def line(self, t: float, kind: str, **fields: Any) -> None:
        """One line. Figures that are no numbers (NaN, infinite) are written as null."""
        self._file.add(msgspec.json.encode({"t": round(t, 3), "kind": kind, **fields}) + b"\n")

    def flush(self) -> None:
        """See Growing.flush."""
        self._file.flush()

    def close(self) -> None:
        """See Growing.close."""
        self._file.close()
