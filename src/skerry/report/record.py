"""A run's files, read for the report: figures.json, metrics.jsonl, eval.jsonl, faults.jsonl.

Rules: reading never changes a run; missing files are empty ones (a run that was interrupted has a report, too); all times
are seconds since the run began, as in metrics.jsonl (faults.jsonl and eval.jsonl bear the machine's clock, `unix`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skerry.errors import RunDirError

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All that the run's files say. `began`: the machine's clock (seconds since 1970) at t = 0."""

    run_dir: Path
    figures: Line
    learners: list[Line]
    rounds: list[Line]
    events: list[Line]
    evals: list[Line]
    faults: list[Line]
    began: float

    @staticmethod
    def read(run_dir: Path) -> RunRecord:
        """Raises RunDirError if there is no run."""
        metrics = _lines(run_dir / "metrics.jsonl")
        if not metrics:
            raise RunDirError(f"{run_dir} holds no run that has begun", remedy="name a directory under runs/")
        figures = run_dir / "figures.json"
        known = json.loads(figures.read_text()) if figures.exists() else {}
        began = _began(metrics)
        return RunRecord(
            run_dir=run_dir, figures=known, began=began,
            learners=[line for line in metrics if line["kind"] == "learner"],
            rounds=[line for line in metrics if line["kind"] == "round"],
            events=[line for line in metrics if line["kind"] == "event"],
            evals=[_timed(line, began) for line in _lines(run_dir / "eval.jsonl")],
            faults=[_timed(line, began) for line in _lines(run_dir / "faults.jsonl")],
        )  # fmt: skip

    @property
    def strikes(self) -> list[Line]:
        """The faults that struck, in order."""
        return [line for line in self.faults if line["event"] == "strike"]

    @property
    def wall_s(self) -> float:
        """Time of the last line of metrics."""
        return max(line["t"] for line in (*self.learners[-1:], *self.rounds[-1:], *self.events[-1:]))

    def spans(self, kind: str) -> list[tuple[int, str, float, float]]:
        """(learner, target, from, to) of the faults of that kind that last."""
        found, wall = [], self.wall_s
        for strike in self.strikes:
            if strike["kind"] == kind:
                over = [e["t"] for e in self.faults if e["event"] == "end" and e["fault"] == strike["fault"]]
                end = next((t for t in over if t >= strike["t"]), wall)
                found.append((strike["learner"], strike["target"], strike["t"], end))
        return found

    def recovered_s(self, strike: Line) -> float | None:
        """From the strike to the target's next merged contribution: the first one in a round that was opened after the
        strike (one of a round that was open already may have been handed in before). None: there was none."""
        for line in self.rounds:
            if line["t"] - line["open_s"] >= strike["t"] and strike["learner"] in line["included"]:
                return float(line["t"] - strike["t"])
        return None


def _lines(path: Path) -> list[Line]:
    """The whole lines of a JSON lines file, none if it is not there. A last line cut off by a kill is left out."""
    if not path.exists():
        return []
    data = path.read_bytes()
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines() if line]


def _began(metrics: list[Line]) -> float:
    return next((line["unix"] - line["t"] for line in metrics if "unix" in line), 0.0)


def _timed(line: Line, began: float) -> Line:
    return line if "t" in line else {**line, "t": round(line["unix"] - began, 3)}
