"""What it costs that nothing is lost: `python -m benchmarks.log [--part log|step|rounds|restart]`.

log      an event on the tape, in the event loop's thread; its bytes; the replay of a whole segment
step     the outer step of 4.2M parameters, out of place: into plain memory, into a mapped file
rounds   a syncer's process and two puppets that answer at once, 25M parameters: rounds a second at each level, in turns,
         and how often a round waits for the disk
restart  of a run of 400M parameters: its values opened with every checksum compared, and a fragment encoded; a segment: see log

CPU times are the thread's own. The folder of the files is build/bench-log, on the disk that a checkout lies on.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from benchmarks._table import Row, at_least, at_most, report

from skerry.core.layout import Layout, TensorSpec, build_layout
from skerry.core.messages import Count, Join, Report
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.numerics.merger import Merger
from skerry.numerics.slots import Slots
from skerry.store.log import FULL, Tape
from skerry.store.tape import Head, read_tape, replay
from skerry.store.values import Values

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "bench-log"
POLICY = Policy(fragments=24, interval=24)
LEVELS = ("none", "process", "machine")
LEARNERS = 2
SECONDS = 8.0  # of one measurement of rounds
TURNS = 3
RUN = "0" * 16


def layout_of(params: int, fragments: int = 24) -> Layout:
    """So many parameters, in equal fragments."""
    specs = [TensorSpec(name=f"{i}.w", shape=(params // fragments // 1024, 1024)) for i in range(fragments)]
    return build_layout(specs, fragments, "balanced")


# ------------------------------------------------------------------ the log


def tape_at(folder: Path, level: str, layout: Layout) -> Tape:
    """A new one, whose owner does not listen."""
    head = Head(run=RUN, began=0.0, policy=POLICY, layout=layout, state=None)
    return Tape(folder, head, level=level, say=print, committed=lambda _: None, troubled=print, vanished=lambda: None)  # type: ignore[arg-type]


def log() -> list[Row]:
    """An event's costs; every tenth is followed by a decision."""
    layout = layout_of(1 << 20)
    core = SyncerCore(POLICY, layout)
    tape = tape_at(FOLDER / "tape", "process", layout)
    events = 0
    spent = 0.0
    for learner in range(8):
        took(tape, core, 0.0, Join(learner=learner, layout=layout.hash))
        events += 1
    while not tape.full:
        count = events // 8
        event = Report(learner=events % 8, generation=1, clock=count, count=Count(count, 8192 * count, 1_234_567 * count))
        began = time.thread_time()
        tape.event(events * 0.0137771, event)
        spent += time.thread_time() - began
        for action in core.handle(events * 0.0137771, event):
            began = time.thread_time()
            tape.action(action)
            spent += time.thread_time() - began
        events += 1
    idle = alone(tape, events)
    events += 1000
    while tape.committed < events:
        time.sleep(0.001)
    tape.close(1e6)
    size = tape.path.stat().st_size
    began = time.process_time()
    read = sum(1 for _ in read_tape(tape.path))
    reading = time.process_time() - began
    began = time.process_time()
    found = replay(tape.path)
    replaying = time.process_time() - began
    assert found.difference == "" and found.events == events == read - 2
    packed = len(gzip.compress(tape.path.read_bytes(), 6))
    timing = clock_cost()
    return [
        at_most("an event, while others follow", 1e6 * (spent / events - timing), 5.0, "us"),
        Row("an event alone, which wakes the writer", 1e6 * (idle - timing), "us"),
        Row("bytes of a learner's step", size / events), Row("the same, compressed", packed / events),
        Row(f"reading {FULL >> 20} MiB", reading, "s"), at_most(f"replaying {FULL >> 20} MiB", replaying, 3.0, "s"),
    ]  # fmt: skip


def took(tape: Tape, core: SyncerCore, t: float, event: Join) -> None:
    """An event and what follows."""
    tape.event(t, event)
    for action in core.handle(t, event):
        tape.action(action)


def alone(tape: Tape, events: int) -> float:
    """Seconds of an event to a writer that sleeps."""
    spent = 0.0
    event = Report(learner=99, generation=9, clock=0, count=Count())
    for number in range(1000):
        began = time.thread_time()
        tape.event(1e5 + number, event)
        tape.hurry()
        spent += time.thread_time() - began
        time.sleep(0.0005)
    return spent / 1000


def clock_cost() -> float:
    """Of asking for the time twice."""
    began = time.thread_time()
    for _ in range(10_000):
        time.thread_time()
    return (time.thread_time() - began) / 10_000


# ------------------------------------------------------------------ the outer step


def step() -> list[Row]:
    """The fastest of many, for each memory."""
    layout = layout_of(2 * 4_200_000, 2)
    policy = POLICY.replace(fragments=2)
    rows = []
    file = Values.create(FOLDER / "values", layout, RUN)
    for name, slots in (("plain memory", Slots(layout)), ("a mapped file", file)):
        merger = Merger(policy, layout, slots)
        for fragment, size in enumerate(layout.sizes):
            merger.adopt(fragment, np.zeros(size, np.float32))
        body = np.zeros(merger.up.nbytes(layout.sizes[0]), np.uint8)
        times = []
        for number in range(1, 20):
            merger.add(0, number, body.data, merger.screen(0, body.data), 1.0)
            accumulator, memory = merger._rounds.pop((0, number))
            began = time.perf_counter()
            checksum = merger._step(0, accumulator)
            times.append(time.perf_counter() - began)
            merger._spare.append(memory)
            slots.flip(0, version=number, step=number, position=number, checksum=checksum)
        rows.append(Row(f"outer step of {layout.sizes[0] / 1e6:.1f}M parameters, checked, into {name}", 1e3 * min(times), "ms"))
    return rows


