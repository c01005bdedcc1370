"""The presets: what an operator starts from. The policy's own defaults are those of `decoupled`."""

from __future__ import annotations

from typing import Any

from skerry.core.policy import ALL, Policy
from skerry.errors import ConfigError

PRESETS = {
    "decoupled": Policy(),
    "streaming": Policy(synchronous=True, quorum=ALL, on_included="blend", merge="direct",
                        outer_lr=0.7, outer_momentum=0.9, interval=96),
    "diloco": Policy(synchronous=True, quorum=ALL, fragments=1, overlap=0, merge="direct",
                     outer_lr=0.7, outer_momentum=0.9, interval=96),
}  # fmt: skip


def preset(name: str, **changes: Any) -> Policy:
    """`decoupled` (the paper's), `streaming` (Streaming DiLoCo) or `diloco` (DiLoCo), with some fields changed."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}", remedy=f"choose one of {', '.join(PRESETS)}")
    return PRESETS[name].replace(**changes)
