"""The writer of the tape: a thread of its own, so that the event loop never waits for a disk.

    loop: event(t, e) -> packed, listed --> thread: all that is listed, in one write --> committed(position)

Rules:
- `committed` says up to which event nothing can be lost: level process, the operating system has it, and it outlives the
  process; level machine, the disk has it. Level none promises nothing and waits for nothing (measurements).
- The writer is woken by what leaves, not by what is heard: an event on which nothing was decided, or only that a body be added,
  is written with the next one, or within a second; if it is lost with its process, nobody was told anything that came of it.
- What could not be written is kept and written again from the same place on, the whole of it: a failed fdatasync may have lost
  any part. That is said at once and every minute; `troubled` hears of its beginning and of its end.
- A segment has its name when its head is whole. At 16 MiB the owner is to `roll`; older segments are compressed by another
  thread, at the lowest priority, or removed.
- When the file is no longer under its name, somebody has removed the run's directory: `vanished` is called, within a second or
  so, and nothing is committed any more. The owner then begins a new tape elsewhere.
- The four functions that the owner gives are called on the writer's thread.
"""

from __future__ import annotations

import gzip
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Literal
from zlib import crc32

from skerry.core.messages import Merge, SyncerAction, SyncerEvent
from skerry.store.files import Say, clear_unfinished, settle, sync_folder
from skerry.store.packing import ENDED, encode, framed, packed
from skerry.store.tape import Head, head_payload, last_segment, number_of, seal

Level = Literal["none", "process", "machine"]
FULL = 16 << 20  # bytes of a segment
AGAIN = 1.0  # seconds until what failed is tried again, and between two looks whether the file is still there
REMIND = 60.0  # seconds between two words on one trouble


