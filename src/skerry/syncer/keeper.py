"""The run's directory, as its syncer keeps it: what is written when, and what a full disk or a removed directory leads to.

    run          the run's id                             store/values     the values (store_dir may lie elsewhere)
    lock         one syncer a directory                   store/*.safetensors    the first snapshot, the last one
    address      where the syncer listens (host:port)     tape/            the log
    token        made if no token file was named          model/           the exported model
    metrics.jsonl                                         figures.json     final figures

Rules: one syncer works on a directory. A snapshot is captured between two events and written by the merger's thread at that
place in its work; syncing it to disk is left to another thread. What cannot be written is said once and tried again; the old
file stays. A directory that was removed is made again from what is in memory, or, where it cannot be, `fallback` is.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from skerry.core.layout import Layout
from skerry.errors import RunDirError, StorageError
from skerry.fabric.address import Address
from skerry.fabric.tokens import Keyring
from skerry.numerics.slots import Slots
from skerry.store.export import export_model
from skerry.store.files import clear_unfinished, settle
from skerry.store.records import Figures, pretty
from skerry.store.snapshot import NAME, Snapshot, keep_initial, write_snapshot
from skerry.store.tape import last_segment
from skerry.store.values import NAME as VALUES
from skerry.store.values import Values
from skerry.syncer.config import SyncerConfig
from skerry.syncer.journal import Journal
from skerry.syncer.lock import Lock
from skerry.syncer.past import Past, of_log, of_snapshot
from skerry.syncer.worker import Worker

AGAIN = 5.0  # seconds until what failed is tried again


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """At the start nothing is lost yet: what cannot be written ends the syncer with a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write to {path}: {error.strerror}",
                           remedy="free space, or choose a directory that can be written") from error  # fmt: skip


