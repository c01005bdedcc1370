"""What a run looks like just now, from the files it writes: metrics.jsonl, eval.jsonl and the launcher's own notes.

Rules: read-only and forgiving (a line that is not there yet, or only half, is read next time); nothing here asks a
process anything, so that looking at a run never slows it.
"""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECENT_ROUNDS = 48
RECENT_EVENTS = 8


class Tail:
    """The whole lines that were added to a file since the last look."""

    def __init__(self, path: Path, *, skip: bool = False) -> None:
        """`skip`: begin at the file's present end."""
        self._path = path
        self._at = path.stat().st_size if skip and path.exists() else 0

    def new(self) -> list[dict[str, Any]]:
        """The objects on new lines; none while the file is not there."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return [json.loads(line) for line in whole.splitlines() if line]


@dataclass
class RunView:
    """The latest of everything. `feed` takes one line of metrics.jsonl, `evaluated` one of eval.jsonl."""

    name: str
    budget: int = 0
    """Steps that the run is to make; 0: not known."""
    t: float = 0.0
    began: float | None = None
    """The machine's clock at t = 0, once the syncer has told."""
    ended: bool = False
    """The run has reached its end."""
    exported: bool = False
    """The model is on disk."""
    step: int = 0
    rounds: int = 0
    learners: dict[int, dict[str, Any]] = field(default_factory=dict)
    restarts: dict[int, int] = field(default_factory=dict)
    recent: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=RECENT_ROUNDS))
    losses: list[tuple[int, float]] = field(default_factory=list)
    events: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT_EVENTS))

    def feed(self, line: dict[str, Any]) -> str | None:
        """Take a line in; gives text worth telling at once, if it bears any."""
        self.t = max(self.t, line["t"])
        if "unix" in line:
            self.began = line["unix"] - line["t"]
        if line["kind"] == "learner":
            self.learners[line["learner"]] = line
        elif line["kind"] == "round":
            self.rounds += 1
            self.step = max(self.step, line["step"])
            self.recent.append(line)
        elif line["kind"] == "event":
            self.ended |= line["event"] == "run_over"
            self.exported |= line["event"] == "export"
            return self.say(_told(line))
        return None

    def evaluated(self, line: dict[str, Any]) -> str:
        """Take a line of eval.jsonl in; gives text worth telling."""
        self.losses.append((line["step"], line["loss"]))
        return self.say(f"step {line['step']}: eval loss {line['loss']:.3f}")

    def say(self, text: str) -> str:
        """Note an event; gives it with the time before it."""
        self.events.append(f"{self.now:6.1f}s  {text}")
        return self.events[-1]

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        return self.t if self.began is None else time.time() - self.began

    @property
    def contributors(self) -> float:
        """Mean contributors of the last rounds."""
        return sum(r["contributors"] for r in self.recent) / len(self.recent) if self.recent else 0.0

    @property
    def grace_s(self) -> float:
        """Mean grace of the last rounds, in seconds."""
        return sum(r["grace_s"] for r in self.recent) / len(self.recent) if self.recent else 0.0

    @property
    def tokens_s(self) -> float:
        """Tokens a second of all learners that train."""
        return sum(line.get("tokens_s") or 0.0 for line in self.learners.values() if line.get("state") != "dead")

    def all_train(self, learners: int) -> bool:
        """Whether the learners 0 to `learners` - 1 are all there and have made a step."""
        lines = [self.learners.get(m, {}) for m in range(learners)]
        return all(line.get("state") == "training" and line["steps"] > 0 for line in lines)


def _told(line: dict[str, Any]) -> str:
    who = f"learner {line['learner']} " if line.get("learner", -1) >= 0 else ""
    text = f": {line['text']}" if line.get("text") else ""
    return f"{who}{line['event']}{text}"
