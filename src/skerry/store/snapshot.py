"""The snapshot: the global model, the outer momentum and the core's state at one moment, in one safetensors file.

Tensors `theta` and `momentum`: float32, flat, fragment after fragment as Layout.offsets says. Metadata: `skerry`, one JSON text
with the rest; `xxh3`, checksums (XXH3, 64 bits, hex) of that text, of theta and of momentum. The file is whole or it is the
previous one; it holds all that a syncer needs to go on (`--resume`) and all that an evaluation needs to run. What is not as it
was written, or is not finite, is refused when it is read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from xxhash import xxh3_64, xxh3_64_hexdigest

from skerry.core.layout import Layout
from skerry.core.policy import Policy
from skerry.errors import ConfigError, RunDirError
from skerry.store.files import last_good

FORMAT = 3
NAME = "snapshot.safetensors"
INITIAL = "initial.safetensors"  # the run's first one, kept
Values = Sequence[NDArray[np.float32]]
"""Of each fragment, flat."""
_BLOCK = 1 << 18  # elements that are read and checked at a time


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the first learner told of its model beside the layout."""

    aliases: Mapping[str, str]  # other name of a tied tensor -> its name in the layout
    config: Any  # the user's own description of the model: any JSON value


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run at one moment. `state` is SyncerCore.state(); `t` the seconds the run had been going on; `events`: how many its
    core had heard."""

    run: str
    t: float
    layout: Layout
    origin: Origin
    published: tuple[tuple[int, int], ...]  # of each fragment: version, and the step of the round that made it
    policy: Policy
    state: Mapping[str, Any]
    events: int
    traffic: tuple[int, int]  # bytes that learners sent and were sent, as on the sockets
    theta: Values
    momentum: Values


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write it to `path` without a copy in memory; `files.settle` then puts it into place. Raises OSError."""
    about = json.dumps({
        "format": FORMAT, "run": snapshot.run, "t": snapshot.t, "layout": snapshot.layout.to_json(),
        "aliases": dict(snapshot.origin.aliases), "config": snapshot.origin.config, "published": snapshot.published,
        "policy": asdict(snapshot.policy), "state": snapshot.state, "events": snapshot.events, "traffic": snapshot.traffic,
    })  # fmt: skip
    nbytes = 4 * snapshot.layout.total

    def head(*sums: str) -> bytes:
        flat = {"dtype": "F32", "shape": [snapshot.layout.total]}
        text = json.dumps({
            "__metadata__": {"skerry": about, "xxh3": " ".join((xxh3_64_hexdigest(about.encode()), *sums))},
            "theta": {**flat, "data_offsets": [0, nbytes]}, "momentum": {**flat, "data_offsets": [nbytes, 2 * nbytes]},
        })  # fmt: skip
        padded = text.encode() + b" " * (-len(text) % 8)
        return len(padded).to_bytes(8, "little") + padded

    with path.open("wb", buffering=0) as file:
        _write(file.fileno(), head("0" * 16, "0" * 16))
        theta, momentum = (_write_values(file.fileno(), values) for values in (snapshot.theta, snapshot.momentum))
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        _write(file.fileno(), head(theta, momentum))


def _write_values(file: int, values: Values) -> str:
    """Gives their checksum, taken block by block on the way."""
    checksum = xxh3_64()
    for block in _blocks(values):
        checksum.update(block.data)
        _write(file, block.data.cast("B"))
    return checksum.hexdigest()


def _blocks(values: Values) -> Iterator[NDArray[np.float32]]:
    for part in values:
        for at in range(0, part.size, _BLOCK):
            yield part[at : at + _BLOCK]


