"""The tape: what is committed is there after any death, what is damaged is told, and a replay finds the first difference."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.core.layout import TensorSpec, build_layout
from skerry.core.messages import Cancel, Contribution, Count, Join, Merge, Report, SyncerEvent, Tick
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.errors import RunDirError
from skerry.store import log
from skerry.store.log import Tape
from skerry.store.packing import CODES, Damaged, framed, packed, unframed, unpacked
from skerry.store.tape import Ended, Event, Head, read_tape, replay, segments, verify

POLICY = Policy(fragments=2, interval=4, steps=100)
LAYOUT = build_layout([TensorSpec(name=f"{i}.w", shape=(i + 2,)) for i in range(3)], 2, "balanced")
ROOT = Path(__file__).resolve().parents[2]


class Owner:
    """Hears what a tape says."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.troubles: list[bool] = []
        self.committed = 0
        self.gone = threading.Event()
        self.news = threading.Condition()

    def begin(self, folder: Path, level: Any = "process", keep: bool = True, **head: Any) -> Tape:
        more: dict[str, Any] = {"run": "r1", "began": 0.0, "policy": POLICY, "layout": LAYOUT, "state": None, **head}
        return Tape(folder, Head(**more), level=level, say=self._say, committed=self._committed, troubled=self._troubled,
                    vanished=self.gone.set, keep=keep)  # fmt: skip

    def _say(self, line: str) -> None:
        self._tell(lambda: self.said.append(line))

    def _committed(self, position: int) -> None:
        self._tell(lambda: setattr(self, "committed", position))

    def _troubled(self, on: bool) -> None:
        self._tell(lambda: self.troubles.append(on))

    def _tell(self, news: Callable[[], object]) -> None:
        with self.news:
            news()
            self.news.notify_all()

    def until(self, true: Callable[[], object]) -> None:
        with self.news:
            assert self.news.wait_for(true, 60)


EVENTS = [
    (0.1, Join(layout=LAYOUT.hash)),
    (0.2, Join(layout="other")),
    (0.3, Report(learner=0, generation=1, clock=0, count=Count(1, 10, 1000))),
    (11.0, Tick()),
]


def played(tape: Tape, core: SyncerCore, events: Any = EVENTS, change: Callable[[Any], Any] = lambda action: action) -> None:
    for t, event in events:
        tape.event(t, event)
        for action in core.handle(t, event):
            tape.action(change(action))


def pressed(tape: Tape) -> None:
    """What is older has been compressed."""
    assert tape._press is not None
    tape._press.join()


def recorded(folder: Path, change: Callable[[Any], Any] = lambda action: action) -> Path:
    """A short run of a core, on a tape of its own."""
    tape = Owner().begin(folder)
    played(tape, SyncerCore(POLICY, LAYOUT), change=change)
    tape.close(12.0)
    return tape.path


# ------------------------------------------------------------------ what a tape holds


