"""What is known of a run of the lab before it is made: its data can be read, its fragments fit the model, it fits in memory."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from skerry.cli.lab_tree import DATA_PARALLEL, LabConfig
from skerry.cli.options import check_data
from skerry.core.layout import TensorSpec, build_layout
from skerry.errors import ConfigError

if TYPE_CHECKING:
    from skerry.recipe.config import Size

BYTES = 20
"""Of a parameter, for each learner: model, AdamW's two moments, base, a gradient or what was handed over (measured: 21.5)."""
_CGROUP = Path("/sys/fs/cgroup/memory.max")


def check(config: LabConfig) -> None:
    """Raises ConfigError or DataError for a run that would fail or be killed."""
    check_data(config.recipe.data)
    specs, policy = _specs(config.recipe.model), config.policy
    if config.method == DATA_PARALLEL:
        return
    build_layout(specs, policy.fragments, policy.fragmentation, policy.direct)
    learners, has = config.world.learners, memory()
    needs = BYTES * (learners + 1) * sum(spec.size for spec in specs)
    if needs > has:
        raise ConfigError(f"learners = {learners} with the {config.recipe.model} model need about {needs / 1e9:,.0f} GB of "
                          f"memory, and this machine has {has / 1e9:,.0f}", remedy="give fewer or a smaller model")  # fmt: skip


def memory() -> float:
    """Bytes that this process may take, at most."""
    has = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    try:
        return min(has, float(_CGROUP.read_text()))
    except (OSError, ValueError):  # no such limit here, or "max"
        return has


@lru_cache
def _specs(size: Size) -> tuple[TensorSpec, ...]:
    from skerry.learner.parameters import Parameters  # late: they bring torch
    from skerry.recipe.model import SIZES, Decoder

    return Parameters(Decoder(SIZES[size], context=1, seed=0)).specs
