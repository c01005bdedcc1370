"""The memory that a training process shares with its agent: one anonymous file, mapped by both.

    counters | step durations | applied marks | agent's state (2 copies) | value slots | change slots | out slots | base

Rules:
- The file never has a name (or loses it at once), so however the two processes end nothing is left to clean up. It is
  reserved on creation: too small a directory is an error then and no bus error later.
- Each part has one writer. Counters, durations and applied marks are the trainer's, state and base the agent's. A slot
  belongs to the agent until it is named in an order, to the trainer until the order is answered (island/orders.py);
  while both live, messages alone say so, and what is read here serves whoever comes after a death.
- What must not be seen half written (counters, state) has two copies and an index that is one aligned word: a SIGKILL
  at any instant leaves the older or the newer one.
- A value slot with its applied mark is a redo log: a new agent finds what the trainer took over and completes the base.

Values are fp32. A slot holds the largest fragment; base holds every fragment at Layout.offsets.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skerry.core.layout import Layout
from skerry.core.messages import Count
from skerry.errors import StorageError

_PAGE = 4096
_MAGIC = 0x32_59_52_52_45_4B_53  # "SKERRY2"
RING = 4096
"""Step durations that are kept."""
REDO_WORDS = 10
"""Of the agent's state, for an order to take over (learner/holdings.py)."""

# Words (8 bytes) of the first page
_MAGIC_AT, _PULSE_NO, _STATE_NO, _LEARNER, _GENERATION, _FIRST_STEP, _PROGRESS = range(7)
_PULSE_AT = 64  # words; two copies of _PULSE follow each other
_PULSE = struct.Struct("@7qd")
_APPLIED = struct.Struct("@4q")


class Pulse(NamedTuple):
    """What the trainer publishes at each step boundary. Microseconds; cumulative since the process began."""

    steps: int = 0
    tokens: int = 0
    busy_us: int = 0  # between two hooks, less frozen and waited time
    waited_us: int = 0  # for others, in synchronous policies
    hook_us: int = 0  # inside the hook, without waiting
    max_hook_us: int = 0
    max_gap_us: int = 0  # longest busy time of one step, from the third step on
    loss: float = float("nan")

    @property
    def counters(self) -> Count:
        """The counters that the cores know."""
        return Count(self.steps, self.tokens, self.busy_us)


