"""The global model's values: of every fragment two slots of (theta, momentum), and of each slot an entry: what lies in it.

    a page that says whose they are | pages of entries of slot 0 | and of slot 1 | fragment 0: slot 0 | slot 1 | fragment 1 ...

The outer step reads one slot, the present one, and writes the other, the spare one; then `write_entry` says what the spare slot
holds now, and `turn` makes it the present one. So a version costs no copy, and whoever reads the present slot reads a whole
version. The memory is anonymous here (the lab, tests); store/values.py maps a file.

Rules:
- An entry is 64 bytes: fragment, version, step, position (int64 each), checksum of the slot (uint64), zero, zero, and the
  checksum of those. That last word is zero before the slot or the rest of the entry is written, and set when both are whole. So
  an entry is whole, or blank, or it was damaged. A SIGKILL between any two writes leaves the version before or the new one.
- Of two whole entries the higher version is the present one.
- `spare`, `write_entry`: one thread at a time for a fragment. `turn`: who else looks at `present` is on that thread, or comes
  after it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from mmap import MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_PRIVATE, PAGESIZE, mmap
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from skerry.core.layout import Layout

Array = NDArray[np.float32]

ENTRY = 64
_FIELDS, _WORD = struct.Struct("<qqqqQqq"), struct.Struct("<Q")
_BLANK = bytes(8)
_CHECK = 1 << 22  # elements that are looked at at a time


class Stands(NamedTuple):
    """What an entry says: the version, the step of its round, the position of its close in the log, the slot's checksum."""

    version: int
    step: int
    position: int
    checksum: int


class Pair(NamedTuple):
    """One slot's values, flat."""

    theta: Array
    momentum: Array


class Checksum:
    """Of a slot, taken block by block while it is written."""

    __slots__ = ("_momentum", "_theta")

    def __init__(self) -> None:
        self._theta, self._momentum = xxh3_64(), xxh3_64()

    def add(self, theta: Array, momentum: Array) -> None:
        """The next elements of both."""
        self._theta.update(theta.data)
        self._momentum.update(momentum.data)

    @property
    def value(self) -> int:
        """Of all that was added."""
        return xxh3_64_intdigest(self._theta.digest() + self._momentum.digest())


def checksum_of(pair: Pair) -> int:
    """Of a whole slot."""
    checksum = Checksum()
    for at in range(0, pair.theta.size, _CHECK):
        checksum.add(pair.theta[at : at + _CHECK], pair.momentum[at : at + _CHECK])
    return checksum.value


