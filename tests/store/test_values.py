"""The values' file: killed at any instant it holds the version before or the new one, and whatever is damaged is told."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skerry.core.layout import TensorSpec, build_layout
from skerry.errors import RunDirError, StorageError
from skerry.numerics.slots import ENTRY, Checksum, Slots, checksum_of
from skerry.store import values as module
from skerry.store.values import Values

LAYOUT = build_layout([TensorSpec(name=f"{i}.w", shape=(300 * i + 7,)) for i in range(5)], 3, "balanced")
OTHER = build_layout([TensorSpec(name=f"{i}.w", shape=(300 * i + 8,)) for i in range(5)], 3, "balanced")
RUN = "00112233aabbccdd"
ROOT = Path(__file__).resolve().parents[2]


def fill(slots: Slots, fragment: int, version: int) -> int:
    """Write the version's values into the spare slot; gives its checksum."""
    spare = slots.spare(fragment)
    spare.theta[:] = np.arange(spare.theta.size) + 1000 * version
    spare.momentum[:] = -version
    return checksum_of(spare)


def make(slots: Slots, fragment: int, version: int) -> None:
    checksum = fill(slots, fragment, version)
    slots.flip(fragment, version=version, step=10 * version, position=100 * version, checksum=checksum)


def is_version(slots: Slots, fragment: int, version: int) -> bool:
    theta, momentum = slots.present(fragment)
    return bool((theta == np.arange(theta.size) + 1000 * version).all() and (momentum == -version).all())


def made(path: Path, versions: tuple[int, ...] = (3, 1, 4)) -> Values:
    values = Values.create(path, LAYOUT, RUN)
    for fragment, last in enumerate(versions):
        for version in range(last + 1):
            make(values, fragment, version)
    return values


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "values"


def test_values_come_back(path: Path) -> None:
    del_me: Any = made(path)
    del del_me
    values = Values.open(path, LAYOUT, RUN)
    assert [found[:3] for found in values.headers if found] == [(3, 30, 300), (1, 10, 100), (4, 40, 400)]
    assert all(is_version(values, fragment, version) for fragment, version in enumerate((3, 1, 4)))
    make(values, 1, 2)
    assert is_version(Values.open(path, LAYOUT, RUN), 1, 2), "another process sees it at once"


def test_a_new_file_holds_no_version(path: Path) -> None:
    values = Values.create(path, LAYOUT, RUN)
    assert values.headers == [None] * 3 and not any(theta.any() for theta in values.thetas())
    assert Values.open(path, LAYOUT, RUN).headers == [None] * 3
    assert path.stat().st_size == Slots.nbytes(LAYOUT) and [p.name for p in path.parent.iterdir()] == ["values"]


def test_slots_lie_on_pages_and_apart() -> None:
    places = [at for both in Slots.places(LAYOUT) for at in both]
    assert all(at % PAGESIZE == 0 for at in places) and places == sorted(places)
    entries = [Slots.entry_at(LAYOUT, fragment, slot) for slot in (0, 1) for fragment in range(3)]
    assert entries == sorted(entries) and entries[2] // PAGESIZE != entries[3] // PAGESIZE, "on pages of their own"
    slots = Slots(LAYOUT)
    for fragment in range(3):
        for version in (1, 2):
            make(slots, fragment, version)
    assert all(is_version(slots, fragment, 2) for fragment in range(3))


def test_a_checksum_by_blocks_is_that_of_the_whole() -> None:
    slots = Slots(LAYOUT)
    whole, pair, checksum = fill(slots, 2, 5), slots.made(2), Checksum()
    for at in range(0, pair.theta.size, 77):
        checksum.add(pair.theta[at : at + 77], pair.momentum[at : at + 77])
    assert checksum.value == whole
    pair.momentum[3] += 1
    assert checksum_of(pair) != whole


