"""One syncer a run directory: a lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from skerry.errors import RunDirError

NAME = "lock"


class Lock:
    """Held from construction to `release`, or to the process' end. The file itself stays and says whose it was last."""

    def __init__(self, folder: Path) -> None:
        """Raises RunDirError if another process holds it; OSError."""
        self._folder = folder
        self._handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._handle, 20).decode(errors="replace").strip() or "unknown"
            os.close(self._handle)
            raise RunDirError(f"a syncer (process {holder}) is at work on {folder} already",
                              remedy="end that one first, or choose another directory") from None  # fmt: skip
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another one have it."""
        os.close(self._handle)
