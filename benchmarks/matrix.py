"""Every fault against every part of a run. `python -m benchmarks.matrix [--quick] [--only TEXT]`: what each must leave holds.

    {SIGKILL, SIGSTOP 20 s, link cut 5 s, half-open 30 s, disk full 20 s, SIGTERM} x {trainer, agent, syncer, all at once}

Three learners of the nano model; the fault strikes a few seconds after all of them train. A link belongs to an agent; the
syncer's and "all" are all links at once; a trainer has none. SIGTERM asks a trainer to leave, an agent to end (its trainer
starts another), the syncer to save and end, the launcher to end everything in order; the latter two runs are resumed, and
must end then. What must hold afterwards, in each:

- the run ends with exit code 0 and its model is exported; every token is merged or lost, none pending
- no token is lost but by overlap, save those of a trainer that was killed (`died`) and of nobody else
- only a killed trainer's learner begins anew; nobody is started again but who was killed
- every fault struck (the kernel showed it, or the run ends with an error)
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._table import Row, report
from benchmarks._watched import Outcome, Watched, send

from skerry.launch.guardian import Guardian
from skerry.store.metrics import read
from skerry.store.records import Started

RUNS = Path("build/bench-matrix")
LEARNERS = 3
VICTIM = LEARNERS - 1
AT = "@3s"
BASE = ["--learners", str(LEARNERS), "--policy.wait-for", str(LEARNERS), "--recipe.model", "nano", "--recipe.context", "64",
        "--recipe.batch", "8", "--policy.final-timeout", "120", "--policy.quorum", "2", "--launch.no-evaluate"]  # fmt: skip
ALL = tuple(range(LEARNERS))


@dataclass(frozen=True)
class Cell:
    """`chaos`: the fault as text, if that can say it; `by_hand`: else. `anew`: learners that may begin anew, and lose what they
    had not handed over; `starts`: how often processes are started again, by learner (-1 the syncer); `ends`: it ends the run,
    with that exit code, which must end well when it is resumed. `lasts`: seconds of the fault."""

    fault: str
    part: str
    chaos: str = ""
    by_hand: Callable[[Watched], None] | None = None
    anew: tuple[int, ...] = ()
    starts: dict[int, int] = field(default_factory=dict)
    ends: int | None = None
    lasts: float = 0.0

    @property
    def name(self) -> str:
        """As one says it."""
        return f"{self.fault}, {self.part}"


def each(text: str) -> str:
    """The fault for every learner."""
    return " ".join(text.format(learner) for learner in ALL)


def ends_the_agent(run: Watched) -> None:
    """SIGTERM to the victim's agent."""
    send(run.agent(VICTIM), signal.SIGTERM)


def ends_the_syncer(run: Watched) -> None:
    """SIGTERM to the syncer."""
    send(run.syncer(), signal.SIGTERM)


def ends_the_launcher(run: Watched) -> None:
    """SIGTERM to the launcher."""
    run.process.send_signal(signal.SIGTERM)


def cells() -> list[Cell]:
    """The matrix."""
    one, died = f":{VICTIM}", {VICTIM: 1}
    everybody = dict.fromkeys((-1, *ALL), 1)
    return [
        Cell("SIGKILL", "trainer", f"kill{one}.trainer{AT}", anew=(VICTIM,), starts=died),
        Cell("SIGKILL", "agent", f"kill{one}.agent{AT}"),
        Cell("SIGKILL", "syncer", f"kill:syncer{AT}", starts={-1: 1}),
        Cell("SIGKILL", "all at once", f"kill:syncer{AT} " + each(f"kill:{{}}{AT}"), anew=ALL, starts=everybody),
        Cell("SIGSTOP", "trainer", f"stop{one}.trainer{AT}+20s", lasts=20),
        Cell("SIGSTOP", "agent", f"stop{one}.agent{AT}+20s", lasts=20),
        Cell("SIGSTOP", "syncer", f"stop:syncer{AT}+20s", lasts=20),
        Cell("SIGSTOP", "all at once", f"stop:syncer{AT}+20s " + each(f"stop:{{}}{AT}+20s"), lasts=20),
        Cell("link cut", "agent", f"cut{one}{AT}+5s", lasts=5),
        Cell("link cut", "syncer", each(f"cut:{{}}{AT}+5s"), lasts=5),
        Cell("link cut", "all at once", each(f"cut:{{}}{AT}+5s") + f" kill:syncer{AT}", starts={-1: 1}, lasts=5),
        Cell("half-open", "agent", f"halfopen{one}{AT}+30s", lasts=30),
        Cell("half-open", "syncer", each(f"halfopen:{{}}{AT}+30s"), lasts=30),
        Cell("half-open", "all at once", each(f"halfopen:{{}}{AT}+30s") + f" kill:syncer{AT}", starts={-1: 1}, lasts=30),
        Cell("disk full", "trainer", f"full{one}.trainer{AT}+20s", lasts=20),
        Cell("disk full", "agent", f"full{one}.agent{AT}+20s", lasts=20),
        Cell("disk full", "syncer", f"full:syncer{AT}+20s", lasts=20),
        Cell("disk full", "all at once", f"full:syncer{AT}+20s " + each(f"full:{{}}{AT}+20s"), lasts=20),
        Cell("SIGTERM", "trainer", f"leave{one}{AT}"),
        Cell("SIGTERM", "agent", by_hand=ends_the_agent),
        Cell("SIGTERM", "syncer", by_hand=ends_the_syncer, ends=0),
        Cell("SIGTERM", "all at once", by_hand=ends_the_launcher, ends=130),
    ]


