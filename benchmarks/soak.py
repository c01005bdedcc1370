"""Half an hour of faults: does anything grow, or stay behind? `python -m benchmarks.soak [--quick] [--minutes N]`, `make soak`.

Four learners of the tiny model train under one fault a minute, kinds and learners in turn: SIGKILL to a trainer, an agent, the
syncer; SIGSTOP to an island, the syncer; a link cut, half-open; a disk full for the syncer, an island; a trainer
slowed; a learner that leaves and comes back. Every two seconds it is written down what each process holds. Bars:

- resident memory of each kind of process: its median in the last third of the run within 3% of that in the second third
  (of processes that have lived a minute: a young one is still growing)
- open files and threads: no more at the end of the last third than at that of the second
- nothing left: no process of the run, nothing of it in /dev/shm, no half-written file in its directory
- growth on disk: the records less than METRICS_HOUR an hour, the tape less than TAPE_STEP a learner and step
- the run itself: it ends well, every fault struck, no token lost but by overlap, a death, or a leaving
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import psutil
from benchmarks._table import Row, at_most, report
from benchmarks._watched import RELAY, Outcome, Watched

from skerry.launch.chaos import AGENT
from skerry.launch.guardian import Guardian
from skerry.world.faults import Fault, FaultScript

RUN = Path("build/bench-soak/run")
LEARNERS = 4
LOOK_S = 2.0
YOUNG_S = 60.0
METRICS_HOUR = 24e6  # bytes: 8 learners at ten rounds a second come to that (docs/summary.md)
TAPE_STEP = 600.0  # bytes
SHM = Path("/dev/shm")
BASE = ["--learners", str(LEARNERS), "--policy.wait-for", str(LEARNERS), "--recipe.model", "tiny", "--recipe.context", "128",
        "--recipe.batch", "20", "--policy.final-timeout", "120"]  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What a process of that kind held."""

    at: float
    kind: str
    pid: int
    age: float
    memory: int
    files: int
    threads: int


def faults(minutes: int, seconds: float) -> FaultScript:
    """One every so many seconds; the last two minutes are quiet, so that every learner is there at the end."""
    kinds = cycle(["kill:{m}.trainer", "kill:{m}.agent", "kill:syncer", "stop:{m}+20s", "stop:syncer+20s", "cut:{m}+5s",
                   "halfopen:{m}+30s", "full:syncer+20s", "full:{m}+20s", "slow:{m}x0.5+30s", "leave:{m}"])  # fmt: skip
    script: list[Fault] = []
    for i in range(max(1, minutes - 2)):
        learner, at = i % LEARNERS, 5 + i * seconds
        what, _, lasts = next(kinds).format(m=learner).partition("+")
        pieces = [f"{what}@{at}s" + (f"+{lasts}" if lasts else "")]
        if what.startswith("leave"):
            pieces.append(f"join:{learner}@{at + seconds / 2}s")
        script += FaultScript.parse(" ".join(pieces))
    return FaultScript(tuple(script))


def look(run: Watched, at: float) -> list[Look]:
    """At every process of the run."""
    found = []
    with suppress(psutil.Error):
        launcher = psutil.Process(run.process.pid)
        for process in (launcher, *launcher.children(recursive=True)):
            with suppress(psutil.Error):
                kind = _kind(process, launcher)
                if kind:
                    found.append(Look(at, kind, process.pid, time.time() - process.create_time(), process.memory_info().rss,
                                      process.num_fds(), process.num_threads()))  # fmt: skip
    return found


def _kind(process: psutil.Process, launcher: psutil.Process) -> str:
    words = process.cmdline()
    if process == launcher:
        return "launcher"
    for word, kind in ((AGENT, "agent"), (RELAY, "relay"), ("syncer", "syncer"), ("join", "trainer"),
                       ("skerry.recipe.evaluate", "evaluator")):  # fmt: skip
        if word in words:
            return kind
    return ""


def soak(minutes: int, every: float, steps: int, guardian: Guardian) -> tuple[Outcome, list[Look], list[int]]:
    """The run, what was seen, and the processes that outlived it."""
    looks: list[Look] = []
    pids: dict[int, float] = {}
    with Watched(RUN, [*BASE, "--policy.steps", str(steps)], guardian, str(faults(minutes, every))) as run:
        due = 0.0
        while run.alive:
            run.turn()
            if time.monotonic() >= due:
                due = time.monotonic() + LOOK_S
                looks += look(run, time.time())
                with suppress(psutil.Error):
                    for process in psutil.Process(run.process.pid).children(recursive=True):
                        pids.setdefault(process.pid, process.create_time())
        found = run.outcome()
    time.sleep(1.0)
    return found, looks, [pid for pid, born in pids.items() if _lives(pid, born)]


