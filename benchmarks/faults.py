"""Nobody waits: what a fault of one learner does to the others. `python -m benchmarks.faults [--quick] [--only NAME]`.

For each fault, `skerry train` runs with as many learners as there are cores (3 to 4): there are always others. What they
suffer by sharing cores shows in the run without a fault. The last one, the victim, is struck. 3 repeats, each with the run
without a fault, which shows the machine's own noise. Bars, on the median of the repeats:

- every other learner: longest time in the step hook <= half its median step; longest gap between two steps <= 3 median
  steps; no token lost but by overlap (in every repeat)
- a killed trainer's learner is merged again within 15 s (in every repeat)
- a killed agent's trainer does not notice: the bars of the others hold for itself
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._table import Row, at_least, at_most, report

from skerry.launch.guardian import Guardian

RUNS = Path("build/bench-faults")
LEARNERS = max(3, min(4, len(os.sched_getaffinity(0))))
VICTIM = LEARNERS - 1
STRIKE_S = 5
SLOW = 0.6  # share of what the run sends to a learner that keeps up
FRAGMENTS = 24
BASE = ["--recipe.model", "tiny", "--recipe.context", "128", "--recipe.batch", "20",
        "--policy.wait-for", str(LEARNERS), "--policy.fragments", str(FRAGMENTS),
        "--policy.interval", str(FRAGMENTS)]  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """A fault, as text for --chaos, and how many seconds of training show what it does."""

    name: str
    chaos: str
    seconds: int


SCENARIOS = [
    Scenario("no fault", "", 15),
    Scenario("trainer killed", f"kill:{VICTIM}.trainer@{STRIKE_S}s", 30),
    Scenario("agent killed", f"kill:{VICTIM}.agent@{STRIKE_S}s", 20),
    Scenario("island frozen 20 s", f"stop:{VICTIM}@{STRIKE_S}s+20s", 55),
    Scenario("half speed", f"slow:{VICTIM}x0.5@{STRIKE_S}s", 25),
    Scenario("slow reader", "", 30),
]
SLOW_READER = "slow reader"


class SlowPipe:
    """A TCP relay on loopback that passes on what the syncer sends at a trickle: a peer that reads slowly."""

    def __init__(self, target: tuple[str, int], bytes_s: int) -> None:
        self._target, self._rate = target, bytes_s
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self._socket.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """No new connections; those there are end with either side."""
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._socket.accept()
                far = socket.socket()
                far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)  # nothing may hide in large buffers
                far.connect(self._target)
            except OSError:
                return
            for source, sink, rate in ((near, far, 0), (far, near, self._rate)):
                threading.Thread(target=_relay, args=(source, sink, rate), daemon=True).start()


def _relay(source: socket.socket, sink: socket.socket, rate: int) -> None:
    try:
        while data := source.recv(4096 if rate else 1 << 18):
            sink.sendall(data)
            if rate:
                time.sleep(len(data) / rate)
    except OSError:
        pass
    finally:
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


@contextmanager
def _slow_reader(run_dir: Path, bytes_s: int, guardian: Guardian) -> Iterator[None]:
    """Let the victim join through a slow pipe as soon as the run's syncer listens."""
    process: subprocess.Popen[bytes] | None = None
    pipe: SlowPipe | None = None
    over = threading.Event()

    def join() -> None:
        nonlocal process, pipe
        while not (run_dir / "address").exists():
            if over.wait(0.1):
                return
        host, _, port = (run_dir / "address").read_text().strip().rpartition(":")
        pipe = SlowPipe((host, int(port)), bytes_s)
        command = [sys.executable, "-m", "skerry.cli", "join", pipe.address, "--token-file", str(run_dir / "token"),
                   "--config", str(run_dir / "config.toml"), "--id", str(VICTIM)]  # fmt: skip
        with (run_dir / "slow-reader.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=guardian.environment())

    thread = threading.Thread(target=join)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if process is not None:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if pipe is not None:
            pipe.close()


def run(scenario: Scenario, repeat: int, guardian: Guardian, step_s: float, params: int = 0) -> dict[str, Any]:
    """One run; gives its summary. `step_s`: a step's expected time, to turn seconds into a budget of steps."""
    run_dir = RUNS / f"{scenario.name.replace(' ', '-')}-{repeat}"
    shutil.rmtree(run_dir, ignore_errors=True)
    slow = scenario.name == SLOW_READER
    command = [sys.executable, "-m", "skerry.cli", "train", "--syncer.run-dir", str(run_dir), *BASE,
               "--policy.steps", str(round(scenario.seconds / step_s)), "--chaos", scenario.chaos,
               "--learners", str(LEARNERS - 1 if slow else LEARNERS), "--launch.no-evaluate"]  # fmt: skip
    if slow:
        command += ["--recipe.shards", str(LEARNERS), "--policy.wait-for", str(LEARNERS - 1)]
        with _slow_reader(run_dir, round(SLOW * params * 4 / FRAGMENTS / step_s), guardian):
            _must(command, guardian)
    else:
        _must(command, guardian)
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def _must(command: list[str], guardian: Guardian) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=guardian.environment())
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _told(scenario: Scenario, repeat: int, summary: dict[str, Any]) -> str:
    parts = [
        f"{one['learner']}: step {one['median_step_s'] * 1000:.0f} ms, gap x{one['max_gap_ratio']:.2f}, "
        f"hook {one['max_hook_s'] * 1000:.1f} ms"
        for one in summary["per_learner"] if one["median_step_s"]
    ]  # fmt: skip
    back = "".join(f"  recovered after {f['recovered_s']} s" for f in summary["faults"] if f["kind"] != "slow")
    return f"{scenario.name} #{repeat}: {'; '.join(parts)}{back}"


