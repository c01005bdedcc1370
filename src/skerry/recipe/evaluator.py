"""Evaluates the global model: the snapshots of a run, as they come, on the fixed held-out windows.

Rules: it reads the run's files and adds lines to eval.jsonl (store/records.py); nothing else. A newer snapshot replaces one
that waits.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import torch

from skerry.errors import RunDirError
from skerry.recipe.config import RecipeConfig
from skerry.recipe.task import LanguageTask
from skerry.store.metrics import append
from skerry.store.records import Evaluation
from skerry.store.snapshot import NAME, Snapshot, by_name, load_snapshot

POLL = 0.2  # seconds between two looks at the snapshot


class Evaluator:
    """Of the run in `run_dir`. Raises RunDirError if there is none, DataError."""

    def __init__(self, run_dir: Path) -> None:
        tables = _tables(run_dir)
        recipe = msgspec.convert(tables["recipe"], RecipeConfig)
        self.interval = recipe.eval_interval
        self._task = LanguageTask(recipe)
        self._model = self._task.model(recipe.seed)
        self._snapshot = run_dir / "store" / NAME
        self._lines = run_dir / "eval.jsonl"
        # The first model of a run that begins with its learners' own values is the recipe's, known without its snapshot.
        self._begins_here = not (self._lines.exists() or tables.get("syncer", {}).get("init"))
        self._seen: tuple[int, int] | None = None

    def look(self) -> bool:
        """Evaluate the snapshot, if there is one that was not evaluated yet."""
        try:
            found = self._snapshot.stat()
        except FileNotFoundError:
            return False
        if (found.st_ino, found.st_mtime_ns) == self._seen:
            return False
        self._seen = (found.st_ino, found.st_mtime_ns)
        snapshot = load_snapshot(self._snapshot)
        rounds = sum(version for version, _ in snapshot.published)
        if self._begins_here and rounds:
            append(self._lines, Evaluation(t=0.0, step=0, rounds=0, loss=self._task.evaluate(self._model)))
        self._begins_here = False
        self._take(snapshot)
        step = max(step for _, step in snapshot.published)
        append(self._lines, Evaluation(t=snapshot.t, step=step, rounds=rounds, loss=self._task.evaluate(self._model)))
        return True

    @torch.no_grad()
    def _take(self, snapshot: Snapshot) -> None:
        parameters = dict(self._model.named_parameters())
        for name, values in by_name(snapshot.layout, snapshot.theta).items():
            parameters[name].copy_(torch.from_numpy(values))


def watch(run_dir: Path, stopped: Callable[[float], bool]) -> None:
    """Evaluate until `stopped`, which waits for at most so many seconds, says so; then once more if there is something new."""
    evaluator, pause = Evaluator(run_dir), 0.0
    while not stopped(pause):
        pause = evaluator.interval if evaluator.look() else POLL
    evaluator.look()


def _tables(run_dir: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads((run_dir / "config.toml").read_text())
        msgspec.convert(tables["recipe"], RecipeConfig)
    except (OSError, ValueError, KeyError) as error:
        raise RunDirError(f"{run_dir} holds no run of the recipe: {error}", remedy="name a directory under runs/") from error
    return tables