def test_what_is_computed_and_not_turned_is_no_version(path: Path) -> None:
    values = made(path)
    fill(values, 0, 4)
    assert is_version(values, 0, 3) and is_version(Values.open(path, LAYOUT, RUN), 0, 3)
    fill(values, 0, 5)  # nothing came of it, and it is written again
    assert is_version(Values.open(path, LAYOUT, RUN), 0, 3)


# ------------------------------------------------------------------ deaths


class Camera:
    """In place of the memory's bytes: copies the file before and after every store, and within longer ones."""

    def __init__(self, values: Values) -> None:
        self._bytes, self.shots = values._bytes, [bytes(values._bytes)]

    def __getitem__(self, where: slice) -> memoryview:
        return self._bytes[where]

    def __setitem__(self, where: slice, data: bytes) -> None:
        for stop in range(8, len(data) + 1, 8):  # a store is of eight aligned bytes or more
            self._bytes[where.start : where.start + stop] = data[:stop]
            self.shots.append(bytes(self._bytes))


def test_killed_between_any_two_stores_it_holds_the_old_or_the_new_version(path: Path, tmp_path: Path) -> None:
    values = made(path)
    camera: Any = Camera(values)
    values._bytes = camera
    for version in (4, 5, 6):
        spare = values.spare(0)
        for at in range(0, spare.theta.size, 50):
            spare.theta[at : at + 50] = np.arange(spare.theta.size)[at : at + 50] + 1000 * version
            camera.shots.append(bytes(camera._bytes))
        spare.momentum[:] = -version
        values.flip(0, version=version, step=10 * version, position=100 * version, checksum=checksum_of(spare))
    assert len(camera.shots) > 50
    copy, last = tmp_path / "copy", 3
    for shot in camera.shots:
        copy.write_bytes(shot)
        found = Values.open(copy, LAYOUT, RUN)
        header = found.headers[0]
        assert header is not None and last <= header.version <= last + 1 and is_version(found, 0, header.version)
        last = header.version
    assert last == 6


FLIPPING = """
import sys
from pathlib import Path
import numpy as np
sys.path[:0] = [sys.argv[2]]
from test_values import LAYOUT, RUN, Values, make
values = Values.open(Path(sys.argv[1]), LAYOUT, RUN)
print("ready", flush=True)
version = 4
while True:
    version += 1
    make(values, 2, version)
"""


@pytest.mark.processes
def test_a_process_that_flips_is_killed(path: Path) -> None:
    made(path)
    last = 4
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", FLIPPING.replace("version = 4", f"version = {last}"), str(path),
                               str(Path(__file__).parent)], stdout=subprocess.PIPE,
                              env={**os.environ, "PYTHONPATH": str(ROOT / "src")}) as process:  # fmt: skip
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            watched = Values.open(path, LAYOUT, RUN, verify=False)
            begun = watched.headers[2]
            while watched.headers[2] is None or watched.headers[2] == begun:
                watched.find_present(2)
            process.send_signal(signal.SIGKILL)
        found = Values.open(path, LAYOUT, RUN)
        header = found.headers[2]
        assert header is not None and header.version > last and is_version(found, 2, header.version)
        assert is_version(found, 0, 3) and is_version(found, 1, 1)
        last = header.version


def test_a_durable_version_is_on_the_disk_before_its_entry(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, synced = made(path), []
    real = os.fdatasync

    def fdatasync(handle: int) -> None:
        synced.append(Values.open(path, LAYOUT, RUN).headers[1].version)  # type: ignore[union-attr]
        real(handle)

    monkeypatch.setattr(module.os, "fdatasync", fdatasync)
    stands = module.Stands(2, 20, 200, fill(values, 1, 2))
    values.durable({1: stands})
    assert synced == [1, 2] and is_version(values, 1, 1), "it is the present one when it is turned"
    values.turn(1, stands)
    assert is_version(values, 1, 2)


# ------------------------------------------------------------------ damage


def refused(path: Path, why: str, *, layout: Any = LAYOUT, run: str = RUN, error: type[Exception] = RunDirError) -> None:
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(error, match=re.escape(why)) as caught:
        Values.open(path, layout, run)
    assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.is_file() else b"") == before, "nothing is overwritten"