def test_a_tape_holds_what_was_told(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    head, *rest, end = read_tape(path)
    assert head == Head(run="r1", began=0.0, policy=POLICY, layout=LAYOUT, state=None)
    assert isinstance(end, Ended) and end.t == 12.0
    assert [(e.t, e.event) for e in rest if isinstance(e, Event)] == EVENTS
    assert [e.before != 0 for e in rest if isinstance(e, Event)] == [False, True, True, False], "in the next one"
    found = verify(path)
    assert found.difference == "" and found.events == 4 and found.actions >= 3


def test_a_changed_decision_is_found(tmp_path: Path) -> None:
    path = recorded(tmp_path, lambda a: type(a)(**{**fields_of(a), "code": "x"}) if hasattr(a, "code") else a)
    difference = verify(path).difference
    assert difference.startswith("at event 2 of the run, Join(") and "a fresh core decides [Refused(" in difference


def test_a_changed_rule_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recorded(tmp_path)
    monkeypatch.setattr(SyncerCore, "progress", 0.5)
    assert "at event 1 of the run" in verify(path).difference


def fields_of(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__slots__}


def test_a_ledger_of_1e25_comes_back_exactly(tmp_path: Path) -> None:
    core, huge = SyncerCore(POLICY, LAYOUT), 12_345_678_901_234_567_890_123_457
    core.handle(0.0, Join(layout=LAYOUT.hash))
    tally = core.ledger.tallies[0]
    tally.processed, tally.merged, tally.lost["overlap"], tally.busy_merged = huge, huge - 1, 1 << 64, -huge
    owner = Owner()
    tape = owner.begin(tmp_path, state=core.state(), events=1)
    count = Count(1, huge, 1 << 63)
    played(tape, core, [(1.0, Report(learner=0, generation=1, clock=1, count=count))])
    tape.close(2.0)
    again = replay(tape.path)
    assert again.difference == "" and again.core.ledger.total() == core.ledger.total()
    assert again.core.ledger.tallies[0].lost["overlap"] == 1 << 64 and again.core.ledger.total().processed > 10**25
    assert again.core.state() == core.state()


# ------------------------------------------------------------------ any event

INTEGERS = st.integers(-(1 << 63), (1 << 64) - 1) | st.integers(-(10**26), 10**26)
COUNTS = st.builds(Count, INTEGERS, INTEGERS, INTEGERS)


def some(kind: type) -> st.SearchStrategy[Any]:
    st.register_type_strategy(Count, COUNTS)
    st.register_type_strategy(int, INTEGERS)
    st.register_type_strategy(Policy, st.just(POLICY))
    return st.from_type(kind)


ANY_EVENT = st.one_of([some(kind) for kind in CODES])
TIMES = st.floats(allow_nan=False)


@given(ANY_EVENT, TIMES, st.integers(0, (1 << 32) - 1))
@settings(deadline=None)
def test_any_event_comes_back_exactly(event: SyncerEvent, t: float, decided: int) -> None:
    back_t, back_decided, back = unpacked(packed(t, decided, event))
    assert (back_t, back_decided) == (t, decided)
    assert type(back) is type(event) and back == event
    for field in fields(event):
        mine, its = getattr(event, field.name), getattr(back, field.name)
        assert type(mine) is type(its)
        if isinstance(mine, tuple):
            assert list(map(type, mine)) == list(map(type, its))


@given(st.lists(ANY_EVENT, max_size=8), st.data())
@settings(deadline=None, max_examples=60)
def test_cut_at_any_byte_it_is_a_beginning_and_any_flipped_bit_is_found(events: list[SyncerEvent], data: st.DataObject) -> None:
    whole = b"".join(framed(packed(0.5, 7, event)) for event in events)
    payloads = [payload for _, payload in unframed(whole)]
    assert [unpacked(payload)[2] for payload in payloads] == events
    cut = data.draw(st.integers(0, len(whole)))
    some_of = [payload for _, payload in unframed(whole[:cut])]
    assert some_of == payloads[: len(some_of)] and sum(len(p) + 10 for p in some_of) <= cut
    if whole:
        bit = data.draw(st.integers(0, 8 * len(whole) - 1))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            list(unframed(bytes(flipped)))


# ------------------------------------------------------------------ deaths and damage


def test_a_newest_segment_cut_anywhere_behind_its_head_is_the_beginning_of_the_truth(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    whole, entries = path.read_bytes(), list(read_tape(path))
    head_ends = 10 + int.from_bytes(whole[:4], "little")
    for cut in range(head_ends, len(whole)):
        path.write_bytes(whole[:cut])
        found = list(read_tape(path))
        assert found == entries[: len(found)]
        assert verify(path).difference == ""
    for cut in range(0, head_ends, 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(RunDirError, match="no tape this version can read"):
            list(read_tape(path))


def test_what_a_kill_left_is_completed_when_the_run_goes_on(tmp_path: Path) -> None:
    first = recorded(tmp_path)
    whole = first.read_bytes()
    first.write_bytes(whole[:-30])  # within the last event
    tape = Owner().begin(tmp_path, events=3)
    pressed(tape)
    tape.close(13.0)
    assert [path.name for path in segments(tmp_path)] == ["000001.tape.gz", "000002.tape"]
    *_, last, end = read_tape(segments(tmp_path)[0])
    assert isinstance(last, Event) and last.event == EVENTS[2][1] and isinstance(end, Ended) and end.before is None
    assert verify(segments(tmp_path)[0]).events == 3


def test_any_flipped_bit_and_any_cut_of_an_older_segment_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "snapshot.safetensors").write_bytes(b"")
    folder = tmp_path / "tape"
    path = recorded(folder)
    shutil.copyfile(path, folder / "000002.tape")
    good = path.read_bytes()
    for bit in range(0, 8 * len(good), 29):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        with pytest.raises(RunDirError) as caught:
            list(read_tape(path))
        assert "000001.tape is damaged at byte" in str(caught.value) and "\n" not in str(caught.value)
        assert str(caught.value).endswith("the last good state is " + str(tmp_path / "store" / "snapshot.safetensors"))
    for cut in range(11, len(good), 7):
        path.write_bytes(good[:cut])
        with pytest.raises(RunDirError):
            list(read_tape(path))


def test_a_compressed_segment_is_read_as_before_and_its_damage_is_found(tmp_path: Path) -> None:
    recorded(tmp_path)
    tape = Owner().begin(tmp_path)
    pressed(tape)
    played(tape, SyncerCore(POLICY, LAYOUT))
    tape.close(12.0)
    path = tmp_path / "000001.tape.gz"
    assert verify(path) == verify(tmp_path / "000002.tape") and verify(path).events == 4
    good = path.read_bytes()
    head = list(read_tape(path))
    for at in range(0, len(good), 7):
        bad = bytearray(good)
        bad[at] ^= 16
        path.write_bytes(bad)
        try:
            assert list(read_tape(path)) == head  # in what gzip says of itself
        except RunDirError as error:
            assert at < 10 or "is damaged" in str(error) or "no tape" in str(error)
    path.write_bytes(good[:-30])
    with pytest.raises(RunDirError, match="cannot be decompressed"):
        list(read_tape(path))


@pytest.mark.parametrize("junk", [b"", b"\x05\x00\x00\x00hello", b"\xff" * 50, framed(b"\xc0\x7f"), framed(b"\x90\x00")])
def test_no_tape(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "t").write_bytes(junk)
    with pytest.raises(RunDirError, match=r"no tape this version|is damaged at byte 0"):
        list(read_tape(tmp_path / "t"))
    with pytest.raises(RunDirError, match="cannot read"):
        list(read_tape(tmp_path))


def test_another_format_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skerry.store.tape.FORMAT", 9)
    path = recorded(tmp_path)
    monkeypatch.undo()
    with pytest.raises(RunDirError, match="it is of format 9"):
        list(read_tape(path))
    monkeypatch.setattr("skerry.store.tape.KINDS", [["Join", "learner"]])
    path = recorded(tmp_path / "other")
    monkeypatch.undo()
    with pytest.raises(RunDirError, match="tells of other events"):
        list(read_tape(path))


# ------------------------------------------------------------------ the writer


@pytest.mark.parametrize("level", ["process", "machine"])
def test_what_is_committed_is_in_the_file(tmp_path: Path, level: str) -> None:
    owner = Owner()
    tape = owner.begin(tmp_path, level, events=100)
    assert tape.position == tape.committed == 100
    for number in range(1, 50):
        assert tape.event(float(number), Tick()) == 100 + number
        tape.hurry()
        owner.until(lambda: owner.committed == tape.position)
        assert sum(isinstance(entry, Event) for entry in read_tape(tape.path)) == number
    assert (tape.syncs >= 50) == (level == "machine")
    tape.close(51.0)


def test_the_writer_is_woken_by_what_leaves(tmp_path: Path) -> None:
    owner = Owner()
    tape = owner.begin(tmp_path, "machine")
    for number in range(1, 1000):
        tape.event(float(number), Tick())
        tape.action(Merge(learner=0, generation=1, fragment=0, step=number, tokens=1, steps=1, weight=1.0))
    tape.action(Cancel(fragment=0, step=1))
    owner.until(lambda: owner.committed == 999)
    assert tape.syncs <= 5
    tape.event(1000.0, Tick())
    owner.until(lambda: owner.committed == 1000)  # by itself, within a second
    tape.close(1001.0)


def test_level_none_waits_for_nothing(tmp_path: Path) -> None:
    owner = Owner()
    tape = owner.begin(tmp_path, "none")
    assert tape.event(1.0, Tick()) == tape.committed == 1
    tape.close(2.0)
    assert verify(tape.path).events == 1 and owner.committed == 0


@pytest.mark.parametrize("keep", [True, False])
def test_a_full_segment_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    monkeypatch.setattr(log, "FULL", 4000)
    core = SyncerCore(POLICY, LAYOUT)
    tape = Owner().begin(tmp_path, keep=keep)
    rolled = 0
    for step in range(1, 700):
        event = Report(learner=0, generation=1, clock=step, count=Count(step, 10 * step, 1000 * step))
        played(tape, core, [(float(step), EVENTS[0][1] if step == 1 else event)])
        if tape.full:
            rolled += 1
            tape.roll(Head(run="r1", began=float(step), policy=POLICY, layout=LAYOUT, state=core.state(), events=tape.position))
    tape.close(700.0)
    assert rolled >= 4
    tape = Owner().begin(tmp_path, keep=keep, events=699, state=core.state())
    pressed(tape)
    tape.close(701.0)
    names = [path.name for path in segments(tmp_path)]
    assert len(names) == (rolled + 2 if keep else 1)
    assert all(name.endswith(".gz") for name in names[:-1])
    told = 0
    for path in segments(tmp_path):
        found = replay(path)
        assert found.difference == "" and found.head.events == (told if keep else 699)
        told = found.events
    assert told == 699 and not list(tmp_path.glob("*.part"))


class Disk:
    """os.pwrite and os.fdatasync of a disk that is full, or fails, while `broken`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        self.broken = False
        self._real: Any = getattr(os, call)
        monkeypatch.setattr(log.os, call, self._call)

    def _call(self, file: int, *args: Any) -> Any:
        if not self.broken:
            return self._real(file, *args)
        if len(args) == 2 and len(args[0]) > 1:
            return self._real(file, args[0][: len(args[0]) // 2], args[1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_full_disk_is_waited_for_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    monkeypatch.setattr(log, "AGAIN", 0.01)
    owner, disk = Owner(), Disk(monkeypatch, call)
    tape = owner.begin(tmp_path, "machine")
    tape.event(1.0, Tick())
    tape.hurry()
    owner.until(lambda: owner.committed == 1)
    disk.broken = True
    for number in range(2, 20):
        tape.event(float(number), Tick())
    owner.until(lambda: owner.troubles)
    assert owner.committed == 1 and len(owner.said) == 1 and "No space left" in owner.said[0]
    disk.broken = False
    owner.until(lambda: owner.committed == 19)
    owner.until(lambda: owner.troubles == [True, False])
    assert "nothing was lost" in owner.said[1]
    tape.close(20.0)
    assert [entry.t for entry in read_tape(tape.path) if isinstance(entry, Event)] == [float(n) for n in range(1, 20)]


def test_trouble_is_said_again_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "AGAIN", 0.01)
    monkeypatch.setattr(log, "REMIND", 0.05)
    owner, disk = Owner(), Disk(monkeypatch, "pwrite")
    tape = owner.begin(tmp_path)
    disk.broken = True
    tape.event(1.0, Tick())
    owner.until(lambda: len(owner.said) >= 3)
    assert owner.troubles == [True]
    tape.close(2.0)
    assert "ends here: the events after number 0 are lost" in owner.said[-1]
    assert list(read_tape(tape.path))[1:] == []


def test_a_full_disk_at_the_end_of_a_segment_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "AGAIN", 0.01)
    owner, disk = Owner(), Disk(monkeypatch, "pwrite")
    tape = owner.begin(tmp_path)
    tape.event(1.0, Tick())
    tape.hurry()
    owner.until(lambda: owner.committed == 1)
    disk.broken = True
    tape.roll(Head(run="r1", began=1.0, policy=POLICY, layout=LAYOUT, state=None, events=1))
    tape.event(2.0, Tick())
    tape.hurry()
    owner.until(lambda: owner.troubles)
    disk.broken = False
    owner.until(lambda: owner.committed == 2)
    tape.close(3.0)
    for path in segments(tmp_path):
        assert verify(path).events == 1


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_run_directory_that_vanished_is_noticed(tmp_path: Path, how: str) -> None:
    owner, folder = Owner(), tmp_path / "run" / "tape"
    tape = owner.begin(folder)
    began = time.monotonic()
    if how == "removed":
        shutil.rmtree(tmp_path / "run")
    elif how == "moved":
        (tmp_path / "run").rename(tmp_path / "elsewhere")
    else:
        tape.path.rename(tmp_path / "mine")
        tape.path.write_bytes(b"another")
    assert owner.gone.wait(60) and time.monotonic() - began < 5
    tape.event(1.0, Tick())
    tape.close(2.0)
    assert tape.committed == 0, "nothing that is written now would be found"


KILLED = """
import sys
from pathlib import Path
from skerry.core.messages import Count, Report
from skerry.core.layout import TensorSpec, build_layout
from skerry.core.policy import Policy
from skerry.store.log import Tape
from skerry.store.tape import Head
layout = build_layout([TensorSpec(name=f"{i}.w", shape=(i + 2,)) for i in range(3)], 2, "balanced")
head = Head(run="r1", began=0.0, policy=Policy(fragments=2, interval=4), layout=layout, state=None)
def committed(position):
    sys.stdout.write(f"{position}\\n")
    sys.stdout.flush()
tape = Tape(Path(sys.argv[1]), head, level="process", say=print, committed=committed, troubled=print, vanished=print)
for step in range(10**9):
    tape.event(step / 7, Report(learner=step % 5, generation=1, clock=step, count=Count(step, 2 * step, step)))
    tape.hurry()
"""


@pytest.mark.processes
@pytest.mark.parametrize("enough", [1, 2000, 20_000])
def test_killed_at_any_time_all_that_was_committed_is_there(tmp_path: Path, enough: int) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT / "src")}) as process:  # fmt: skip
        assert process.stdout is not None
        told = 0
        while told < enough:
            told = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
    told = max([told, *map(int, rest[: rest.rfind("\n") + 1].split())])
    (path,) = segments(tmp_path)
    events = [entry for entry in read_tape(path) if isinstance(entry, Event)]
    assert len(events) >= told
    assert all(entry.t == step / 7 for step, entry in enumerate(events))


def test_norms_and_flaws_are_kept(tmp_path: Path) -> None:
    name = {"learner": 1, "generation": 2, "fragment": 0, "step": 8}
    message = Contribution(**name, base=3, since=Count(), until=Count(4, 40, 400), flaw="bad")
    tape = Owner().begin(tmp_path)
    tape.event(1.0, message)
    tape.close(2.0)
    assert [entry.event for entry in read_tape(tape.path) if isinstance(entry, Event)] == [message]
