"""The event tape: everything that the syncer's core was told, and when. It is the write-ahead log (log.py writes it).

The core has no clock, randomness or thread, so a tape fed to a fresh core gives the same decisions: a restart is that, and
`verify` checks it. Segments lie in one folder, 000001.tape, 000002.tape, ...; each begins with all that its core was made of,
and is whole in itself. What comes after a restart, or after 16 MiB, goes into a new one; older ones are compressed
(000001.tape.gz).

A segment is a sequence of records (packing.py):

| payload | is |
| --- | --- |
| [HEAD, format, {run, began, epoch, events, policy, layout, state, about, kinds}] | what the core was made of |
| [code, t, decided, field, ...] | an event, and when it was handled |
| [ENDED, t, decided] | the segment is complete |

`decided` is a checksum of what the core decided on the event before (0: nothing), so a replay finds the first difference,
though no decision is written down. Nothing but a kill leaves a segment without an end, and only the newest: its last record may
be cut short. Nothing of that was ever told to anybody, and the next start cuts it off. Whatever else is not as it was written
is damage.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from skerry.core.layout import Layout
from skerry.core.maker import maker
from skerry.core.messages import SyncerAction, SyncerEvent
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.errors import ConfigError, RunDirError
from skerry.store.files import last_good
from skerry.store.packing import ENDED, HEAD, KINDS, SHORTEST, Damaged, encode, framed, sum_of, unframed, unpacked

FORMAT = 3
_NAME = re.compile(r"(\d{6,})\.tape(\.gz)?")
_UNREADABLE = (msgspec.MsgspecError, ConfigError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a segment's core was made of. `state`: SyncerCore.state(), None of a run that begins; `events`: of the run before
    this segment; `about`: plain values that the syncer wants to find again."""

    run: str
    began: float
    policy: Policy
    layout: Layout
    state: dict[str, Any] | None
    epoch: int = 0
    events: int = 0
    about: dict[str, Any] = field(default_factory=dict)


class Event(NamedTuple):
    """The core was told `event` at `t`. `before`: checksum of what it had decided on the event before."""

    t: float
    event: SyncerEvent
    before: int = 0


class Ended(NamedTuple):
    """The segment is complete. `before`: as of an event."""

    t: float
    before: int | None = 0  # None: a kill left it without an end, which was made up for


Entry = Head | Event | Ended
_made = maker(Event)


# ---------------------------------------------------------------- files


def number_of(path: Path) -> int:
    """A segment's; 0 of what is none."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else 0


def segments(folder: Path) -> list[Path]:
    """The tape's segments, oldest first. One that a kill left in both forms is named once, compressed."""
    found = {number_of(path): path for path in sorted(folder.glob("*.tape*")) if number_of(path)}
    return [found[number] for number in sorted(found)]


def last_segment(folder: Path) -> Path | None:
    """The one that a restart goes on from."""
    return next(reversed(segments(folder)), None)


# ---------------------------------------------------------------- reading


def head_payload(head: Head) -> bytes:
    """Of the record that begins a segment."""
    return encode((HEAD, FORMAT, {
        "run": head.run, "began": head.began, "epoch": head.epoch, "events": head.events, "policy": asdict(head.policy),
        "layout": head.layout.to_json(), "state": head.state, "about": head.about, "kinds": KINDS,
    }))  # fmt: skip


def read_tape(path: Path) -> Iterator[Entry]:
    """What a segment holds, its Head first. Raises RunDirError if the file is no tape, of another format, or damaged: then it
    names the file, the byte and the last good state."""
    at = events = 0
    ended = False
    try:
        data = _contents(path)
        records = unframed(data)
        first = next(records, None)
        if first is None:
            _no_tape(path, "it has no head" if data else "it is empty")
        yield _head(path, first[1])
        at = SHORTEST + len(first[1])
        for at, payload in records:
            if ended:
                raise Damaged("records follow its end")
            if payload[1] == ENDED:
                ended = True
                _, t, before = msgspec.msgpack.decode(payload)
                yield Ended(t, before)
            else:
                t, before, event = unpacked(payload)
                events += 1
                yield _made(t, event, before)
            at += SHORTEST + len(payload)
    except Damaged as error:
        _damaged(path, at, events, str(error))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        _damaged(path, at, events, f"it cannot be decompressed: {error}")
    except _UNREADABLE as error:
        _damaged(path, at, events, f"a record is none: {error}")
    if not ended and not _may_be_torn(path):
        _damaged(path, at, events, "it is cut short, and no end of it follows")


