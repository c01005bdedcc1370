"""The fixed pool of receive buffers: the syncer's memory depends on the model and the pool, not on the learners.

A buffer is taken when a contribution is announced and given back when its values are accumulated (or refused). When none is
free, reading of that link's bulk connection pauses: backpressure, not memory. Used on the event loop's thread only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


class Pool:
    """`count` buffers of `nbytes` each, touched once so that later use allocates nothing."""

    def __init__(self, count: int, nbytes: int) -> None:
        self.count = count
        self.nbytes = nbytes
        self._free: list[NDArray[np.uint8]] = []
        for _ in range(count):
            buffer = np.empty(nbytes, np.uint8)
            buffer.fill(0)
            self._free.append(buffer)
        self._waiting: deque[Callable[[], None]] = deque()

    @property
    def free(self) -> int:
        """Buffers nobody holds."""
        return len(self._free)

    def take(self, resume: Callable[[], None]) -> NDArray[np.uint8] | None:
        """A buffer; or None, and `resume` is called once when it is worth another try."""
        if self._free:
            return self._free.pop()
        self._waiting.append(resume)
        return None

    def give(self, buffer: NDArray[np.uint8]) -> None:
        """The buffer is free again."""
        assert buffer.nbytes == self.nbytes and len(self._free) < self.count
        self._free.append(buffer)
        while self._waiting and self._free:  # who waited may be gone, and not take it
            self._waiting.popleft()()
