"""The data: bytes of files, divided into a training and a held-out part, and the batches drawn from them.

Rules: train and held-out are disjoint by file; which file is held out depends on its name alone (a hash), so a file more
or less moves no other. A batch is a pure function of (text, seed, learner, step). The text is held in memory.

Shards: the training text is cut into blocks which the shards own in turn (a shard is a sample of everything, not one
corner of it); a window lies within one block. A learner whose id exceeds the number of shards, an opportunistic one,
reads shard (id mod shards), but draws other windows from it than that shard's owner does.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skerry.errors import DataError

Bytes: TypeAlias = NDArray[np.uint8]
Split = Literal["files", "bytes"]

HELD_OUT_EVERY = 16  # one file in so many is held out
LARGEST_BLOCK = 64  # windows' worth of bytes in one block of a shard, at most
NOT_SOURCES = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Training and held-out bytes. `split`: "files" = disjoint by file; "bytes" = too few files, the text's end is held out."""

    train: Bytes
    held_out: Bytes
    files: int
    split: Split
    sha256: str  # over every file's name, length and bytes, in order


def load_corpus(paths: Sequence[str], context: int) -> Corpus:
    """Read files and folders (hidden files left out); no paths = the Python standard library's own sources.

    Raises DataError if one is missing or unreadable, or if either part would be shorter than one window of `context` + 1.
    """
    named = _files(paths) if paths else _standard_library()
    texts = [(name, _read(path)) for name, path in named]
    total, need = sum(len(text) for _, text in texts), context + 1
    where = ", ".join(paths) or "the standard library"
    if total == 0:
        raise DataError(f"the data is empty: {where}", remedy="name files or folders that hold text with --data")
    train, held_out, split = _divide(texts, need)
    if min(len(train), len(held_out)) < need:
        raise DataError(f"the data is too short: {where} holds {total} bytes; its training and its held-out part must each"
                        f" hold one window of {need}", remedy="add data, or choose a smaller context")  # fmt: skip
    return Corpus(train=train, held_out=held_out, split=split, sha256=_hash(texts), files=len(texts))


def windows(corpus: Corpus, *, seed: int, learner: int, step: int, batch: int, context: int,
            shards: int) -> NDArray[np.int64]:  # fmt: skip
    """The training windows of that learner's step: [batch, context + 1]."""
    length, need = len(corpus.train), context + 1
    block = max(need, min(LARGEST_BLOCK * context, length // max(shards, 1)))
    blocks = length // block
    first = learner % max(shards, 1) % blocks
    owned = len(range(first, blocks, max(shards, 1)))
    # Raw 64-bit values of a counter-based generator: the same on every machine and with every version of numpy.
    raw = np.random.Philox(key=[seed, learner], counter=[0, 0, 0, step]).random_raw(2 * batch)
    start = (first + raw[:batch] % np.uint64(owned) * np.uint64(max(shards, 1))) * np.uint64(block)
    start += raw[batch:] % np.uint64(block - context)
    return _gather(corpus.train, start.astype(np.int64), need)


def held_out_windows(corpus: Corpus, *, count: int, context: int) -> NDArray[np.int64]:
    """Fixed windows spread evenly over the held-out part: [count or as many as fit, context + 1]."""
    need = context + 1
    count = min(count, len(corpus.held_out) // need)
    return _gather(corpus.held_out, np.linspace(0, len(corpus.held_out) - need, count).astype(np.int64), need)


def _gather(text: Bytes, start: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    found: NDArray[np.int64] = text[start[:, None] + np.arange(width)].astype(np.int64)
    return found


def _standard_library() -> list[tuple[str, Path]]:
    root = Path(sysconfig.get_path("stdlib"))
    return [(name, path) for name, path in _walk(root, NOT_SOURCES) if path.suffix == ".py"]


def _files(paths: Iterable[str]) -> list[tuple[str, Path]]:
    """Every file once, however often it is named, with the name it is known by: relative to the folder that was named."""
    found: dict[Path, tuple[str, Path]] = {}
    for given in paths:
        root = Path(given).expanduser()
        if not root.exists():
            raise DataError(f"no such file or folder: {given}", remedy="correct the path given with --data")
        if not (root.is_file() or root.is_dir()):  # /dev/zero, a pipe: it would be read without end
            raise DataError(f"{given} is neither a file nor a folder", remedy="name files or folders that hold text")
        for name, path in _walk(root, {"__pycache__"}) if root.is_dir() else [(root.name, root)]:
            found.setdefault(path.resolve(), (name, path))
    return sorted(found.values())


def _walk(root: Path, leave_out: Iterable[str]) -> list[tuple[str, Path]]:
    """The folder's regular files with their relative names, sorted; hidden ones and folders to leave out are not entered."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in leave_out and not name.startswith(".")]
        paths = [Path(folder, name) for name in files if not name.startswith(".")]
        found += [(path.relative_to(root).as_posix(), path) for path in paths if path.is_file()]
    return sorted(found)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", remedy="make it readable, or leave it out") from error


def _divide(texts: Sequence[tuple[str, bytes]], need: int) -> tuple[Bytes, Bytes, Split]:
    """Train and held-out part, by file; by bytes where the files are so few or small that a part could not hold a window."""
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for name, text in texts:
        digest = hashlib.sha256(name.encode()).digest()
        parts[int.from_bytes(digest[:8], "little") % HELD_OUT_EVERY == 0].append(text)
    train, held_out = (np.frombuffer(b"".join(part), np.uint8) for part in parts)
    if min(len(train), len(held_out)) >= need:
        return train, held_out, "files"
    everything = np.frombuffer(b"".join(text for _, text in texts), np.uint8)
    cut = max(need, len(everything) // HELD_OUT_EVERY)
    return everything[:-cut], everything[-cut:], "bytes"


def _hash(texts: Sequence[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, text in texts:
        digest.update(f"{name}\0{len(text)}\0".encode())
        digest.update(text)
    return digest.hexdigest()