def test_every_kind_of_damage_is_one_line(path: Path) -> None:
    refused(path, "there is no")
    made(path)
    good = path.read_bytes()
    refused(path, f"is of the run {RUN}, not of beef", run="beef")
    refused(path, "is of another model (3 fragments", layout=OTHER)
    for nbytes, why in ((0, "is empty"), (7, "is cut short: it has 7 bytes"), (100, "is cut short: it has 100 bytes"),
                        (5000, f"is cut short: 5000 bytes of {len(good)}"), (len(good) - 1, "is cut short")):  # fmt: skip
        path.write_bytes(good[:nbytes])
        refused(path, why)
    path.write_bytes(good + b"x")
    refused(path, f"has {len(good) + 1} bytes instead of {len(good)}")
    path.write_bytes(b"something else" * 1000)
    refused(path, "is no file of values")
    path.write_bytes(good[:16] + (7).to_bytes(4, "little") + good[20:])
    refused(path, "is of format 7, this version reads 1")
    path.unlink()
    path.mkdir()
    refused(path, "is a directory, not a file of values")


def test_the_last_good_state_is_named(path: Path) -> None:
    path.write_bytes(b"")
    refused(path, "there is no snapshot beside it")
    (path.parent / "snapshot.safetensors").write_bytes(b"")
    refused(path, f"the last good state is {path.parent / 'snapshot.safetensors'}")


def test_any_flipped_bit_is_found(path: Path) -> None:
    values = made(path)
    stale = {(fragment, 1 - values._present[fragment]) for fragment in range(3)}
    good = path.read_bytes()
    places = [(at, ENTRY, None) for fragment in range(3) for slot in (0, 1) for at in [Slots.entry_at(LAYOUT, fragment, slot)]]
    places += [(at + half, 4 * size, (fragment, slot))
               for fragment, (size, both) in enumerate(zip(LAYOUT.sizes, Slots.places(LAYOUT), strict=True))
               for slot, at in enumerate(both) for half in (0, Slots._stride(size) // 2)]  # fmt: skip
    random = np.random.default_rng(0)
    for at, nbytes, slot in [(0, module._ABOUT.size + 8, None), *places]:
        for bit in random.integers(8 * nbytes, size=40):
            bad = bytearray(good)
            bad[at + bit // 8] ^= 1 << (bit % 8)
            path.write_bytes(bad)
            if slot in stale:
                Values.open(path, LAYOUT, RUN)  # what will be overwritten next
            else:
                with pytest.raises(RunDirError) as caught:
                    Values.open(path, LAYOUT, RUN)
                assert "\n" not in str(caught.value)


def test_a_file_is_never_made_over_another(path: Path) -> None:
    made(path)
    before = path.read_bytes()
    with pytest.raises(RunDirError, match="exists already"):
        Values.create(path, LAYOUT, RUN)
    assert path.read_bytes() == before


def test_no_room_is_told_when_it_is_made(path: Path) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PAGESIZE, old[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot make .*values .*too large"):
            Values.create(path, LAYOUT, RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(path.parent.iterdir()) == []


def test_removed_in_mid_run_the_values_live_on_and_can_be_put_elsewhere(path: Path, tmp_path: Path) -> None:
    values = made(path)
    fill(values, 1, 2)
    assert not values.vanished()
    path.unlink()
    assert values.vanished()
    make(values, 0, 4)
    checksum = fill(values, 1, 2)
    copy = values.copy_to(tmp_path / "elsewhere", RUN)
    copy.flip(1, version=2, step=20, position=200, checksum=checksum)
    del values
    found = Values.open(tmp_path / "elsewhere", LAYOUT, RUN)
    assert all(is_version(found, fragment, version) for fragment, version in enumerate((4, 2, 4)))