def rows(scenario: Scenario, summaries: list[dict[str, Any]]) -> list[Row]:
    """The scenario's rows: a bar for every learner that must not notice."""
    found: list[Row] = []
    for learner in range(LEARNERS):
        bars = learner != VICTIM or scenario.name == "agent killed"
        seen = [one for s in summaries for one in s["per_learner"] if one["learner"] == learner and one["median_step_s"]]
        if learner == VICTIM and scenario.name == SLOW_READER:
            steps = min(one["steps"] for s in summaries for one in s["per_learner"] if one["learner"] == VICTIM)
            found.append(at_least(f"{scenario.name}: it takes part, its steps", steps, 1))
        elif not bars or scenario.name == "no fault":
            found += [Row(f"{scenario.name}: {_who(learner)} gap / median step {_all(seen, _gap)}", _median(seen, _gap))]
        else:
            found += _bars(scenario, learner, seen)
    if scenario.name == "trainer killed":
        times = [fault["recovered_s"] for s in summaries for fault in s["faults"]]
        worst = max(float("inf") if t is None else t for t in times)
        found.append(at_most(f"{scenario.name}: merged again after {times}, worst", worst, 15, "s"))
    return found


def _bars(scenario: Scenario, learner: int, seen: list[dict[str, Any]]) -> list[Row]:
    lost = max(sum(v for cause, v in one["lost_by_cause"].items() if cause != "overlap") for one in seen)
    return [
        at_most(f"{scenario.name}: {_who(learner)} gap / median step {_all(seen, _gap)}", _median(seen, _gap), 3),
        at_most(f"{scenario.name}: {_who(learner)} hook / median step {_all(seen, _hook)}", _median(seen, _hook), 0.5),
        at_most(f"{scenario.name}: {_who(learner)} lost but by overlap", lost, 0, "tokens"),
    ]


def _step(summary: dict[str, Any]) -> float:
    return statistics.median([one["median_step_s"] for one in summary["per_learner"]])


def _who(learner: int) -> str:
    return f"learner {learner}" + (" (victim)" if learner == VICTIM else "")


def _gap(one: dict[str, Any]) -> float:
    return float(one["max_gap_ratio"])


def _hook(one: dict[str, Any]) -> float:
    return float(one["max_hook_s"] / one["median_step_s"])


def _median(seen: list[dict[str, Any]], of: Any) -> float:
    return statistics.median([of(one) for one in seen]) if seen else float("nan")


def _all(seen: list[dict[str, Any]], of: Any) -> str:
    return "(" + " ".join(f"{of(one):.2f}" for one in seen) + ")"


def main() -> int:
    """All scenarios, repeat by repeat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one repeat of each, for development")
    parser.add_argument("--only", help="one scenario by its name")
    options = parser.parse_args()
    chosen = [s for s in SCENARIOS if options.only in (None, s.name)]
    repeats = 1 if options.quick else 3
    print(f"{len(chosen)} scenarios x {repeats}, {LEARNERS} learners, learner {VICTIM} is the victim", flush=True)
    guardian = Guardian()  # nothing started here outlives this process
    first = run(Scenario("calibration", "", 10), 0, guardian, 0.2)
    step_s = _step(first)
    found: dict[str, list[dict[str, Any]]] = {s.name: [] for s in chosen}
    for repeat in range(repeats):
        for scenario in chosen:
            summary = run(scenario, repeat, guardian, step_s, first["params"])
            found[scenario.name].append(summary)
            step_s = _step(summary) if scenario.name == "no fault" else step_s  # the machine may have changed its mind
            print(_told(scenario, repeat, summary), flush=True)
    guardian.dismiss()
    return report("faults", [row for s in chosen for row in rows(s, found[s.name])])


if __name__ == "__main__":
    raise SystemExit(main())
