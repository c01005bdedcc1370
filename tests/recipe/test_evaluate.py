"""The evaluation process: every snapshot that comes is evaluated, the last one at SIGTERM."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import psutil
import pytest
import torch

from skerry.core.layout import TensorSpec, build_layout
from skerry.core.policy import Policy
from skerry.recipe.config import RecipeConfig
from skerry.recipe.evaluate import NICE
from skerry.recipe.task import LanguageTask
from skerry.store.snapshot import NAME, Origin, Snapshot, fill, split, write_snapshot

PATIENCE = 60.0


class Run:
    """A run's directory with snapshots of models of the recipe."""

    def __init__(self, path, **tables) -> None:
        (path / "store").mkdir()
        data = path / "text.txt"
        data.write_bytes(b"what is held out is the end of this text. " * 60)
        self.path = path
        self.recipe = RecipeConfig(model="nano", context=16, eval_windows=8, eval_interval=0, data=(str(data),))
        lines = ['[recipe]', 'model = "nano"', "context = 16", "eval_windows = 8", "eval_interval = 0.0",
                 f'data = ["{data}"]', *(f"[{name}]\n{text}" for name, text in tables.items())]  # fmt: skip
        (path / "config.toml").write_text("\n".join(lines))
        self.task = LanguageTask(self.recipe)

    def snapshot(self, seed: int, version: int, t: float) -> None:
        """Put one in place, as the syncer does."""
        named = {name: p.detach().numpy() for name, p in self.task.model(seed).named_parameters()}
        layout = build_layout([TensorSpec(name=n, shape=v.shape) for n, v in named.items()], 4, "balanced")
        theta = np.empty(layout.total, np.float32)
        parts = split(layout, theta)
        fill(layout, named, parts)
        part = self.path / "store" / "part"
        write_snapshot(
            Snapshot(run="r", t=t, layout=layout, origin=Origin(aliases={}, config=None), theta=parts, momentum=parts,
                     published=((version, 10 * version),) * 4, policy=Policy(fragments=4), state={}, events=0,
                     traffic=(0, 0)), part)  # fmt: skip
        part.replace(self.path / "store" / NAME)

    def evaluate(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "skerry.recipe.evaluate", str(self.path)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    @property
    def lines(self) -> list[dict]:
        path = self.path / "eval.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def loss(self, seed: int) -> float:
        torch.set_num_threads(1)
        return self.task.evaluate(self.task.model(seed))


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "never came true"
        time.sleep(0.01)


def ended(process: subprocess.Popen) -> int:
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE)
    assert said == ""
    return process.returncode


@pytest.mark.processes
def test_each_snapshot_is_evaluated_as_it_comes(tmp_path):
    run = Run(tmp_path)
    process = run.evaluate()
    run.snapshot(seed=0, version=0, t=0.5)
    until(lambda: len(run.lines) == 1)
    assert psutil.Process(process.pid).nice() >= NICE
    run.snapshot(seed=7, version=3, t=2.5)
    until(lambda: len(run.lines) == 2)
    assert ended(process) == 0
    first, second = run.lines
    assert first == {"t": 0.5, "step": 0, "rounds": 0, "loss": pytest.approx(run.loss(0), rel=1e-5)}
    assert second == {"t": 2.5, "step": 30, "rounds": 12, "loss": pytest.approx(run.loss(7), rel=1e-5)}
    assert first["loss"] > 5


@pytest.mark.processes
def test_a_run_that_is_over_before_it_looked(tmp_path):
    """SIGTERM comes early, and the first snapshot has been replaced: the recipe's beginning is known, the end is there."""
    run = Run(tmp_path)
    run.snapshot(seed=7, version=3, t=2.5)
    process = run.evaluate()
    until(lambda: psutil.Process(process.pid).nice() >= NICE or process.poll() is not None)
    assert ended(process) == 0
    assert [line["rounds"] for line in run.lines] == [0, 12]
    assert run.lines[0]["loss"] == pytest.approx(run.loss(0), rel=1e-5)


def test_what_did_not_begin_here_has_no_such_beginning(tmp_path):
    from skerry.recipe.evaluator import Evaluator

    run = Run(tmp_path, syncer='init = "values.safetensors"')
    run.snapshot(seed=7, version=3, t=2.5)
    evaluator = Evaluator(tmp_path)
    assert evaluator.look() and not evaluator.look()
    assert [line["rounds"] for line in run.lines] == [12]
    run.snapshot(seed=8, version=4, t=3.5)
    assert Evaluator(tmp_path).look(), "a resumed run's evaluation goes on in the same file"
    assert [line["rounds"] for line in run.lines] == [12, 16]


@pytest.mark.processes
def test_no_run(tmp_path):
    command = [sys.executable, "-m", "skerry.recipe.evaluate", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 6 and done.stderr.startswith("skerry: ") and done.stderr.count("\n") == 1
