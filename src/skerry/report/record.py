"""A run's files, read for the report: figures.json, metrics.jsonl, eval.jsonl, faults.jsonl.

Rules: reading never changes a run; missing files are empty ones (a run that was interrupted has a report, too); all times
are seconds since the run began, as in metrics.jsonl (lines that bear the machine's clock, `unix`, are placed by the
syncer's `begin` events, which bear both). A resumed run goes on at its snapshot's time: what an earlier start of the
syncer wrote after that time was undone, and is left out.
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
    """All that the run's files say."""

    run_dir: Path
    figures: Line
    learners: list[Line]
    rounds: list[Line]
    events: list[Line]
    evals: list[Line]
    faults: list[Line]

    @staticmethod
    def read(run_dir: Path) -> RunRecord:
        """Raises RunDirError if there is no run."""
        metrics = _kept(_lines(run_dir / "metrics.jsonl"))
        if not metrics:
            raise RunDirError(f"{run_dir} holds no run that has begun", remedy="name a directory under runs/")
        figures = run_dir / "figures.json"
        known = json.loads(figures.read_text()) if figures.exists() else {}
        starts = [line for line in metrics if "unix" in line]
        return RunRecord(
            run_dir=run_dir, figures=known,
            learners=[line for line in metrics if line["kind"] == "learner"],
            rounds=[line for line in metrics if line["kind"] == "round"],
            events=[line for line in metrics if line["kind"] == "event"],
            evals=_rising(_lines(run_dir / "eval.jsonl")),
            faults=_placed(_lines(run_dir / "faults.jsonl"), starts),
        )  # fmt: skip

    @property
    def strikes(self) -> list[Line]:
        """The faults that struck, in order."""
        return [line for line in self.faults if line["event"] == "strike"]

    @property
    def wall_s(self) -> float:
        """Time of the last line of metrics."""
        return max(float(line["t"]) for line in (*self.learners[-1:], *self.rounds[-1:], *self.events[-1:]))

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
                return round(float(line["t"] - strike["t"]), 3)
        return None


def _lines(path: Path) -> list[Line]:
    """The whole lines of a JSON lines file, none if it is not there. A last line cut off by a kill is left out."""
    if not path.exists():
        return []
    data = path.read_bytes()
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines() if line]


def _kept(metrics: list[Line]) -> list[Line]:
    """The lines that still hold: at each new start of the syncer, those of later times go."""
    kept: list[Line] = []
    for line in metrics:
        if line.get("event") == "begin":
            while kept and kept[-1]["t"] > line["t"]:
                kept.pop()
        kept.append(line)
    return kept


def _rising(lines: list[Line]) -> list[Line]:
    """The lines in order of time; a line takes the place of earlier ones of a later time."""
    kept: list[Line] = []
    for line in lines:
        while kept and kept[-1]["t"] >= line["t"]:
            kept.pop()
        kept.append(line)
    return kept


def _placed(lines: list[Line], starts: list[Line]) -> list[Line]:
    """Lines with the machine's clock given their time in the run; those that a resumption has undone are left out."""
    found = []
    for line in lines:
        if "unix" in line:
            i = max((i for i, start in enumerate(starts) if start["unix"] <= line["unix"]), default=0)
            t = starts[i]["t"] + line["unix"] - starts[i]["unix"] if starts else 0.0
            if i + 1 < len(starts) and t > starts[i + 1]["t"]:
                continue
            line = {**line, "t": round(t, 3)}
        found.append(line)
    return found
