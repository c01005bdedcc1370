"""Files of records (records.py): lines of JSON that grow while a run goes on, written by one process each and read by anybody.

Rules: a kill leaves at most the last line half-written; readers leave that out, and who adds to the file cuts it off first.
Reading never changes a run; a file that is not there is an empty one. metrics.jsonl is put away and begun anew when it is full
or an hour old (thinning.py); `read_run` and `Tail` go through it all.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from heapq import merge
from pathlib import Path
from typing import BinaryIO

import msgspec

from skerry.errors import RunDirError
from skerry.store.files import Growing, Say
from skerry.store.fold import KEEP, RunState
from skerry.store.records import Begin, Exited, FaultNote, Line, Record, Started, Summary, Unfired, decode, encode
from skerry.store.thinning import HOUR, SEGMENT, Thinning, put_away, segments

BLOCK = 1 << 16


class MetricsLog:
    """The writer of metrics.jsonl; `say` hears of disk trouble."""

    def __init__(self, path: Path, say: Say) -> None:
        """Append to `path`, or create it. Raises OSError."""
        _mend(path)
        self._path, self._say = path, say
        self._thinning = Thinning(path)
        self._thread: threading.Thread | None = None
        self._open()

    def _open(self) -> None:
        self._file = Growing(self._path, self._say)
        self._began = time.monotonic()
        self._size = self._path.stat().st_size  # when all has been written

    def add(self, record: Record) -> None:
        """One line."""
        line = encode(record) + b"\n"
        self._size += len(line)
        self._file.add(line)

    def flush(self) -> None:
        """See Growing.flush. Now and then it is also time for another file."""
        self._file.flush()
        if self._size >= SEGMENT or (self._size and time.monotonic() - self._began >= HOUR):
            self._put_away()

    def close(self) -> None:
        """See Growing.close."""
        self._file.close()
        if self._thread is not None:
            self._thread.join()

    def _put_away(self) -> None:
        """Begin another file. The old ones are thinned in a thread, which nobody waits for before the end."""
        try:
            if self._path.exists():
                if self._path.stat().st_size < self._size:  # the disk is full: not now
                    return
                put_away(self._path)
            before = self._file
            self._open()
            before.close()
        except OSError as error:
            self._say(f"cannot begin another {self._path.name}: {error.strerror}; it goes on as it is")
            self._began, self._size = time.monotonic(), 0
            return
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._thin, name="skerry-thinning")
            self._thread.start()

    def _thin(self) -> None:
        try:
            self._thinning.go_over()
        except OSError as error:
            self._say(f"cannot thin {self._path.name}: {error.strerror}; it is tried again in an hour")


def append(path: Path, record: Record) -> None:
    """Add a line to a file that grows seldom. Raises OSError."""
    _mend(path)
    with path.open("ab") as file:
        file.write(encode(record) + b"\n")


def read(path: Path) -> Iterator[Line]:
    """The records of a file, in order. Raises RunDirError naming a line that is none."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = decode(line)
            except ValueError as error:
                raise RunDirError(f"line {number} of {path} is damaged: {error}",
                                  remedy="remove that line; every other one stands for itself") from error  # fmt: skip
            if record is not None:
                yield record


class Tail:
    """The records that were added to a file since the last look, also when it was put away meanwhile. Forgiving: looking at a
    run must not end it."""

    def __init__(self, path: Path, *, skip: bool = False) -> None:
        """`skip`: begin at the file's present end."""
        self._path = path
        self._at = 0
        self._of: tuple[int, int] | None = None  # which file that is
        if skip and path.exists():
            found = path.stat()
            self._at, self._of = found.st_size, (found.st_dev, found.st_ino)

    def new(self) -> list[Line]:
        """Those of new whole lines; damaged ones are passed over."""
        lines: list[bytes] = []
        try:
            with self._path.open("rb") as file:
                now = _identity(file)
                if self._of not in (None, now):
                    lines += self._rest_of_the_last()
                    self._at = 0
                self._of = now
                lines += self._whole_lines(file)
        except FileNotFoundError:
            pass
        return [record for line in lines if (record := _forgiven(line)) is not None]

    def _rest_of_the_last(self) -> list[bytes]:
        for path in reversed(segments(self._path)):
            with path.open("rb") as file:
                if _identity(file) == self._of:
                    return self._whole_lines(file)
        return []

    def _whole_lines(self, file: BinaryIO) -> list[bytes]:
        file.seek(self._at)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return whole.splitlines()


def _identity(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino


def read_run(run_dir: Path, keep: int | None = KEEP) -> RunState:
    """What a run's files come to. Raises RunDirError if there is no run, or a line is damaged."""
    state = RunState(keep)
    told = _dated(_all(run_dir / "metrics.jsonl"))
    for _, record in merge(told, _dated(read(run_dir / "faults.jsonl")), key=lambda dated: dated[0]):
        state.take(record)
    if state.begin is None:
        raise RunDirError(f"{run_dir} holds no run that has begun", remedy="name a directory under runs/")
    for record in read(run_dir / "eval.jsonl"):
        state.take(record)
    return state


def _all(metrics: Path) -> Iterator[Line]:
    """Of the file and of all that was put away."""
    for path in (*segments(metrics), metrics):
        yield from read(path)


def read_figures(run_dir: Path) -> Summary:
    """What figures.json tells of the summary. Raises RunDirError if it is damaged."""
    path = run_dir / "figures.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Summary) if path.exists() else Summary()
    except ValueError as error:
        raise RunDirError(f"{path} is damaged: {error}", remedy="remove it; a report can do without") from error


def _dated(records: Iterable[Line]) -> Iterator[tuple[float, Line]]:
    """Each with the machine's clock."""
    began = 0.0
    for record in records:
        if isinstance(record, Begin):
            began = record.unix - record.t
        yield record.unix if isinstance(record, FaultNote | Started | Exited | Unfired) else began + record.t, record


def _forgiven(line: bytes) -> Line | None:
    try:
        return decode(line)
    except ValueError:
        return None


def _mend(path: Path) -> None:
    """Cut off a last line that a kill left half-written."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = end = file.seek(0, 2)
        while end:
            start = max(0, end - BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            file.truncate(end)