# ------------------------------------------------------------------ rounds


def rounds() -> list[Row]:
    """Each level in turns, so that all meet the same neighbours."""
    found: dict[str, list[tuple[float, float]]] = {level: [] for level in LEVELS}
    for turn in range(TURNS):
        for level in LEVELS:
            found[level].append(asyncio.run(rate(level, FOLDER / f"{level}-{turn}")))
            shutil.rmtree(FOLDER / f"{level}-{turn}")
    speed = {level: statistics.median(pair[0] for pair in pairs) for level, pairs in found.items()}
    syncs = max(pair[1] for pair in found["machine"])
    return [
        *(Row(f"rounds a second, 25M parameters, level {level}", speed[level]) for level in LEVELS),
        at_least("process / none", speed["process"] / speed["none"], 0.9),
        at_least("machine / none", speed["machine"] / speed["none"], 0.75),
        at_most("waits for the disk in a round, machine", syncs, 5.0),
    ]  # fmt: skip


async def rate(level: str, run_dir: Path) -> tuple[float, float]:
    """Rounds a second, and fdatasyncs a round."""
    sys.path[:0] = [str(ROOT / "tests")]
    from support.puppet import TOKEN, Puppet, until  # type: ignore[import-not-found]

    class Quick(Puppet):  # type: ignore[misc]
        """Its steps take no time."""

        def learn(self) -> None:
            pass

    token = FOLDER / "token"
    token.write_bytes(TOKEN.secret)
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.log", "--syncer", str(run_dir), level, str(token)],
                               cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        assert process.stdout is not None
        address = (await asyncio.to_thread(process.stdout.readline)).decode().split()[2]
        puppets = [Quick(POLICY, layout_of(25_000_000), learner=learner) for learner in range(LEARNERS)]
        for puppet in puppets:
            await puppet.join(address)
        await until(lambda: all(puppet.begun for puppet in puppets))

        def versions() -> int:
            return sum(puppets[0].memory.base)

        async def drive(enough: Callable[[], bool]) -> None:
            while not enough():
                for puppet in puppets:
                    if not puppet.ahead:
                        puppet.step()
                await asyncio.sleep(0)

        await drive(lambda: versions() >= 48)
        before, waits, began = versions(), waits_of(run_dir), time.monotonic()
        await drive(lambda: time.monotonic() - began > SECONDS)
        done, seconds = versions() - before, time.monotonic() - began
        return done / seconds, (waits_of(run_dir) - waits) / done
    finally:
        process.terminate()
        process.wait()


def waits_of(run_dir: Path) -> int:
    """How often the syncer has waited for the disk: it writes a byte each time."""
    path = run_dir.with_suffix(".waits")
    return path.stat().st_size if path.exists() else 0


def syncer(run_dir: Path, level: str, token: Path) -> int:
    """The syncer's process. Its fdatasyncs are counted."""
    from skerry.syncer.config import SyncerConfig
    from skerry.syncer.server import run_syncer

    real, count = os.fdatasync, os.open(run_dir.with_suffix(".waits"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def fdatasync(file: int) -> None:
        os.write(count, b".")
        real(file)

    os.fdatasync = fdatasync  # type: ignore[assignment]
    config = json.loads(json.dumps({"log": "json", "snapshot_rounds": 10**6, "durability": level}))
    return run_syncer(SyncerConfig(run_dir=run_dir, token_file=token, **config), POLICY)


# ------------------------------------------------------------------ restart


def restart() -> list[Row]:
    """In this process, whose memory holds nothing of it; the file is in the page cache, as after a kill."""
    layout = layout_of(400_000_000)
    values = Values.create(FOLDER / "large", layout, RUN)
    merger = Merger(POLICY, layout, values)
    for fragment, size in enumerate(layout.sizes):
        merger.adopt(fragment, np.full(size, 0.5, np.float32), np.full(size, 0.25, np.float32))
    values.sync()
    del values, merger
    began = time.perf_counter()
    merger = Merger(POLICY, layout, Values.open(FOLDER / "large", layout, RUN))
    opened = time.perf_counter()
    merger.encode(0)
    encoded = time.perf_counter()
    return [
        Row("400M parameters: bytes of the file", Slots.nbytes(layout) / 1e9, "GB"),
        Row("opening it, every checksum compared", opened - began, "s"),
        Row("encoding a fragment", encoded - opened, "s"),
        at_most("both, of a restart", encoded - began, 7.0, "s"),  # 3 s are left for a segment's replay: see `log`
    ]


PARTS: dict[str, Callable[[], list[Row]]] = {"log": log, "step": step, "rounds": rounds, "restart": restart}


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), help="only this")
    parser.add_argument("--syncer", nargs=3, metavar=("RUN_DIR", "LEVEL", "TOKEN"), help="be the process that is measured")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.syncer:
        run_dir, level, token = chosen.syncer
        return syncer(Path(run_dir), level, Path(token))
    rows = []
    for name in [chosen.part] if chosen.part else PARTS:
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir(parents=True)
        rows += PARTS[name]()
    shutil.rmtree(FOLDER)
    return report("log", rows)


if __name__ == "__main__":
    raise SystemExit(main())
