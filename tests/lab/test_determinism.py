"""Two runs with one seed are equal to the bit, in two processes; another seed gives another run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WORLD = ("--learners", "3", "--speeds", "1,0.8,0.5", "--jitter", "0.1", "--link", "100ms,100Mbit", "--fault-rate", "0.2",
         "--set", "world.downtime=4", "--steps", "30", "--set", "recipe.batch=1", "--set", "recipe.context=16",
         "--set", "policy.fragments=6", "--set", "policy.interval=6", "--json")  # fmt: skip


@pytest.mark.processes
def test_one_seed_gives_the_same_bits_in_two_processes_and_another_does_not(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Skerries are small rocky islands, too small to live on.\n" * 200)
    runs = [_start(text, seed) for seed in (1, 1, 2)]
    first, again, other = (json.loads(run.communicate(timeout=200)[0]) for run in runs)
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert first == again
    assert any(fault["struck"] for fault in first["faults"])
    assert other["model_hash"] != first["model_hash"] and other["faults"] != first["faults"]


def _start(text: Path, seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "skerry.cli", "lab", "--data", str(text), "--seed", str(seed), *WORLD]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
