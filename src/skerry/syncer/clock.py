"""The run's time, in seconds since it began: without those in which there was no syncer, or none that could write."""

from __future__ import annotations

import time


class Clock:
    """Goes on from `since`. It stands still between `stop` and `go_on`."""

    def __init__(self, since: float = 0.0) -> None:
        self._zero = time.monotonic() - since
        self._stopped: float | None = None

    def now(self) -> float:
        """The time; never falling."""
        return (time.monotonic() if self._stopped is None else self._stopped) - self._zero

    def stop(self) -> None:
        """Stand still."""
        if self._stopped is None:
            self._stopped = time.monotonic()

    def go_on(self) -> None:
        """As if no time had passed."""
        if self._stopped is not None:
            self._zero += time.monotonic() - self._stopped
            self._stopped = None