def _aligned(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


class IslandMemory:
    """One island's memory, as seen by either process. `slots`: Policy.slots, of values, changes and copies each."""

    def __init__(self, file: int, layout: Layout, slots: int, *, whole: bool) -> None:
        """Map the file that `create` made. `whole` False leaves the base unmapped: only the agent has business there."""
        self.file = file
        self.layout = layout
        self.slots = slots
        self._plan()
        length = self._size if whole else self._base_at
        self._map = mmap.mmap(file, length, flags=mmap.MAP_SHARED | (0 if whole else mmap.MAP_POPULATE))
        self._words = memoryview(self._map).cast("q")
        self._reals = memoryview(self._map).cast("d")
        self._ring = np.frombuffer(self._map, np.int32, RING, _PAGE)

    @staticmethod
    def create(directory: Path, layout: Layout, slots: int) -> IslandMemory:
        """Reserve a new island's memory. The caller closes `file` when it needs to hand it on no more.

        Raises StorageError if the directory is missing or too small.
        """
        size = IslandMemory.size_of(layout, slots)
        remedy = "set the learner's shm_dir to a directory in memory with more room (containers: a larger --shm-size)"
        try:
            with tempfile.TemporaryFile(dir=directory, prefix="skerry-", buffering=0) as opened:
                os.posix_fallocate(opened.fileno(), 0, size)
                file = os.dup(opened.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EDQUOT, errno.EFBIG):
                raise
            raise StorageError(f"cannot reserve {size / 1e6:,.0f} MB of shared memory in {directory}: {error.strerror}",
                               remedy=remedy) from error  # fmt: skip
        memory = IslandMemory(file, layout, slots, whole=False)
        memory._words[_LEARNER] = -1
        memory._words[_MAGIC_AT] = _MAGIC
        return memory

    @staticmethod
    def size_of(layout: Layout, slots: int) -> int:
        """Bytes that an island of this layout takes."""
        plan = IslandMemory.__new__(IslandMemory)
        plan.layout, plan.slots = layout, slots
        plan._plan()
        return plan._size

    def _plan(self) -> None:
        """Where everything lies, in bytes."""
        self._slot_size = _aligned(4 * max(self.layout.sizes))
        self._applied_at = _PAGE + 4 * RING
        self._state_words = 16 + 4 * len(self.layout.sizes) + REDO_WORDS * self.slots
        self._state_at = self._applied_at + _aligned(_APPLIED.size * self.slots)
        self._values_at = self._state_at + _aligned(2 * 8 * self._state_words)
        self._changes_at = self._values_at + self.slots * self._slot_size
        self._outs_at = self._changes_at + self.slots * self._slot_size
        self._base_at = self._outs_at + self.slots * self._slot_size
        self._size = self._base_at + _aligned(4 * self.layout.total)

    def check(self) -> None:
        """Assert that this is an island's memory, of at least the size that the layout needs."""
        assert os.fstat(self.file).st_size == self._size and self._words[_MAGIC_AT] == _MAGIC, "not this island's memory"

    # ------------------------------------------------------------------ fp32 areas

    def value(self, slot: int, fragment: int) -> NDArray[np.float32]:
        """A delivered value: flat, as long as the fragment."""
        return self._array(self._values_at + slot * self._slot_size, fragment)

    def change(self, slot: int, fragment: int) -> NDArray[np.float32]:
        """What is to be added for the value in the slot of the same number."""
        return self._array(self._changes_at + slot * self._slot_size, fragment)

    def out(self, slot: int, fragment: int) -> NDArray[np.float32]:
        """Parameters copied out."""
        return self._array(self._outs_at + slot * self._slot_size, fragment)

    def base(self, fragment: int) -> NDArray[np.float32]:
        """The value last taken over. Only where the file is mapped whole."""
        return self._array(self._base_at + 4 * self.layout.offsets[fragment], fragment)

    def _array(self, at: int, fragment: int) -> NDArray[np.float32]:
        return np.frombuffer(self._map, np.float32, self.layout.sizes[fragment], at)

    # ------------------------------------------------------------------ written by the trainer

    def publish(self, pulse: Pulse, step_us: int | None = None) -> None:
        """The counters at a boundary, and how long the step took if one was made."""
        if step_us is not None:
            self._ring[pulse.steps % RING] = min(step_us, 2**31 - 1)
        number = self._words[_PULSE_NO] + 1
        _PULSE.pack_into(self._map, 8 * _PULSE_AT + (number & 1) * _PULSE.size, *pulse)
        self._words[_PULSE_NO] = number

    def pulse(self) -> Pulse:
        """The counters last published."""
        while True:
            number = self._words[_PULSE_NO]
            pulse = Pulse(*_PULSE.unpack_from(self._map, 8 * _PULSE_AT + (number & 1) * _PULSE.size))
            if self._words[_PULSE_NO] == number:
                return pulse

    def step_durations(self, steps: int) -> NDArray[np.int32]:
        """Microseconds of the last steps, at most RING of them, in no particular order. `steps`: how many were made."""
        return self._ring.copy() if steps >= RING else self._ring[1 : steps + 1].copy()

    def set_applied(self, slot: int, count: Count) -> None:
        """The value in the slot was taken over at the boundary with these counters."""
        at = self._applied_at + slot * _APPLIED.size
        _APPLIED.pack_into(self._map, at, 0, *count)
        self._words[at // 8] = 1

    # ------------------------------------------------------------------ written by the agent

    def clear_applied(self, slot: int) -> None:
        """Before a value is posted: nothing was taken over yet."""
        _APPLIED.pack_into(self._map, self._applied_at + slot * _APPLIED.size, 0, 0, 0, 0)

    def applied(self, slot: int) -> Count | None:
        """When the value in the slot was taken over; None if it was not. To be asked when the trainer has attached:
        it will not carry out an earlier agent's orders any more."""
        done, *count = _APPLIED.unpack_from(self._map, self._applied_at + slot * _APPLIED.size)
        return Count(*count) if done else None

    def commit(self, state: Sequence[int]) -> None:
        """Replace the agent's state by these integers, all or nothing."""
        assert len(state) < self._state_words
        number = self._words[_STATE_NO] + 1
        at = self._state_at + (number & 1) * 8 * self._state_words
        struct.pack_into(f"@{len(state) + 1}q", self._map, at, len(state), *state)
        self._words[_STATE_NO] = number

    def committed(self) -> tuple[int, ...]:
        """The agent's state as last committed; empty before the first time."""
        at = self._state_at + (self._words[_STATE_NO] & 1) * 8 * self._state_words
        (length,) = struct.unpack_from("@q", self._map, at)
        return struct.unpack_from(f"@{length}q", self._map, at + 8)

    def welcome(self, learner: int, generation: int, first_step: int) -> None:
        """Tell the trainer who it is."""
        self._words[_GENERATION], self._words[_FIRST_STEP] = generation, first_step
        self._words[_LEARNER] = learner

    def set_progress(self, progress: float) -> None:
        """Tell the trainer how much of the run's budget is done."""
        self._reals[_PROGRESS] = progress

    @property
    def learner(self) -> int:
        """The learner's id; -1 before the first welcome."""
        return self._words[_LEARNER]

    @property
    def generation(self) -> int:
        """The learner's generation; 0 before the first welcome."""
        return self._words[_GENERATION]

    @property
    def first_step(self) -> int:
        """Steps all earlier generations of this learner made."""
        return self._words[_FIRST_STEP]

    @property
    def progress(self) -> float:
        """Share of the run's budget that is done, 0 to 1."""
        return self._reals[_PROGRESS]
