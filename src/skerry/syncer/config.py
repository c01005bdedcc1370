"""What an operator tells the syncer besides the policy."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from skerry.errors import ConfigError, cannot_work
from skerry.fabric.tls import TlsConfig
from skerry.store.log import Level


@dataclass(frozen=True, kw_only=True)
class SyncerConfig:
    """Where the syncer listens and what it keeps. Raises ConfigError where a value cannot work."""

    run_dir: Path = Path("runs/syncer")
    """The run's directory: tape, snapshot, model and figures go there."""
    resume: bool = False
    """Go on with the directory's run, from its log and values."""
    from_snapshot: bool = False
    """With resume: go back to the last snapshot, where log or values are damaged."""
    init: Path | None = None
    """Safetensors file with the first values, by name; none: those of the first learner."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 0
    """Port to listen on; 0: a free one, or after --resume the one it had."""
    token_file: Path | None = None
    """File with the run's token; none: RUN_DIR/token, made if it is not there."""
    tls: TlsConfig | None = None
    """Certificate and key; none: plain TCP."""
    insecure: bool = False
    """Allow listening beyond this machine without TLS."""
    heartbeat: float = 1.0
    """Seconds: on each connection something is said at least so often; a learner that hears nothing for three of them (and for
    two seconds) connects anew."""
    max_steps_s: float = 1000.0
    """Steps a second that a learner may claim, since it was first heard of; who claims more loses its link."""
    max_tokens_s: float = 1e8
    """Tokens a second that a learner may claim, likewise."""
    max_learners: int = 4096
    """Learners that a run may have had, in all; further ones are refused."""
    buffers: int = 16
    """Contributions that may be received at once (memory: so many times the largest fragment); more must wait."""
    durability: Level = "process"
    """What nothing is lost by: the death of any process, or of the machine, too (each round then waits for the disk). none: no
    promise, for measurements."""
    store_dir: Path | None = None
    """Where the values lie, mapped into memory; none: RUN_DIR/store."""
    keep_tape: bool = True
    """Keep the log's older segments, compressed, for replay."""
    fallback: Path | None = Path(tempfile.gettempdir())
    """Where the run goes on if its directory was removed and cannot be made again; none: it ends."""
    snapshot_rounds: int = 48
    """Rounds between two snapshots."""
    export_patience: float = 600.0
    """Seconds for which the export is tried again while the disk is full."""
    metrics_port: int | None = None
    """Port for GET /metrics in Prometheus' text format; none: not served. 0: a free one."""
    metrics_host: str = "127.0.0.1"
    """Address for /metrics."""
    log: Literal["auto", "console", "json"] = "auto"
    """Form of the log on stderr; auto: console on a terminal, else JSON."""

    def __post_init__(self) -> None:
        for name in ("buffers", "snapshot_rounds", "max_learners"):
            if getattr(self, name) < 1:
                raise _bad(name, getattr(self, name), "give 1 or more")
        for name in ("heartbeat", "export_patience", "max_steps_s", "max_tokens_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise _bad(name, getattr(self, name), "give a positive number")
        for name in ("port", "metrics_port"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) <= 65535:
                raise _bad(name, getattr(self, name), "give a port, 0 to 65535")
        if self.log not in ("auto", "console", "json"):
            raise _bad("log", self.log, "choose one of auto, console, json")
        if self.durability not in get_args(Level):
            raise _bad("durability", self.durability, f"choose one of {', '.join(get_args(Level))}")
        if self.from_snapshot and not self.resume:
            raise _bad("from_snapshot", self.from_snapshot, "only a resumed run goes back to a snapshot: add resume")
        if self.resume and self.init is not None:
            raise _bad("init", str(self.init), "a resumed run has its values: leave out init or resume")


def _bad(name: str, value: object, allowed: str) -> ConfigError:
    return cannot_work(f"syncer.{name}", value, allowed)
