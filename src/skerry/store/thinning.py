"""metrics.jsonl over months: what is full is put away as a segment (metrics/000001.jsonl ...), and what is old is thinned.

    metrics.jsonl and segments of the last hour    every line
    up to a day ago                                one line a minute of each kind and learner: the last one
    before that                                    one every ten minutes

Rules: a kind is Status, Round, Sample of a learner, or each name of event of a learner; every Begin stays. What a line says is
never changed. A thinned segment takes the whole one's place at once, so a kill leaves either. At most FULL segments are
whole, however much is told in an hour. So 8 learners write less than MB_A_MONTH (a test adds it up).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from skerry.store.records import Begin, Event, Round, Sample, Status, decode

SEGMENT = 16 << 20  # bytes
HOUR, DAY = 3600.0, 86400.0
MINUTE, TEN = 60.0, 600.0
FULL = 4
MB_A_MONTH = 128


def folder_of(metrics: Path) -> Path:
    """Where the segments of that metrics.jsonl are."""
    return metrics.parent / metrics.stem


def segments(metrics: Path) -> list[Path]:
    """Those that were put away, oldest first."""
    return sorted(path for path in folder_of(metrics).glob("*.jsonl") if path.stem.isdigit())


def put_away(metrics: Path) -> None:
    """The file becomes a segment. Raises OSError."""
    folder = folder_of(metrics)
    folder.mkdir(exist_ok=True)
    there = segments(metrics)
    number = int(there[-1].stem) + 1 if there else 1
    metrics.rename(folder / f"{number:06}.jsonl")


class Thinning:
    """Thins the segments of one metrics.jsonl, each as its age has it."""

    def __init__(self, metrics: Path) -> None:
        self._metrics = metrics
        self._done: dict[Path, float] = {}  # the spans that segments were thinned to

    def go_over(self, now: float | None = None) -> None:
        """Look at all of them. `now`: the machine's clock. Raises OSError."""
        now = time.time() if now is None else now
        there = segments(self._metrics)
        for place, path in enumerate(there):
            age = now - path.stat().st_mtime
            span = TEN if age > DAY else MINUTE if age > HOUR or place < len(there) - FULL else 0.0
            if span > self._done.get(path, 0.0):
                thin(path, span)
                self._done[path] = span


def thin(path: Path, span: float) -> None:
    """Rewrite a segment with one line of each kind in so many seconds; its time of change stays. Raises OSError."""
    was = path.stat()
    part = path.with_suffix(".part")
    with path.open("rb") as lines:
        kept = kept_of(lines, span)
    part.write_bytes(b"".join(kept))
    os.utime(part, ns=(was.st_atime_ns, was.st_mtime_ns))
    part.replace(path)


def kept_of(lines: Iterable[bytes], span: float) -> list[bytes]:
    """Those that stay, in their order; what is no record does not."""
    last: dict[tuple[object, ...], int] = {}
    found: list[bytes] = []
    starts = 0
    for line in lines:
        try:
            record = decode(line)
        except ValueError:
            continue
        if isinstance(record, Begin):
            starts += 1
        elif isinstance(record, Event | Sample | Status | Round):
            learner = record.learner if isinstance(record, Event | Sample) else -1
            place = (starts, type(record), learner, getattr(record, "event", ""), record.t // span)
            if place in last:
                found[last[place]] = b""
            last[place] = len(found)
        else:
            continue
        found.append(line)
    return [line for line in found if line]