def _lives(pid: int, born: float) -> bool:
    try:
        process = psutil.Process(pid)
        return bool(process.create_time() == born and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def growth(looks: list[Look]) -> list[Row]:
    """Of each kind of process: the last third against the second."""
    if not looks:
        return [Row("processes seen", 0, "", ">= 1", False)]
    begin, end = looks[0].at, looks[-1].at
    thirds: dict[str, dict[int, list[Look]]] = defaultdict(lambda: defaultdict(list))
    for one in looks:
        thirds[one.kind][min(2, int(3 * (one.at - begin) / (end - begin + 1e-9)))].append(one)
    rows = []
    for kind, by_third in sorted(thirds.items()):
        second, last = ([one for one in by_third[i] if one.age > YOUNG_S] for i in (1, 2))
        if not second or not last:
            rows.append(Row(f"{kind}: lived too shortly to be compared", len(by_third[1]) + len(by_third[2]), "looks"))
            continue
        before, after = (statistics.median(one.memory for one in part) for part in (second, last))
        rows.append(at_most(f"{kind}: resident memory {before / 1e6:.1f} -> {after / 1e6:.1f} MB, grows by",
                            100 * (after / before - 1), 3, "%"))  # fmt: skip
        for what in ("files", "threads"):
            most = [statistics.median(getattr(one, what) for one in part[-50:]) for part in (second, last)]
            rows.append(at_most(f"{kind}: open {what}" if what == "files" else f"{kind}: threads", most[1], most[0]))
    return rows


def left(pids: list[int], shm: set[str]) -> list[Row]:
    """What is there that should not be."""
    there = {path.name for path in SHM.iterdir()} - shm if SHM.is_dir() else set()
    parts = [path for path in RUN.rglob("*") if path.suffix == ".part" or path.name.startswith(".tmp")]
    return [at_most("processes left", len(pids), 0), at_most("files left in /dev/shm", len(there), 0),
            at_most("half-written files left", len(parts), 0)]  # fmt: skip


def on_disk(found: Outcome) -> list[Row]:
    """What the run wrote."""
    hours = float(found.summary["wall_s"]) / 3600
    steps = sum(one["steps"] for one in found.summary["per_learner"])
    metrics = sum(path.stat().st_size for path in (*RUN.glob("metrics.jsonl"), *RUN.glob("metrics/*")))
    tape = sum(path.stat().st_size for path in RUN.glob("tape/*"))
    logs = sum(path.stat().st_size for path in RUN.glob("logs/*"))
    return [at_most("records, an hour", metrics / hours, METRICS_HOUR, "bytes"),
            at_most("tape, a learner and step", tape / max(steps, 1), TAPE_STEP, "bytes"),
            Row("logs, an hour", logs / hours, "bytes")]  # fmt: skip


def main() -> int:
    """Calibrate, run, look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five minutes, a fault every 20 s, for development")
    parser.add_argument("--minutes", type=int, help="how long (30)")
    options = parser.parse_args()
    minutes, every = options.minutes or (5 if options.quick else 30), 20.0 if options.quick else 60.0
    guardian = Guardian()
    with Watched(RUN.with_name("calibration"), [*BASE, "--policy.steps", "50"], guardian) as first:
        step_s = first.outcome().step_s
    shm = {path.name for path in SHM.iterdir()} if SHM.is_dir() else set()
    count = round(minutes * 60 / every)
    found, looks, pids = soak(count, every, round(minutes * 60 / step_s), guardian)
    guardian.dismiss()
    well = not found.code and bool(found.summary)
    rows = [at_most("the run ended with exit code", found.code, 0), Row("faults that struck", len(found.struck)),
            *growth(looks), *left(pids, shm)]  # fmt: skip
    if well:
        rows += [at_most("lost but by overlap or a death", found.lost(but=("overlap", "died")), 0, "tokens"),
                 at_most("tokens that do not add up", int(not found.exact), 0), *on_disk(found)]  # fmt: skip
    else:
        print(found.said[-2000:], flush=True)
    return report("soak", rows)


if __name__ == "__main__":
    raise SystemExit(main())