def run(cell: Cell, step_s: float, guardian: Guardian) -> list[str]:
    """What did not hold."""
    run_dir = RUNS / cell.name.replace(", ", "-").replace(" ", "-")
    steps = ["--policy.steps", str(round((15 + cell.lasts) / step_s))]
    with Watched(run_dir, [*BASE, *steps], guardian, cell.chaos) as live:
        if cell.by_hand is not None:
            live.until(lambda: live.state.all_train(LEARNERS))
            live.sleep(3)
            cell.by_hand(live)
        found = live.outcome(300)
    if cell.ends is None:
        return wrong(cell, found, run_dir)
    before = [] if found.code == cell.ends else [f"ended with {found.code}, not {cell.ends}"]
    at = live.state.step
    again = ["--config", str(run_dir / "config.toml"), "--resume", "--policy.steps", str(at + 100)]
    with Watched(run_dir, again, guardian) as live:
        found = live.outcome(300)
    return before + wrong(Cell(cell.fault, cell.part, anew=ALL), found, None)


def wrong(cell: Cell, found: Outcome, run_dir: Path | None) -> list[str]:
    """What does not hold of a run that has ended."""
    if found.code or not found.summary:
        return [f"ended with {found.code}: " + " ".join(found.said.strip().splitlines()[-1:])]
    others = tuple(learner for learner in ALL if learner not in cell.anew)
    told = []
    if not found.exact:
        told.append(f"the ledger: {found.summary['ledger']}")
    if found.lost(learners=others):
        told.append(f"lost but by overlap: {found.lost(learners=others):.0f}")
    if found.lost(but=("overlap", "died")):
        told.append(f"lost but by overlap or a death: {found.lost(but=('overlap', 'died')):.0f}")
    anew = {one["learner"] for one in found.summary["per_learner"] if one["generations"] > 1} - set(cell.anew)
    if anew:
        told.append(f"learners {sorted(anew)} began anew")
    if not found.exported:
        told.append("no model was exported")
    if run_dir is not None:
        starts = [note.learner for note in read(run_dir / "faults.jsonl") if isinstance(note, Started)]
        again = {learner: starts.count(learner) - 1 for learner in (-1, *ALL) if starts.count(learner) != 1}
        if again != cell.starts:
            told.append(f"started again: {again}, not {cell.starts}")
    return told


def calibrate(guardian: Guardian) -> float:
    """Seconds of a step."""
    with Watched(RUNS / "calibration", [*BASE, "--policy.steps", "200"], guardian) as live:
        return live.outcome().step_s


def main() -> int:
    """Cell by cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the faults of the syncer alone, for development")
    parser.add_argument("--only", help="cells whose name holds this text, as in \"SIGKILL\" or \"half-open, agent\"")
    options = parser.parse_args()
    guardian = Guardian()
    step_s, rows = calibrate(guardian), []
    for cell in cells():
        if (options.only or "") not in cell.name or (options.quick and cell.part != "syncer"):
            continue
        told = run(cell, step_s, guardian)
        rows.append(Row(cell.name, "; ".join(told) or "all holds", "", "all holds", not told))
        print(f"{cell.name}: {rows[-1].value}", flush=True)
    guardian.dismiss()
    return report("matrix", rows)


if __name__ == "__main__":
    raise SystemExit(main())