def _write(file: int, data: bytes | memoryview) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def write_tensors(path: Path, tensors: dict[str, NDArray[np.float32]], metadata: dict[str, str]) -> None:
    """A safetensors file. Raises OSError."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error).removeprefix("Error while serializing: ")) from error


def keep_initial(snapshot: Snapshot, path: Path) -> None:
    """The run's first snapshot, at `path`, stays, whatever comes after it. Raises OSError."""
    if not any(version for version, _ in snapshot.published):
        initial = path.with_name(INITIAL)
        initial.unlink(missing_ok=True)
        try:
            os.link(path, initial)
        except OSError:  # a file system without links
            shutil.copyfile(path, initial)


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot. Raises RunDirError if there is none, it is not one of this version, or it is damaged."""
    if not path.is_file():
        raise RunDirError(f"there is no snapshot {path}", remedy="a run can be resumed from its first snapshot on")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            about = json.loads(text := metadata["skerry"])
            if about["format"] != FORMAT:
                raise KeyError(f"format {about['format']}")
            layout = Layout.from_json(about["layout"])
            sums = metadata["xxh3"].split(" ")
            theta, momentum = (split(layout, file.get_tensor(name).reshape(-1)) for name in ("theta", "momentum"))
        snapshot = Snapshot(
            run=about["run"], t=about["t"], layout=layout, traffic=tuple(about["traffic"]),
            published=tuple((version, step) for version, step in about["published"]),
            origin=Origin(aliases=about["aliases"], config=about["config"]), state=about["state"],
            policy=msgspec.convert(about["policy"], Policy), events=about["events"],
            theta=theta, momentum=momentum,
        )  # fmt: skip
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, ConfigError) as error:
        raise RunDirError(f"{path} is no snapshot this version can read: {error}",
                          remedy="begin a new run, or use the version that wrote it") from error  # fmt: skip
    if wrong := _wrong_with(snapshot, text, sums):
        raise RunDirError(f"{path} is damaged: {wrong}", remedy=last_good(path.parent, but=path.name))
    return snapshot


def _wrong_with(snapshot: Snapshot, text: str, sums: list[str]) -> str:
    """How it differs from what was written; "" if it does not."""
    if sums[0] != xxh3_64_hexdigest(text.encode()):
        return "its text has a wrong checksum"
    for name, values, expected in zip(("theta", "momentum"), (snapshot.theta, snapshot.momentum), sums[1:], strict=True):
        checksum, finite = xxh3_64(), True
        for block in _blocks(values):
            checksum.update(block.data)
            finite = finite and bool(np.isfinite(block).all())
        if checksum.hexdigest() != expected:
            return f"{name} has a wrong checksum"
        if not finite:
            return f"{name} is not finite"
    return ""


def split(layout: Layout, flat: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Views of the fragments' values. Raises ValueError if `flat` is not fp32, or not as long as the layout."""
    if flat.size != layout.total or flat.dtype != np.float32:
        raise ValueError(f"{flat.size} values of {flat.dtype} for a model of {layout.total}")
    return [flat[at : at + size] for at, size in zip(layout.offsets, layout.sizes, strict=True)]


def by_name(layout: Layout, values: Values) -> dict[str, NDArray[np.float32]]:
    """The layout's tensors by name and in shape: views of the values, or copies where a tensor is in several pieces."""
    parts: dict[int, list[tuple[int, NDArray[np.float32]]]] = {}
    for fragment, pieces in zip(values, layout.fragments, strict=True):
        at = 0
        for piece in pieces:
            parts.setdefault(piece.tensor, []).append((piece.start, fragment[at : at + piece.size]))
            at += piece.size
    found = {}
    for index, spec in enumerate(layout.tensors):
        ordered = [part for _, part in sorted(parts[index], key=lambda part: part[0])]
        whole = ordered[0] if len(ordered) == 1 else np.concatenate(ordered)
        found[spec.name] = whole.reshape(spec.shape)
    return found


def fill(layout: Layout, named: Mapping[str, NDArray[np.float32]], values: Values) -> None:
    """The inverse of by_name, for tensors of the layout's names and shapes: write them into `values`."""
    for fragment, pieces in zip(values, layout.fragments, strict=True):
        at = 0
        for piece in pieces:
            tensor = named[layout.tensors[piece.tensor].name].reshape(-1)
            fragment[at : at + piece.size] = tensor[piece.start : piece.stop]
            at += piece.size


def mismatch(layout: Layout, shapes: Mapping[str, Sequence[int]]) -> str:
    """What keeps tensors of these names and shapes from being the layout's; "" if nothing does. More names are no harm."""
    for spec in layout.tensors:
        if spec.name not in shapes:
            return f"it has no tensor {spec.name}"
        if tuple(shapes[spec.name]) != spec.shape:
            return f"its tensor {spec.name} is {tuple(shapes[spec.name])}, the learner's is {spec.shape}"
    return ""
