"""The run's directory, as its syncer keeps it: what is written when, and what a full disk leads to.

    address      where the syncer listens (host:port)     store/snapshot.safetensors    the last snapshot
    token        made if no token file was named          model/                        the exported model
    tape/        one segment a start                      figures.json                  final figures
    metrics.jsonl

Rules: a snapshot is captured with the actions that made it and written by the merger's thread at that place in its work;
syncing it to disk is left to another thread. What cannot be written is said once and tried again; the old file stays.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from skerry.errors import RunDirError, StorageError
from skerry.fabric.address import Address
from skerry.fabric.tokens import Keyring
from skerry.store.export import export_model
from skerry.store.files import clear_unfinished, settle
from skerry.store.records import Figures, pretty
from skerry.store.snapshot import NAME, Snapshot, keep_initial, load_snapshot, write_snapshot
from skerry.syncer.config import SyncerConfig
from skerry.syncer.journal import Journal
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
    """Made when the syncer starts. Raises RunDirError, StorageError, ConfigError for what a user can cause."""

    def __init__(self, config: SyncerConfig) -> None:
        self.path = config.run_dir
        self.snapshot_path = self.path / "store" / NAME
        if not config.resume and self.snapshot_path.exists():
            raise RunDirError(f"{self.path} holds a run already", remedy="resume it, or choose another directory")
        self.resumed = load_snapshot(self.snapshot_path) if config.resume else None
        self.rounds = 0 if config.resume else config.snapshot_rounds  # closed since the last snapshot; the first is due at once
        self.saved_at: float | None = None
        self._every = config.snapshot_rounds
        self._patience = config.export_patience
        self._part = self.snapshot_path.with_suffix(".part")
        self._saving: asyncio.Task[bool] | None = None
        self._again_at = 0.0
        self._troubled = False
        with writing(self.path):
            for folder in ("tape", "store", "model"):
                (self.path / folder).mkdir(parents=True, exist_ok=True)
                clear_unfinished(self.path / folder)
            self.token_file = config.token_file or self._own_token()
        self.keyring = Keyring.read(self.token_file)

    def _own_token(self) -> Path:
        path = self.path / "token"
        if not path.exists():
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32) + "\n")
        return path

    # ------------------------------------------------------------------ where it listens

    def former_port(self) -> int:
        """The port that the run's learners know, if it is resumed; else 0."""
        try:
            return Address.parse((self.path / "address").read_text()).port if self.resumed else 0
        except (OSError, ValueError):
            return 0

    def announce(self, address: Address) -> None:
        """Write the file that says where the syncer listens: whole, and when it does."""
        part = self.path / "address.part"
        with writing(self.path):
            part.write_text(f"{address}\n")
            part.replace(self.path / "address")

    # ------------------------------------------------------------------ snapshots

    def wants(self, now: float) -> bool:
        """Whether it is time for a snapshot."""
        return self.rounds >= self._every and self._saving is None and now >= self._again_at

    def save(self, make: Callable[[], Snapshot], worker: Worker, journal: Journal) -> None:
        """Take a snapshot; to be called between two events, when all actions of the last one are with the worker."""
        snapshot, rounds = make(), self.rounds
        self.rounds = 0
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
