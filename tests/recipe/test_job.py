"""The reference job against a real syncer: from the first step to text written by the exported model."""

import json
import subprocess
import sys
import time

import pytest

from skerry.learner.config import LearnerConfig
from skerry.recipe.config import RecipeConfig
from skerry.recipe.job import run_learner
from skerry.recipe.sample import load_model, sample

PATIENCE = 60.0


@pytest.mark.processes
def test_a_learner_of_the_recipe_from_start_to_sample(tmp_path):
    data = tmp_path / "text.txt"
    data.write_bytes(b"the same again and " * 200)
    run_dir = tmp_path / "run"
    command = [sys.executable, "-m", "skerry.cli", "syncer", "--run-dir", str(run_dir), "--policy.steps", "60",
               "--policy.interval", "12", "--policy.fragments", "12"]  # fmt: skip
    recipe = RecipeConfig(model="nano", context=16, batch=4, lr=5e-3, data=(str(data),))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as syncer:
        try:
            until = time.monotonic() + PATIENCE
            while not (run_dir / "address").exists():
                assert syncer.poll() is None and time.monotonic() < until
                time.sleep(0.02)
            config = LearnerConfig(syncer=(run_dir / "address").read_text().strip(), token_file=run_dir / "token")
            run_learner(recipe, config)
            assert syncer.wait(PATIENCE) == 0
        finally:
            syncer.kill()
    figures = json.loads((run_dir / "figures.json").read_text())
    (learner,) = figures["per_learner"]
    assert learner["steps"] >= 60 and figures["tokens_processed"] == learner["steps"] * recipe.batch * recipe.context
    ledger = figures["ledger"]
    assert ledger["processed"] == ledger["merged"] + ledger["lost"] > 0 == ledger["pending"]
    assert b"again" in bytes(sample(load_model(run_dir), b"the same ", count=24, temperature=0))
