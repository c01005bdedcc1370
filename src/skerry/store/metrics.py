"""Files of records (records.py): lines of JSON that grow while a run goes on, written by one process each and read by anybody.

Rules: a kill leaves at most the last line half-written; readers leave that out, and who adds to the file cuts it off first.
Reading never changes a run; a file that is not there is an empty one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge
from pathlib import Path

import msgspec

from skerry.errors import RunDirError
from skerry.store.files import Growing, Say
from skerry.store.fold import KEEP, RunState
from skerry.store.records import Begin, Exited, FaultNote, Line, Record, Started, Summary, Unfired, decode, encode

BLOCK = 1 << 16


class MetricsLog:
    """The writer of metrics.jsonl; `say` hears of disk trouble."""

    def __init__(self, path: Path, say: Say) -> None:
        """Append to `path`, or create it. Raises OSError."""
        _mend(path)
        self._file = Growing(path, say)

    def add(self, record: Record) -> None:
        """One line."""
        self._file.add(encode(record) + b"\n")

    def flush(self) -> None:
        """See Growing.flush."""
        self._file.flush()

    def close(self) -> None:
        """See Growing.close."""
        self._file.close()


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
    """The records that were added to a file since the last look. Forgiving: looking at a run must not end it."""

    def __init__(self, path: Path, *, skip: bool = False) -> None:
        """`skip`: begin at the file's present end."""
        self._path = path
        self._at = path.stat().st_size if skip and path.exists() else 0

    def new(self) -> list[Line]:
        """Those of new whole lines; damaged ones are passed over."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        return [record for line in whole.splitlines() if (record := _forgiven(line)) is not None]


def read_run(run_dir: Path, keep: int | None = KEEP) -> RunState:
    """What a run's files come to. Raises RunDirError if there is no run, or a line is damaged."""
    state = RunState(keep)
    metrics, faults = (_dated(read(run_dir / name)) for name in ("metrics.jsonl", "faults.jsonl"))
    for _, record in merge(metrics, faults, key=lambda dated: dated[0]):
        state.take(record)
    if state.begin is None:
        raise RunDirError(f"{run_dir} holds no run that has begun", remedy="name a directory under runs/")
    for record in read(run_dir / "eval.jsonl"):
        state.take(record)
    return state


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
