"""Skerry: Decoupled DiLoCo in PyTorch. Public API = `__all__`; everything is imported on first use, so that the agent
process, which needs no torch, starts fast (PEP 562)."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Learner": "skerry.learner.hook",
    "LearnerConfig": "skerry.learner.config",
    "Policy": "skerry.core.policy",
    "preset": "skerry.core.presets",
    "SkerryError": "skerry.errors",
    "TlsConfig": "skerry.fabric.tls",
}
__all__ = ["Learner", "LearnerConfig", "Policy", "SkerryError", "TlsConfig", "preset"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'skerry' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
