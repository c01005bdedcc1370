"""What must not leave before the log has committed what it follows from: output commit, for SyncerDriver.

Rule: whatever dies, nobody was told anything that the log does not lead to again. Elnozahy et al., A survey of
rollback-recovery protocols in message-passing systems (2002), section 2.4.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol


class Committing(Protocol):
    """What knows how far the log is."""

    @property
    def committed(self) -> int:
        """Up to which position nothing will be forgotten."""


class Outbox:
    """Deeds in order, each with the position that it waits for. Without a log nothing waits."""

    def __init__(self, log: Committing | None) -> None:
        self._log = log
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._releasing = self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, position: int, deed: Callable[[], None]) -> None:
        """Do it when that position is committed, after all that was put before it."""
        if self._closed:
            return
        if self._log is None or (not self._waiting and position <= self._log.committed):
            deed()
        else:
            self._waiting.append((position, deed))

    def release(self) -> None:
        """Do what need not wait any more."""
        if self._releasing or self._log is None:
            return  # it is being done, further down the stack
        self._releasing = True
        try:
            while self._waiting and self._waiting[0][0] <= self._log.committed:
                self._waiting.popleft()[1]()
        finally:
            self._releasing = False

    def close(self) -> None:
        """Nothing more is to be done, now or later."""
        self._closed = True
        self._waiting.clear()