class Keeper:
    """Made when the syncer starts. `past`: what the run is to go on from; None: it begins. Raises RunDirError, StorageError,
    ConfigError for what a user can cause."""

    def __init__(self, config: SyncerConfig) -> None:
        self.path = config.run_dir
        self.durability, self.keep_tape = config.durability, config.keep_tape
        self.rounds = 0 if config.resume else config.snapshot_rounds  # closed since the last snapshot; the first is due at once
        self.saved_at: float | None = None
        self._resume, self._every, self._patience = config.resume, config.snapshot_rounds, config.export_patience
        self._store = config.store_dir
        self._fallback = config.fallback
        self._address: Address | None = None
        self._saving: asyncio.Task[bool] | None = None
        self._again_at = 0.0
        self._troubled = False
        self._check(config)
        with writing(self.path):
            self._make_folders()
            self._lock = Lock(self.path)
            for folder in ("tape", "store", "model"):
                clear_unfinished(self.path / folder)
            self.run = self._own_name()
            self.token_file = config.token_file or self._own_token()
        self.keyring = Keyring.read(self.token_file)
        self._token = self.token_file.read_bytes()
        self.past: Past | None = None
        if config.resume:
            self.past = (of_snapshot if config.from_snapshot else of_log)(self.path, self.store)

    def _check(self, config: SyncerConfig) -> None:
        holds_one = self.snapshot_path.exists() or last_segment(self.path / "tape") is not None
        if config.resume and not (holds_one or (self.path / "run").exists()):
            raise RunDirError(f"{self.path} holds no run to go on with", remedy="leave out --resume, or name another directory")
        if not config.resume and holds_one:
            raise RunDirError(f"{self.path} holds a run already", remedy="resume it, or choose another directory")

    def _make_folders(self) -> None:
        for folder in (self.path / "tape", self.path / "store", self.path / "model", self.store):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def snapshot_path(self) -> Path:
        """The last snapshot's."""
        return self.path / "store" / NAME

    @property
    def store(self) -> Path:
        """Where the values lie."""
        return self._store or self.path / "store"

    def _own_name(self) -> str:
        """The run's id: known from its first start on, so that a learner that was told finds it again."""
        path = self.path / "run"
        if not (self._resume and path.exists()):
            _write(path, secrets.token_hex(8) + "\n")
        return path.read_text().strip()

    def _own_token(self) -> Path:
        path = self.path / "token"
        if not path.exists():
            _write_secret(path, secrets.token_hex(32).encode() + b"\n")
        return path

    def new_values(self, layout: Layout) -> Values:
        """For a run that begins. What another one left, before it had a log, is of no use. Raises StorageError."""
        (self.store / VALUES).unlink(missing_ok=True)
        return Values.create(self.store / VALUES, layout, self.run)

    def make_anew(self, slots: Slots) -> Values:
        """The directory was removed. Make it again, or the one to fall back on; gives the values in a new file there. Raises
        OSError, StorageError."""
        assert isinstance(slots, Values)
        try:
            return self._make_at(self.path, slots)
        except (OSError, StorageError):
            if self._fallback is None:
                raise
            self._store = None
            return self._make_at(self._fallback / f"skerry-{self.run}", slots)

    def _make_at(self, path: Path, slots: Values) -> Values:
        before, self.path = self.path, path
        self._make_folders()
        self._lock.release()
        self._lock = Lock(path)
        _write(path / "run", f"{self.run}\n")
        if self.token_file == before / "token":
            self.token_file = path / "token"
            self.token_file.unlink(missing_ok=True)
            _write_secret(self.token_file, self._token)
        if self._address is not None:
            self.announce(self._address)
        if not slots.vanished():
            return slots  # it lies elsewhere
        return slots.copy_to(self.store / VALUES, self.run)

    def close(self) -> None:
        """The directory is anybody's again."""
        self._lock.release()

    # ------------------------------------------------------------------ where it listens

    def former_port(self) -> int:
        """The port that the run's learners know, if it is resumed; else 0."""
        try:
            return Address.parse((self.path / "address").read_text()).port if self._resume else 0
        except (OSError, ValueError):
            return 0

    def announce(self, address: Address) -> None:
        """Write the file that says where the syncer listens: whole, and when it does."""
        self._address = address
        with writing(self.path):
            _write(self.path / "address", f"{address}\n")

    # ------------------------------------------------------------------ snapshots

    @property
    def _part(self) -> Path:
        return self.snapshot_path.with_suffix(".part")

    def wants(self, now: float) -> bool:
        """Whether it is time for a snapshot."""
        return self.rounds >= self._every and self._saving is None and now >= self._again_at

    def save(self, snapshot: Snapshot, worker: Worker, journal: Journal) -> None:
        """Write a snapshot; to be called when it was captured, before the next event."""
        rounds, self.rounds = self.rounds, 0
        written = worker.submit(write_snapshot, snapshot, self._part)
        self._saving = asyncio.get_running_loop().create_task(self._settle(written, snapshot, rounds, journal))

    async def _settle(self, written: asyncio.Future[None], snapshot: Snapshot, rounds: int, journal: Journal) -> bool:
        try:
            await written
            await asyncio.to_thread(settle, self._part, self.snapshot_path)
            await asyncio.to_thread(keep_initial, snapshot, self.snapshot_path)
        except OSError as error:
            self.rounds += rounds
            self._again_at = snapshot.t + AGAIN
            if not self._troubled:
                journal.trouble(f"cannot write the snapshot: {error.strerror or error}; the run goes on and tries again")
            self._troubled = True
            return False
        else:
            self.saved_at = snapshot.t
            if self._troubled:
                self._troubled = False
                journal.event("snapshot", "can be written again")
            return True
        finally:
            self._saving = None

    # ------------------------------------------------------------------ the end

    async def save_last(self, snapshot: Snapshot, journal: Journal, *, patiently: bool) -> None:
        """The one at the end, when nothing changes any more. As for `export`."""
        if self._saving is not None:
            await self._saving

        def write() -> None:
            write_snapshot(snapshot, self._part)
            settle(self._part, self.snapshot_path)

        await self._insist("save the run", write, journal, patiently)

    async def export(self, snapshot: Snapshot, journal: Journal, *, patiently: bool) -> None:
        """Export the model. `patiently`: a full disk is waited for. Raises StorageError if it does not come to pass."""
        model = self.path / "model"
        await self._insist("export the model", lambda: export_model(model, snapshot.layout, snapshot.origin, snapshot.theta),
                           journal, patiently)  # fmt: skip
        journal.event("export", str(model))

    async def _insist(self, what: str, write: Callable[[], None], journal: Journal, patiently: bool) -> None:
        loop = asyncio.get_running_loop()
        until, said = loop.time() + self._patience, False
        while True:
            try:
                await asyncio.to_thread(write)
                return
            except OSError as error:
                why = error.strerror or str(error)
            if not patiently or loop.time() > until:
                raise StorageError(f"cannot {what} in {self.path}: {why}",
                                   remedy="free space, then resume the run: its last snapshot is kept")  # fmt: skip
            if not said:
                journal.trouble(f"cannot {what} in {self.path}: {why}; free space there, it is tried again")
            said = True
            await asyncio.sleep(AGAIN)

    def figures(self, figures: Figures, journal: Journal) -> None:
        """Write figures.json."""
        part = self.path / "figures.json.part"
        try:
            part.write_bytes(pretty(figures))
            part.replace(self.path / "figures.json")
        except OSError as error:
            journal.trouble(f"cannot write figures.json: {error.strerror}")


def _write(path: Path, text: str) -> None:
    """Whole, or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def _write_secret(path: Path, secret: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(secret)
