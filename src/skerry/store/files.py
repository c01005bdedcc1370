"""Writing so that a full disk costs nothing but time, and a kill at any moment leaves whole files.

- Whole files (snapshot, model) are written under another name, synced and renamed into place: `settle`.
- Files that grow (tape, figures) hold back what the disk will not take and try again later: `Growing`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

Say = Callable[[str], None]
"""Takes one line for the operator."""

BATCH = 1 << 16
HELD_BACK = 64 << 20


def settle(written: Path, final: Path) -> None:
    """Make `written` durable and let it take the place of `final`, both in one folder. Raises OSError."""
    handle = os.open(written, os.O_RDONLY)
    try:
        os.fsync(handle)
        written.replace(final)
    finally:
        os.close(handle)
    sync_folder(written.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in it durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def last_good(store: Path, *, but: str = "") -> str:
    """What to do when something of a run cannot be read: its last good state by name. `store`: the run's folder of that name;
    `but`: what cannot be read."""
    for name in ("snapshot.safetensors", "initial.safetensors"):
        if name != but and (store / name).is_file():
            return f"nothing was overwritten; the last good state is {store / name}"
    return "nothing was overwritten; there is no snapshot beside it: begin a new run"


def clear_unfinished(folder: Path) -> None:
    """Remove what a killed process left half written in `folder`."""
    for pattern in ("*.part", ".tmp*"):  # the latter: safetensors writes under such a name first
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


class Growing:
    """A file that grows by whole records. Nothing raises: trouble is said once, and once more when it is over.

    Records are held back while the disk is full; when that comes to more than 64 MiB the file is given up as it stands
    (a reader finds a beginning of the truth, never a hole in it).
    """

    def __init__(self, path: Path, say: Say) -> None:
        """Create `path`, or append to it. Raises OSError."""
        self._name = path.name
        self._say = say
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._held = bytearray()
        self._trouble = False
        self.given_up = False

    def add(self, record: bytes) -> None:
        """One more record; on disk at the next flush, or earlier."""
        if self.given_up:
            return
        self._held += record
        if len(self._held) >= BATCH and not self._trouble:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system. Call it now and then: it is also what tries again."""
        if self.given_up:
            return
        try:
            while self._held:
                del self._held[: os.write(self._file, self._held)]
        except OSError as error:
            self._troubled(error)
            return
        if self._trouble:
            self._trouble = False
            self._say(f"{self._name}: can be written again, nothing was lost")

    def close(self) -> None:
        """The last flush."""
        self.flush()
        os.close(self._file)

    def _troubled(self, error: OSError) -> None:
        if not self._trouble:
            self._trouble = True
            self._say(f"cannot write {self._name}: {error.strerror}; the run goes on and tries again")
        if len(self._held) > HELD_BACK:
            self.given_up = True
            self._held.clear()
            self._say(f"{self._name} ends here: too much had to be held back")