class Tape:
    """Of one syncer. `event`, `action`, `roll` and `close` are for one thread."""

    def __init__(self, folder: Path, head: Head, *, level: Level, say: Say, committed: Callable[[int], None],
                 troubled: Callable[[bool], None], vanished: Callable[[], None], keep: bool = True) -> None:  # fmt: skip
        """Begin a new segment in `folder`, and complete the one before it, if a kill has left it without an end. `keep`: older
        segments stay, compressed. Raises OSError, RunDirError if that one is damaged."""
        self.position = self.committed = head.events
        self.syncs = 0  # waits for the disk so far
        self._folder, self._level, self._keep = folder, level, keep
        self._say, self._on_committed, self._on_troubled, self._on_vanished = say, committed, troubled, vanished
        self._listed: list[bytes | _Turn] = []
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._idle = False  # the writer is about to wait for the bell
        self._closing = self._gone = False
        self._decided = 0
        self._size = self._at = 0  # bytes of events in the segment, of the whole file
        self._looked = monotonic()
        self._press: threading.Thread | None = None
        folder.mkdir(parents=True, exist_ok=True)
        clear_unfinished(folder)
        before = last_segment(folder)
        if before is not None:
            seal(before)
        self._begin(framed(head_payload(head)), 1 if before is None else number_of(before) + 1)
        # Daemons: a tape that is never closed keeps no process from ending.
        self._thread = threading.Thread(target=self._work, name="skerry-tape", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ the owner's thread

    def event(self, t: float, event: SyncerEvent) -> int:
        """To be called before the core handles it, so that the tape holds the one it failed on. Returns its position: how many
        events the run has had."""
        record = framed(packed(t, self._decided, event))
        self._decided = 0
        self._listed.append(record)
        self._size += len(record)
        self.position = position = self.position + 1
        if self._level == "none":
            self.committed = position
        return position

    def action(self, action: SyncerAction) -> None:
        """To be called for each, in order, after the event that caused it."""
        self._decided = crc32(packed(0.0, 0, action), self._decided)
        if self._idle and type(action) is not Merge:
            self.hurry()

    def hurry(self) -> None:
        """Have what was heard so far written soon, though nothing was decided on it."""
        if self._idle:
            self._idle = False
            self._bell.put(None)

    @property
    def full(self) -> bool:
        """Whether it is time to `roll`."""
        return self._size >= FULL

    def roll(self, head: Head) -> None:
        """Go on in a new segment. `head`: of the core as it stands, between two events."""
        assert head.events == self.position
        self._listed.append(_Turn(self._end(head.began), head))
        self.hurry()
        self._size = 0

    def close(self, t: float) -> None:
        """The tape is complete. What the disk does not take now is lost, and said so."""
        self._listed.append(_Turn(self._end(t), None))
        self._closing = True
        self._bell.put(None)
        self._thread.join()
        if self._press is not None:
            self._press.join()
        os.close(self._file)

    def _end(self, t: float) -> bytes:
        end = framed(encode((ENDED, t, self._decided)))
        self._decided = 0
        return end

    # ------------------------------------------------------------------ the writer's thread

    def _work(self) -> None:
        while True:
            count = len(self._listed)  # what comes meanwhile stays: both statements are atomic
            taken = self._listed[:count]
            del self._listed[:count]
            if taken and not self._gone:
                self._write(taken)
            elif not taken and self._closing:
                return
            elif not taken:
                self._wait()
            if monotonic() - self._looked >= AGAIN:
                self._look()

    def _wait(self) -> None:
        self._idle = True
        if not self._listed and not self._closing:
            self._rest()

    def _rest(self) -> None:
        try:
            self._bell.get(timeout=AGAIN)
        except Empty:
            pass

    def _write(self, taken: list[bytes | _Turn]) -> None:
        records: list[bytes] = []
        for item in taken:
            if isinstance(item, bytes):
                records.append(item)
            else:
                self._write_events(records)
                self._insist(partial(self._turn, item))
                records = []
        self._write_events(records)

    def _write_events(self, records: list[bytes]) -> None:
        if records and self._insist(partial(self._append, b"".join(records))) and self._level != "none":
            self.committed += len(records)
            self._on_committed(self.committed)

    def _insist(self, job: Callable[[], None]) -> bool:
        """Do it, again and again if the disk will not have it. Whether it was done."""
        said: float | None = None
        while not self._gone:
            try:
                job()
            except OSError as error:
                if said is None:
                    self._on_troubled(True)
                if said is None or monotonic() - said >= REMIND:
                    said = monotonic()
                    self._say(f"cannot write {self.path.name}: {error.strerror}; it is tried again every second, and "
                              "nothing is decided meanwhile; free space there")  # fmt: skip
                if self._closing:
                    self._say(f"{self.path.name} ends here: the events after number {self.committed} are lost")
                    self._gone = True
                    break
                self._rest()
                self._look()
            else:
                if said is not None:
                    self._say(f"{self.path.name} can be written again, nothing was lost")
                    self._on_troubled(False)
                return True
        return False

    def _append(self, data: bytes) -> None:
        end = _write_at(self._file, data, self._at)
        self._sync(self._file)
        self._at = end  # unless all of that is done, it is written again from the same place

    def _sync(self, file: int) -> None:
        if self._level == "machine":
            os.fdatasync(file)
            self.syncs += 1

    def _look(self) -> None:
        """Whether the file is still where it was."""
        self._looked = monotonic()
        mine = os.fstat(self._file)
        try:
            there = self.path.stat()
            same = (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)
        except (FileNotFoundError, NotADirectoryError):
            same = False
        except OSError:
            return  # what the disk has to say will be heard when it is written to
        if not same and not self._gone:
            self._gone = True
            self._on_vanished()

    # ------------------------------------------------------------------ segments

    def _turn(self, turn: _Turn) -> None:
        if turn.end:
            self._append(turn.end)
            turn.end = b""
        if turn.head is not None:
            before = self._file
            self._begin(framed(head_payload(turn.head)), number_of(self.path) + 1)
            os.close(before)

    def _begin(self, record: bytes, number: int) -> None:
        path = self._folder / f"{number:06}.tape"
        part = path.with_suffix(".part")
        file = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            end = _write_at(file, record, 0)
            self._sync(file)
            part.replace(path)
            if self._level == "machine":
                sync_folder(self._folder)
        except OSError:
            os.close(file)
            raise
        self.path, self._file, self._at = path, file, end
        if self._press is None or not self._press.is_alive():
            self._press = threading.Thread(target=self._put_away, args=(number,), name="skerry-tape-press",
                                           daemon=True)  # fmt: skip
            self._press.start()

    def _put_away(self, number: int) -> None:
        """Compress what is older, or remove it."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        try:
            for path in self._folder.glob("*.tape*"):
                if 0 < number_of(path) < number and not self._closing:
                    if not self._keep:
                        path.unlink()
                    elif path.suffix != ".gz":
                        self._compress(path)
        except OSError:
            pass  # the next segment tries again

    def _compress(self, path: Path) -> None:
        part = path.with_name(path.name + ".gz.part")
        try:
            with path.open("rb") as plain, gzip.open(part, "wb", compresslevel=6) as file:
                while (block := plain.read(1 << 18)) and not self._closing:
                    file.write(block)
            if not self._closing:
                settle(part, path.with_name(path.name + ".gz"))
                path.unlink()
        finally:
            part.unlink(missing_ok=True)


class _Turn:
    """A segment's end; and the head of the next one, if another follows."""

    def __init__(self, end: bytes, head: Head | None) -> None:
        self.end, self.head = end, head


def _write_at(file: int, data: bytes, at: int) -> int:
    left = memoryview(data)
    while left:
        written = os.pwrite(file, left, at)
        left, at = left[written:], at + written
    return at
