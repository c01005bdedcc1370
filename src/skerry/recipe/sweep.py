"""The runs of a sweep over the recipe in the lab: each settled and checked, with the key under which its result is kept.

Rules: a finished run is runs/KEY.json, its key the hash of everything that decides it: the settled configuration, the data
and the code (lab/code.py). So a run is never made twice, and a change of anything that matters makes it anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skerry.config.tree import load
from skerry.errors import ConfigError, DataError
from skerry.lab.code import code_hash
from skerry.lab.sweep import Cell, Sweep
from skerry.recipe.data import load_corpus
from skerry.recipe.lab import DATA_PARALLEL, LabConfig, check

TASK = "skerry.recipe.task"
CODE = {True: ("skerry.lab.data_parallel", TASK), False: ("skerry.lab.run", TASK)}  # the baseline's, and every policy's


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run with everything settled."""

    cell: Cell
    config: LabConfig
    key: str

    def file(self, folder: Path, kind: str) -> Path:
        """Its result ("json"), its configuration ("toml") or what a failed one said ("log")."""
        return folder / "runs" / f"{self.key}.{kind}"

    def finished(self, folder: Path) -> dict[str, Any] | None:
        """The result of a run that is done; None if it is not."""
        try:
            result = json.loads(self.file(folder, "json").read_text())
        except (OSError, ValueError):
            return None
        return result if isinstance(result, dict) else None


def plan(sweep: Sweep, code: Path) -> list[Planned]:
    """Every run of the sweep, settled. Raises ConfigError or DataError naming the run that cannot be."""
    code_keys = {baseline: code_hash(code, modules) for baseline, modules in CODE.items()}
    corpora, planned = {}, []
    for cell in sweep.cells():
        try:
            config = load(LabConfig, (f"run {cell.label!r}", {**cell.values, "seed": cell.seed}))
            check(config)
            data = (config.recipe.data, config.recipe.context)
            if data not in corpora:
                corpora[data] = load_corpus(*data).sha256
        except (ConfigError, DataError) as error:
            message = error.message.replace(f"run {cell.label!r}: ", "")
            raise type(error)(f"{sweep.source}: {message} (in run {cell.label!r})",
                              remedy=error.remedy.replace("--data", "recipe.data")) from error  # fmt: skip
        key = _key(config, corpora[data], code_keys[config.method == DATA_PARALLEL])
        planned.append(Planned(cell=cell, config=config, key=key))
    return planned


def _key(config: LabConfig, data: str, code: str) -> str:
    tables = config.tables()
    tables["recipe"] = {**tables["recipe"], "data": data}  # what the files hold, wherever they lie
    text = json.dumps({"config": tables, "code": code}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
