"""The merger's memory is the store: RUN/store/values, a file mapped into memory, two slots for each fragment
(numerics/slots.py).

    first page    magic, format, fragments, bytes of the file, the run, the layout's hash, checksum of those
    the rest      entries and slots, as numerics/slots.py says

Rules: a version is in the file as soon as its entry is written, without any call to the operating system, so a SIGKILL costs no
version; `durable` makes it outlive the machine, too: the slot is on the disk before its entry is. The file is reserved whole
when it is made: a full disk is met then and never later. What is damaged, cut short, of another run or of another format is
told in one line; nothing is ever written to a file that did not open.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from mmap import PAGESIZE, mmap
from pathlib import Path

from xxhash import xxh3_64_intdigest

from skerry.core.layout import Layout
from skerry.errors import RunDirError, StorageError
from skerry.numerics.slots import Slots, Stands, checksum_of
from skerry.store.files import last_good, sync_folder

FORMAT = 1
NAME = "values"
_MAGIC = b"skerry values\0\0\0"
_ABOUT = struct.Struct("<16sIIQ64s32s")
_SUM = struct.Struct("<Q")


class Values(Slots):
    """Made by `create` or `open`. The mapping lives until nobody holds a view of it any more."""

    def __init__(self, path: Path, layout: Layout, handle: int) -> None:
        """`handle`: the open file, which is this object's from now on."""
        super().__init__(layout, mmap(handle, self.nbytes(layout)))
        self.path = path
        self._handle = handle

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    @classmethod
    def create(cls, path: Path, layout: Layout, run: str) -> Values:
        """A new file, all its values zero and none of them a version. Raises RunDirError if it exists, StorageError if there is
        no room for it."""
        if path.exists():
            raise RunDirError(f"{path} exists already", remedy="resume the run, or choose another directory")
        part, size = path.with_name(path.name + ".part"), cls.nbytes(layout)
        handle = -1
        try:
            part.unlink(missing_ok=True)
            handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            os.posix_fallocate(handle, 0, size)
            os.pwrite(handle, _about(layout, run), 0)
            os.fsync(handle)
            part.replace(path)
            sync_folder(path.parent)
            return cls(path, layout, handle)
        except OSError as error:
            if handle >= 0:
                os.close(handle)
                part.unlink(missing_ok=True)
            raise StorageError(f"cannot make {path} ({size / 1e9:.3g} GB): {error.strerror}",
                               remedy="free space, or choose another directory") from error  # fmt: skip

    @classmethod
    def open(cls, path: Path, layout: Layout, run: str, *, verify: bool = True) -> Values:
        """The file of that run and layout. `verify`: read every present slot and compare its checksum. Raises RunDirError for
        what is not as it was left, StorageError if it cannot be read."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise RunDirError(f"there is no {path}", remedy=last_good(path.parent)) from error
        except IsADirectoryError as error:
            raise RunDirError(f"{path} is a directory, not a file of values", remedy=last_good(path.parent)) from error
        except OSError as error:
            raise StorageError(f"cannot open {path}: {error.strerror}", remedy="see to it that it can be written") from error
        try:
            if wrong := _wrong_with(handle, layout, run):
                raise RunDirError(f"{path} {wrong}", remedy=last_good(path.parent))
            values = cls(path, layout, handle)
        except BaseException:
            os.close(handle)
            raise
        for fragment in range(len(layout.sizes)):
            if wrong := values._find(fragment, verify=verify):
                raise RunDirError(f"{path} is damaged: {wrong}", remedy=last_good(path.parent))
        return values

    def _find(self, fragment: int, *, verify: bool) -> str:
        if wrong := self.find_present(fragment):
            return wrong
        stands = self.headers[fragment]
        if verify and stands is not None and checksum_of(self.present(fragment)) != stands.checksum:
            return f"the values of fragment {fragment}, version {stands.version}, have a wrong checksum"
        return ""

    def durable(self, entries: Mapping[int, Stands]) -> None:
        """`write_entry` for each of these fragments, so that it outlives the machine: slots first, then entries. Two waits for
        the disk, however many they are. Raises StorageError."""
        try:
            os.fdatasync(self._handle)
            super().durable(entries)
            os.fdatasync(self._handle)
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror}",
                               remedy="look after the disk (its room is reserved), then resume") from error  # fmt: skip

    def vanished(self) -> bool:
        """Whether the file has no name any more: someone has removed it, and the values are in memory only."""
        return os.fstat(self._handle).st_nlink == 0

    def copy_to(self, path: Path, run: str) -> Values:
        """The same values, present and spare ones, in a new file. No other thread may be writing. As `create`."""
        copy = type(self).create(path, self.layout, run)
        copy._bytes[PAGESIZE:] = self._bytes[PAGESIZE:]
        for fragment in range(len(self.layout.sizes)):
            copy.find_present(fragment)
        return copy


def _about(layout: Layout, run: str) -> bytes:
    about = _ABOUT.pack(_MAGIC, FORMAT, len(layout.sizes), Slots.nbytes(layout), run.encode(), bytes.fromhex(layout.hash))
    return about + _SUM.pack(xxh3_64_intdigest(about))


def _wrong_with(handle: int, layout: Layout, run: str) -> str:
    """What keeps a file from being that run's; "" if nothing does."""
    size, about = os.fstat(handle).st_size, os.pread(handle, _ABOUT.size + _SUM.size, 0)
    if not about:
        return "is empty"
    if not _MAGIC.startswith(about[: len(_MAGIC)]):
        return "is no file of values"
    if len(about) < _ABOUT.size + _SUM.size:
        return f"is cut short: it has {size} bytes"
    _, known, fragments, nbytes, whose, layout_hash = _ABOUT.unpack_from(about)
    if known != FORMAT:
        return f"is of format {known}, this version reads {FORMAT}"
    if _SUM.unpack_from(about, _ABOUT.size)[0] != xxh3_64_intdigest(about[: _ABOUT.size]):
        return "is damaged: its first page has a wrong checksum"
    if (name := whose.rstrip(b"\0").decode(errors="replace")) != run:
        return f"is of the run {name}, not of {run}"
    if layout_hash != bytes.fromhex(layout.hash):
        return f"is of another model ({fragments} fragments, {nbytes / 1e9:.3g} GB)"
    if size != nbytes:
        return f"is cut short: {size} bytes of {nbytes}" if size < nbytes else f"has {size} bytes instead of {nbytes}"
    return ""
