"""What a run's directory holds of its past: what a syncer that is resumed goes on from.

    the log and the values    everything, in every phase: what the usual start reads
    the last snapshot         what `--from-snapshot` goes back to, where log and values are damaged or disagree

Rules: nothing is changed while the past is read, so a second look finds the same. Where log and values are not of one past the
syncer does not choose by itself: it says what is wrong and names the last good state.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skerry.core.messages import Published
from skerry.core.syncer import SyncerCore
from skerry.drive.restart import Disagreement, unheard
from skerry.errors import RunDirError
from skerry.numerics.slots import checksum_of
from skerry.store.files import last_good
from skerry.store.snapshot import NAME, Origin, load_snapshot
from skerry.store.tape import last_segment, replay
from skerry.store.values import NAME as VALUES
from skerry.store.values import Values


@dataclass(frozen=True, kw_only=True)
class Past:
    """A run as it was. `unheard`: versions that its core has yet to hear of; `events`: how many it has heard; `t`: when it
    heard the last one; `traffic`: bytes from and to learners until then, or a little earlier."""

    run: str
    t: float
    core: SyncerCore
    values: Values
    unheard: tuple[Published, ...]
    events: int
    origin: Origin
    traffic: tuple[int, int]


def of_log(folder: Path, store: Path) -> Past | None:
    """From the log's last segment, and the values in `store`; None if no log was begun. Raises RunDirError, StorageError."""
    segment = last_segment(folder / "tape")
    if segment is None:
        return None
    found = replay(segment)
    if found.difference:
        raise RunDirError(f"{segment} was written by another version of the core: {found.difference}",
                          remedy=last_good(folder / "store"))  # fmt: skip
    head, core = found.head, found.core
    values = Values.open(store / VALUES, head.layout, head.run)
    try:
        missing = unheard(core, [stands.version if stands else -1 for stands in values.headers]) if core.versions else []
    except Disagreement as error:
        raise RunDirError(f"log and values of {folder} disagree: {error}", remedy=last_good(folder / "store")) from error
    return Past(run=head.run, t=found.t, core=core, values=values, unheard=tuple(missing), events=found.events,
                origin=Origin(**head.about["origin"]), traffic=tuple(head.about["traffic"]))  # fmt: skip


def of_snapshot(folder: Path, store: Path) -> Past:
    """From the last snapshot. The values that were there are put aside, not overwritten. Raises RunDirError, StorageError."""
    snapshot = load_snapshot(folder / "store" / NAME)
    layout = snapshot.layout
    core = SyncerCore(snapshot.policy, layout, dict(snapshot.state))
    path = store / VALUES
    if path.exists():
        path.rename(_aside(path))
    values = Values.create(path, layout, snapshot.run)
    for fragment, (version, step) in enumerate(snapshot.published):
        spare = values.spare(fragment)
        spare.theta[:], spare.momentum[:] = snapshot.theta[fragment], snapshot.momentum[fragment]
        values.flip(fragment, version=version, step=step, position=snapshot.events, checksum=checksum_of(spare))
    missing = unheard(core, [version for version, _ in snapshot.published]) if core.versions else []
    return Past(run=snapshot.run, t=snapshot.t, core=core, values=values, unheard=tuple(missing), events=snapshot.events,
                origin=snapshot.origin, traffic=snapshot.traffic)  # fmt: skip


def _aside(path: Path) -> Path:
    number = 1
    while (name := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return name