def _may_be_torn(path: Path) -> bool:
    """Whether a kill may have left it without an end: it is the newest."""
    return path.suffix != ".gz" and all(number_of(other) <= number_of(path) for other in segments(path.parent))


def _contents(path: Path) -> bytes:
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                return file.read()
        return path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise
    except OSError as error:
        raise RunDirError(f"cannot read {path}: {error.strerror}", remedy="name a file of a run's tape folder") from error


def _head(path: Path, payload: bytes) -> Head:
    found = msgspec.msgpack.decode(payload)
    if not isinstance(found, list) or len(found) != 3 or found[0] != HEAD:
        _no_tape(path, "it has no head")
    if found[1] != FORMAT or found[2]["kinds"] != KINDS:
        _no_tape(path, f"it is of format {found[1]}, or tells of other events")
    body = found[2]
    return Head(
        run=body["run"], began=body["began"], policy=msgspec.convert(body["policy"], Policy), epoch=body["epoch"],
        layout=Layout.from_json(body["layout"]), state=body["state"], events=body["events"], about=body["about"],
    )  # fmt: skip


def _no_tape(path: Path, why: str) -> NoReturn:
    raise RunDirError(f"{path} is no tape this version can read: {why}", remedy="name a file of a run's tape folder")


def _damaged(path: Path, at: int, events: int, what: str) -> NoReturn:
    raise RunDirError(f"{path} is damaged at byte {at}, after {events} events: {what}",
                      remedy=last_good(path.parent.parent / "store"))  # fmt: skip


def seal(path: Path) -> None:
    """Complete the newest segment, which its syncer's death may have left without an end: what is cut short is cut off. Raises
    RunDirError if it is damaged, OSError."""
    data, whole, last = _contents(path), 0, b""
    try:
        for at, last in unframed(data):
            whole = at + SHORTEST + len(last)
    except Damaged as error:
        _damaged(path, whole, 0, str(error))
    if not last or last[1] == ENDED:
        return
    with path.open("r+b") as file:
        file.truncate(whole)
        file.seek(whole)
        file.write(framed(encode((ENDED, 0.0 if last[1] == HEAD else unpacked(last)[0], None))))


# ---------------------------------------------------------------- replay


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A core that was fed a segment. `events`: of the run, to its end; `actions`: that it decided on; `t`: of the last event;
    `difference`: "" if it decided everything as the tape says, else the first place, and it was fed no more."""

    head: Head
    core: SyncerCore
    events: int
    actions: int
    t: float
    difference: str


def replay(path: Path) -> Replayed:
    """Feed a segment's events to a fresh core. Raises RunDirError."""
    entries = read_tape(path)
    head = next(entries)
    assert isinstance(head, Head)
    core = SyncerCore(head.policy, head.layout, head.state)
    events, actions, t, difference = head.events, 0, head.began, ""
    event: SyncerEvent | None = None
    decided: Sequence[SyncerAction] = ()
    for entry in entries:
        assert not isinstance(entry, Head)
        if entry.before is not None and entry.before != sum_of(decided):
            difference = f"at event {events} of the run, {event}: a fresh core decides {decided}, which was not decided then"
            break
        if isinstance(entry, Event):
            t, event = entry.t, entry.event
            decided = core.handle(t, event)
            events, actions = events + 1, actions + len(decided)
    return Replayed(head=head, core=core, events=events, actions=actions, t=t, difference=difference)


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What `verify` found in a segment. `difference`: see Replayed."""

    events: int
    actions: int
    difference: str


def verify(path: Path) -> Verified:
    """Whether a fresh core, fed a segment's events, decides what was decided then. Raises RunDirError."""
    found = replay(path)
    return Verified(events=found.events - found.head.events, actions=found.actions, difference=found.difference)
