"""The event tape: everything the syncer's core was told, when, and what it decided.

The core has no clock, randomness or thread, so a tape fed to a fresh core gives the same decisions: `verify` checks that, and a
replay adds the tensors. One segment per start of the syncer (0001.tape, 0002.tape, ...), each complete in itself.

A segment is a sequence of records, each a 4-byte little-endian length and a msgpack array [kind, t, name, body]:

| kind | t | name | body |
| --- | --- | --- | --- |
| head | when the segment begins | run id | {format, policy, layout, state}: what the core was made of |
| event | when it was handled | message class | the message, a map |
| action | | message class | the message, a map |
| end | when the syncer closed it | | nil |

The messages are those of core.messages and nothing else. A segment without an end, or cut inside a record, is one whose
process was killed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from skerry.core import messages
from skerry.core.layout import Layout
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.errors import RunDirError
from skerry.store.files import Growing, Say

FORMAT = 2
_LENGTH = struct.Struct("<I")


class _Record(msgspec.Struct, array_like=True, frozen=True):
    kind: str
    t: float
    name: str
    body: msgspec.Raw


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a segment's core was made of."""

    run: str
    began: float
    policy: Policy
    layout: Layout
    state: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Event:
    """The core was told `event` at `t`."""

    t: float
    event: messages.SyncerEvent


@dataclass(frozen=True, kw_only=True)
class Action:
    """The core decided this, on the event before."""

    action: messages.SyncerAction


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The segment was closed in order."""


class Tape:
    """The writer of one segment. Nothing raises after construction (see store.files.Growing)."""

    def __init__(self, folder: Path, head: Head, say: Say) -> None:
        """Begin the next segment in `folder`. Raises OSError."""
        numbers = [int(path.stem) for path in segments(folder)]
        self.path = folder / f"{max(numbers, default=0) + 1:04}.tape"
        self._file = Growing(self.path, say)
        self._encode = msgspec.msgpack.Encoder().encode
        body = {"format": FORMAT, "policy": asdict(head.policy), "state": head.state,
                "layout": head.layout.to_json()}  # fmt: skip
        self._write("head", head.began, head.run, body)
        self.flush()

    def event(self, t: float, event: messages.SyncerEvent) -> None:
        """To be called before the core handles it, so that the tape holds the one it failed on."""
        self._write("event", t, type(event).__name__, event)

    def action(self, action: messages.SyncerAction) -> None:
        """To be called as it is carried out, after the event that caused it."""
        self._write("action", 0.0, type(action).__name__, action)

    def flush(self) -> None:
        """See Growing.flush."""
        self._file.flush()

    def close(self, t: float) -> None:
        """The segment is complete."""
        self._write("end", t, "", None)
        self._file.close()

    def _write(self, kind: str, t: float, name: str, body: Any) -> None:
        data = self._encode((kind, t, name, body))
        self._file.add(_LENGTH.pack(len(data)) + data)


def segments(folder: Path) -> list[Path]:
    """The tape's segments, oldest first."""
    return sorted(folder.glob("[0-9]*.tape"))


def read_tape(path: Path) -> Iterator[Head | Event | Action | Ended]:
    """What a segment holds, its Head first. Raises RunDirError if the file is no tape, or of another format."""
    decode = msgspec.msgpack.Decoder(_Record).decode
    headless = True
    for data in _records(path):
        try:
            found = _understood(decode(data))
        except (msgspec.MsgspecError, AttributeError, KeyError, TypeError) as error:
            raise _no_tape(path, str(error)) from error
        if headless and not isinstance(found, Head):
            break
        headless = False
        yield found
    if headless:
        raise _no_tape(path, "it has no head")


def _records(path: Path) -> Iterator[bytes]:
    left = path.stat().st_size
    with path.open("rb") as file:
        while left >= _LENGTH.size:
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            left -= _LENGTH.size + length
            if left < 0:
                return
            yield file.read(length)


def _understood(record: _Record) -> Head | Event | Action | Ended:
    if record.kind == "event":
        return Event(t=record.t, event=_decoder(record.name)(record.body))
    if record.kind == "action":
        return Action(action=_decoder(record.name)(record.body))
    if record.kind == "end":
        return Ended()
    body = msgspec.msgpack.decode(record.body)
    if record.kind != "head" or body["format"] != FORMAT:
        raise KeyError(f"record {record.kind!r} of an unknown format")
    return Head(run=record.name, began=record.t, policy=msgspec.convert(body["policy"], Policy),
                layout=Layout.from_json(body["layout"]), state=body["state"])  # fmt: skip


@cache
def _decoder(name: str) -> Callable[[msgspec.Raw], Any]:
    return msgspec.msgpack.Decoder(getattr(messages, name)).decode


def _no_tape(path: Path, why: str) -> RunDirError:
    return RunDirError(f"{path} is no tape this version can read: {why}", remedy="name a file of a run's tape folder")


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What `verify` found. `difference`: "" if the fresh core decided everything as the tape says, else the first place."""

    events: int
    actions: int
    difference: str


def verify(path: Path) -> Verified:
    """Feed a segment's events to a fresh core and compare its decisions with the recorded ones."""
    core: SyncerCore | None = None
    expected: Iterator[messages.SyncerAction] = iter(())
    events = actions = 0
    for entry in read_tape(path):
        if isinstance(entry, Head):
            core = SyncerCore(entry.policy, entry.layout, entry.state)
            continue
        decided = next(expected, None)
        if isinstance(entry, Action):
            actions += 1
            if decided != entry.action:
                return _differs(events, actions, f"the tape has {entry.action}, a fresh core decides {decided}")
            continue
        if decided is not None:
            return _differs(events, actions, f"a fresh core decides {decided}, the tape has nothing")
        if isinstance(entry, Event):
            assert core is not None
            events += 1
            expected = iter(core.handle(entry.t, entry.event))
    # Without an end, what is still expected was decided on the last event, and the syncer was killed before it wrote that.
    return Verified(events=events, actions=actions, difference="")


def _differs(events: int, actions: int, what: str) -> Verified:
    return Verified(events=events, actions=actions, difference=f"at event {events}: {what}")
