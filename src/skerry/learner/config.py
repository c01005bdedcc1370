"""What a learner is told by its user, and what the trainer tells its agent on start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from skerry.core.layout import TensorSpec
from skerry.errors import cannot_work
from skerry.fabric.address import Address
from skerry.fabric.tls import TlsConfig


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """How a learner joins a run."""

    syncer: str
    """The syncer's address, HOST:PORT; or several, with commas between, which are tried in turn."""
    token_file: Path
    """File with the run's token."""
    fixed: bool = False
    """Look for the syncer at `syncer` only, not where it says that it is besides (it is behind a tunnel, or a proxy)."""
    tls: TlsConfig | None = None
    """Encrypt, and check the syncer's certificate; None: plain TCP."""
    learner: int = -1
    """The learner's id in the run; -1: a free one. A restarted learner keeps its work's place by naming its id again."""
    shm_dir: Path = Path("/dev/shm")
    """Directory in memory, for what trainer and agent share: about 1.5 times the model in fp32. No file stays there."""

    def __post_init__(self) -> None:
        Address.parse_list(self.syncer)
        if self.learner < -1:
            raise cannot_work("learner.learner", self.learner, "give an id from 0 on, or -1")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """All that an agent needs to know, in a file that it inherits (never in argv or the environment)."""

    config: LearnerConfig
    trainer_pid: int
    tensors: tuple[TensorSpec, ...]
    dtypes: dict[str, str]
    """Of each tensor by name, as in torch ("bfloat16")."""
    aliases: dict[str, str]
    """Further names of tied parameters -> the name in `tensors`."""
    description: dict[str, Any] = field(default_factory=dict)
    """The user's description of the model, exported with it."""
    policy: str = ""
    """What the syncer greeted an earlier agent with; empty for the first one."""
    run_id: str = ""

    def to_bytes(self) -> bytes:
        """JSON."""
        return msgspec.json.encode(self, enc_hook=_encode)

    @staticmethod
    def from_bytes(data: bytes) -> Setup:
        """The inverse of to_bytes."""
        return msgspec.json.decode(data, type=Setup, dec_hook=_decode)


def _encode(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot pass a {type(value).__name__} to the agent")


def _decode(kind: type, value: object) -> object:
    return kind(value)