class Slots:
    """`present` and `spare` are views of the memory, good as long as it is."""

    def __init__(self, layout: Layout, memory: mmap | None = None) -> None:
        """`memory`: at least `nbytes(layout)`; none: anonymous, and zero."""
        self.layout = layout
        if memory is None:  # private: shared memory would have no huge pages
            memory = mmap(-1, self.nbytes(layout), MAP_PRIVATE | MAP_ANONYMOUS)
        self.memory = memory
        try:
            self.memory.madvise(MADV_HUGEPAGE)
        except OSError:
            pass  # a kernel or a file system without them
        self._bytes = memoryview(self.memory)
        self._pairs = [tuple(self._pair(slot, size) for slot in slots)
                       for slots, size in zip(self.places(layout), layout.sizes, strict=True)]  # fmt: skip
        self._present = [0] * len(layout.sizes)  # of each fragment, the slot
        self._stands: list[Stands | None] = [None] * len(layout.sizes)

    # ------------------------------------------------------------------ where things lie

    @staticmethod
    def _entry_pages(layout: Layout) -> int:
        return -(-ENTRY * len(layout.sizes) // PAGESIZE)

    @classmethod
    def entry_at(cls, layout: Layout, fragment: int, slot: int) -> int:
        """The place of an entry."""
        return PAGESIZE * (1 + slot * cls._entry_pages(layout)) + ENTRY * fragment

    @classmethod
    def places(cls, layout: Layout) -> Iterator[tuple[int, int]]:
        """Of each fragment, where its slots begin."""
        at = PAGESIZE * (1 + 2 * cls._entry_pages(layout))
        for size in layout.sizes:
            yield at, at + cls._stride(size)
            at += 2 * cls._stride(size)

    @staticmethod
    def _stride(size: int) -> int:
        return 2 * (-(-4 * size // PAGESIZE) * PAGESIZE)

    @classmethod
    def nbytes(cls, layout: Layout) -> int:
        """Of the whole memory."""
        return PAGESIZE * (1 + 2 * cls._entry_pages(layout)) + sum(2 * cls._stride(size) for size in layout.sizes)

    def _pair(self, at: int, size: int) -> Pair:
        theta = np.frombuffer(self._bytes, np.float32, size, at)
        return Pair(theta, np.frombuffer(self._bytes, np.float32, size, at + self._stride(size) // 2))

    # ------------------------------------------------------------------ values

    def present(self, fragment: int) -> Pair:
        """The version that exists; zeros if there is none yet."""
        return self._pairs[fragment][self._present[fragment]]

    def spare(self, fragment: int) -> Pair:
        """The slot that the next version is written to. From now on nothing is said of it."""
        self._set_word(self._entry(fragment, 1 - self._present[fragment]) + ENTRY - 8, _BLANK)
        return self._pairs[fragment][1 - self._present[fragment]]

    def made(self, fragment: int) -> Pair:
        """The slot that was written last and is not present yet."""
        return self._pairs[fragment][1 - self._present[fragment]]

    def thetas(self) -> list[Array]:
        """The present values of all fragments."""
        return [self.present(fragment).theta for fragment in range(len(self._pairs))]

    def momenta(self) -> list[Array]:
        """And their momentum."""
        return [self.present(fragment).momentum for fragment in range(len(self._pairs))]

    @property
    def headers(self) -> list[Stands | None]:
        """What is said of each fragment's present slot; None: it has no value yet."""
        return list(self._stands)

    # ------------------------------------------------------------------ entries

    def write_entry(self, fragment: int, stands: Stands) -> None:
        """Say what the spare slot holds."""
        at = self._entry(fragment, 1 - self._present[fragment])
        said = _FIELDS.pack(fragment, *stands, 0, 0)
        self._set_word(at + ENTRY - 8, _BLANK)
        self._bytes[at : at + ENTRY - 8] = said
        self._set_word(at + ENTRY - 8, _WORD.pack(xxh3_64_intdigest(said) or 1))

    def durable(self, entries: Mapping[int, Stands]) -> None:
        """`write_entry` for each of these fragments, so that it outlives as much as this memory can."""
        for fragment, stands in entries.items():
            self.write_entry(fragment, stands)

    def turn(self, fragment: int, stands: Stands) -> None:
        """The spare slot, of which that was said, is the present one."""
        self._present[fragment] = 1 - self._present[fragment]
        self._stands[fragment] = stands

    def flip(self, fragment: int, *, version: int, step: int, position: int, checksum: int) -> None:
        """Both at once."""
        stands = Stands(version, step, position, checksum)
        self.write_entry(fragment, stands)
        self.turn(fragment, stands)

    def _entry(self, fragment: int, slot: int) -> int:
        return self.entry_at(self.layout, fragment, slot)

    def _set_word(self, at: int, word: bytes) -> None:
        """Eight aligned bytes: one store."""
        self._bytes[at : at + 8] = word

    def find_present(self, fragment: int) -> str:
        """Look at the entries to find the present slot; gives what is wrong with them, or ""."""
        best: tuple[Stands, int] | None = None
        for slot in (0, 1):
            at = self._entry(fragment, slot)
            said, check = self._bytes[at : at + ENTRY - 8], bytes(self._bytes[at + ENTRY - 8 : at + ENTRY])
            if check == _BLANK:
                continue
            if check != _WORD.pack(xxh3_64_intdigest(said) or 1):
                return f"the entry at byte {at} (fragment {fragment}) has a wrong checksum"
            whose, version, step, position, checksum, _, _ = _FIELDS.unpack(said)
            if whose != fragment:
                return f"the entry at byte {at} is of fragment {whose}, not {fragment}"
            if best is None or (version, position) > best[0][::2]:
                best = Stands(version, step, position, checksum), slot
        if best is not None:
            self._stands[fragment], self._present[fragment] = best
        return ""
