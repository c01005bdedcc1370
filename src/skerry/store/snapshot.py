"""The snapshot: the global model, the outer momentum and the core's state at one moment, in one safetensors file.

Tensors `theta` and `momentum`: float32, flat, fragment after fragment as Layout.offsets says. Metadata: `skerry`, one JSON text
with the rest. The file is whole or it is the previous one; it holds all that a syncer needs to go on (`--resume`) and all that
an evaluation needs to run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from skerry.core.layout import Layout
from skerry.errors import RunDirError

FORMAT = 2
NAME = "snapshot.safetensors"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What the first learner told of its model beside the layout."""

    aliases: Mapping[str, str]  # other name of a tied tensor -> its name in the layout
    config: Any  # the user's own description of the model: any JSON value


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run at one moment. `state` is SyncerCore.state(); `t` the seconds the run had been going on."""

    run: str
    t: float
    layout: Layout
    origin: Origin
    published: tuple[tuple[int, int], ...]  # of each fragment: version, and the step of the round that made it
    state: Mapping[str, Any]
    traffic: tuple[int, int]  # bytes that learners sent and were sent, as on the sockets
    theta: NDArray[np.float32]
    momentum: NDArray[np.float32]


def write_snapshot(snapshot: Snapshot, path: Path) -> None:
    """Write it to `path` without a copy in memory; `files.settle` then puts it into place. Raises OSError."""
    about = {
        "format": FORMAT, "run": snapshot.run, "t": snapshot.t, "layout": snapshot.layout.to_json(),
        "aliases": dict(snapshot.origin.aliases), "config": snapshot.origin.config, "published": snapshot.published,
        "state": snapshot.state, "traffic": snapshot.traffic,
    }  # fmt: skip
    write_tensors(path, {"theta": snapshot.theta, "momentum": snapshot.momentum}, {"skerry": json.dumps(about)})


def write_tensors(path: Path, tensors: dict[str, NDArray[np.float32]], metadata: dict[str, str]) -> None:
    """A safetensors file. Raises OSError."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error).removeprefix("Error while serializing: ")) from error


def load_snapshot(path: Path) -> Snapshot:
    """Read a snapshot. Raises RunDirError if there is none, or it is not one of this version."""
    if not path.is_file():
        raise RunDirError(f"there is no snapshot {path}", remedy="a run can be resumed from its first snapshot on")
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["skerry"])
            if about["format"] != FORMAT:
                raise KeyError(f"format {about['format']}")
            theta, momentum = file.get_tensor("theta"), file.get_tensor("momentum")
        return Snapshot(
            run=about["run"], t=about["t"], layout=Layout.from_json(about["layout"]), traffic=tuple(about["traffic"]),
            published=tuple((version, step) for version, step in about["published"]),
            origin=Origin(aliases=about["aliases"], config=about["config"]), state=about["state"],
            theta=theta, momentum=momentum,
        )  # fmt: skip
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunDirError(f"{path} is no snapshot this version can read: {error}",
                          remedy="begin a new run, or use the version that wrote it") from error  # fmt: skip


def by_name(layout: Layout, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """The layout's tensors by name and in shape: views of `flat`, or copies where a tensor is in several pieces."""
    parts: dict[int, list[tuple[int, NDArray[np.float32]]]] = {}
    for offset, pieces in zip(layout.offsets, layout.fragments, strict=True):
        for piece in pieces:
            parts.setdefault(piece.tensor, []).append((piece.start, flat[offset : offset + piece.size]))
            offset += piece.size
    found = {}
    for index, spec in enumerate(layout.tensors):
        ordered = [part for _, part in sorted(parts[index], key=lambda part: part[0])]
        whole = ordered[0] if len(ordered) == 1 else np.concatenate(ordered)
        found[spec.name] = whole.reshape(spec.shape)
    return found


def fill(layout: Layout, named: Mapping[str, NDArray[np.float32]], flat: NDArray[np.float32]) -> None:
    """The inverse of by_name, for tensors of the layout's names and shapes: write them into `flat`."""
    for offset, pieces in zip(layout.offsets, layout.fragments, strict=True):
        for piece in pieces:
            values = named[layout.tensors[piece.tensor].name].reshape(-1)
            flat[offset : offset + piece.size] = values[piece.start : piece.stop]
            offset += piece.size


def mismatch(layout: Layout, shapes: Mapping[str, Sequence[int]]) -> str:
    """What keeps tensors of these names and shapes from being the layout's; "" if nothing does. More names are no harm."""
    for spec in layout.tensors:
        if spec.name not in shapes:
            return f"it has no tensor {spec.name}"
        if tuple(shapes[spec.name]) != spec.shape:
            return f"its tensor {spec.name} is {tuple(shapes[spec.name])}, the learner's is {spec.shape}"
    return ""
