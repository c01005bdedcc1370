"""What Skerry costs the training loop: the `small` model, one learner with its agent and a syncer, on two cores.

    python -m benchmarks.overhead

Five pairs of runs, alternately without Skerry and with it: the same loop, the same batches (16 windows of 64 bytes), the
same two cores. The median step of each run; the ratio within each pair; the median of the ratios. With Skerry every step
hands one fragment over and takes one (P = H = 24). The share of the time spent inside the step hook is Skerry's own
figure of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks._table import Row, at_most, report

PAIRS = 5
WARM = 4  # steps that are not counted
STEPS = 24
BATCH = 16
PATIENCE = 60.0


def main() -> int:
    """The benchmark."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # of this process and all that it starts
    pairs, shares = [], []
    for number in range(PAIRS):
        alone = _train()
        with tempfile.TemporaryDirectory() as folder:
            ours, share = _with_skerry(Path(folder))
        pairs.append((alone, ours))
        shares.append(share)
        print(f"pair {number + 1}: {1e3 * alone:.1f} ms a step without, {1e3 * ours:.1f} ms with: {ours / alone:.4f};"
              f" hook {share:.3%}", flush=True)  # fmt: skip
    ratios = [ours / alone for alone, ours in pairs]
    return report("overhead", [
        Row("median step without Skerry", 1e3 * statistics.median(alone for alone, _ in pairs), "ms"),
        Row("median step with Skerry", 1e3 * statistics.median(ours for _, ours in pairs), "ms"),
        Row("step-time ratio, lowest pair", min(ratios)),
        Row("step-time ratio, highest pair", max(ratios)),
        at_most("step-time ratio, median of pairs", statistics.median(ratios), 1.03),
        at_most("hook share, median", 100 * statistics.median(shares), 0.3, "%"),
        Row("hook share, highest", 100 * max(shares), "%"),
    ])  # fmt: skip


def _with_skerry(folder: Path) -> tuple[float, float]:
    """(median step in seconds, hook share) of a run with a syncer of its own."""
    command = [sys.executable, "-m", "skerry.cli", "syncer", "--run-dir", str(folder), "--policy.steps", str(WARM + STEPS)]
    with (folder / "syncer.log").open("wb") as log:
        syncer = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        address = folder / "address"
        until = time.monotonic() + PATIENCE
        while not address.exists():
            if syncer.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the syncer did not start:\n{(folder / 'syncer.log').read_text()}")
            time.sleep(0.05)
        median = _train(address.read_text().strip(), folder / "token")
        syncer.wait(PATIENCE)
    finally:
        syncer.kill()
        syncer.wait()
    (learner,) = json.loads((folder / "figures.json").read_text())["per_learner"]
    return median, learner["hook_share"]


def _train(*link: Any) -> float:
    """Median step in seconds of one run of the loop, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.overhead", "train", *map(str, link)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a run of the loop failed:\n{done.stderr}")
    return statistics.median(json.loads(done.stdout)[WARM:])


def train(link: list[str]) -> None:
    """The loop, with Skerry if an address and a token file are given. Prints the seconds of each step as JSON."""
    import torch

    import skerry
    from skerry.recipe.config import RecipeConfig
    from skerry.recipe.task import LanguageTask

    torch.set_num_threads(1)
    task = LanguageTask(RecipeConfig(model="small", batch=BATCH))
    model = task.model(0)
    optimizer = task.optimizer(model)
    boundaries: list[float] = []
    optimizer.register_step_post_hook(lambda *_: boundaries.append(time.perf_counter()))
    learner = skerry.Learner(model, optimizer, syncer=link[0], token_file=Path(link[1])) if link else None
    with learner or contextlib.nullcontext():
        for step in range(WARM + STEPS + 1):
            loss, tokens = task.loss(model, task.batch(0, step))
            loss.backward()
            if learner:
                learner.count(tokens, loss.detach())
            optimizer.step()
            optimizer.zero_grad()
            if learner and learner.done:
                break
    print(json.dumps([later - sooner for sooner, later in pairwise(boundaries)]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        train(sys.argv[2:])
    else:
        raise SystemExit(main())
