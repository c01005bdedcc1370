"""Learners, agents and a syncer, all real, from the first step to the exported model."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from safetensors.numpy import load_file

from support.syncer_process import SyncerProcess

pytestmark = pytest.mark.processes
ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "plain_pytorch.py"
SCRIPT = Path(__file__).parent / "trainer_script.py"
Start = Callable[..., subprocess.Popen]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts training processes; afterwards neither they nor their agents are there."""
    started: list[subprocess.Popen] = []
    agents: list[psutil.Process] = []

    def run(script: Path, *args: str) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, str(script), *args], stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            agents += psutil.Process(process.pid).children()
            process.kill()
        process.wait()
        process.stdout.close()
    assert not psutil.wait_procs(agents, timeout=10)[1]


def agent_of(process: subprocess.Popen) -> psutil.Process:
    return next(c for c in psutil.Process(process.pid).children() if "skerry.learner.agent" in c.cmdline())


def rounds_of(run_dir: Path, learner: int) -> list[dict]:
    """The rounds so far that include the learner."""
    path = run_dir / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]  # the last may be half written
    return [line for line in lines if line["kind"] == "round" and learner in line["included"]]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def figures_of(run_dir: Path) -> dict:
    """The run's figures; the ledger adds up and nothing is pending."""
    figures = json.loads((run_dir / "figures.json").read_text())
    ledger = figures["ledger"]
    assert ledger["processed"] == ledger["merged"] + ledger["lost"] and ledger["pending"] == 0
    return figures


def test_the_example_in_the_readme(tmp_path, start) -> None:
    """Two processes of it learn one model; what it adds to a plain loop is at most five lines."""
    assert 0 < len(re.findall(r"  # \+", EXAMPLE.read_text())) <= 5
    run_dir = tmp_path / "run"
    with SyncerProcess(run_dir, {"fragments": 4, "interval": 8, "steps": 150, "wait_for": 2}) as syncer:
        address = asyncio.run(syncer.ready())
        learners = [start(EXAMPLE, address, str(tmp_path / "token")) for _ in range(2)]
        said = [process.communicate(timeout=90)[0] for process in learners]
        assert [process.returncode for process in learners] == [0, 0]
        assert asyncio.run(syncer.end()) == 0
    assert sorted(re.match(r"learner (\d): (\d+) steps", line)[1] for line in said) == ["0", "1"]
    figures = figures_of(run_dir)
    assert figures["learners"] == 2 and figures["rounds"] > 8
    assert figures["lost_by_cause"]["refused"] == 0
    model = load_file(run_dir / "model" / "model.safetensors")
    assert sorted(model) == sorted(f"{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias"))


def test_deaths_of_an_agent_and_of_a_trainer(tmp_path, start) -> None:
    """An agent is killed and its trainer's contributions resume; a trainer is killed and a new one takes its place. (No limit
    of norms: the script never zeroes its gradients, so the newcomer's are far smaller than the old ones'.)"""
    run_dir = tmp_path / "run"
    hurry = tmp_path / "hurry"
    with SyncerProcess(run_dir, {"fragments": 2, "interval": 4, "steps": 1500, "wait_for": 2, "norm_limit": 0.0}) as syncer:
        address = asyncio.run(syncer.ready())
        arguments = address, str(tmp_path / "token"), f"hurry={hurry}"
        one, two = start(SCRIPT, *arguments), start(SCRIPT, *arguments)
        wait_until(lambda: len(rounds_of(run_dir, 0)) > 5 and len(rounds_of(run_dir, 1)) > 5)
        agent_of(one).kill()
        for learner in (0, 1):
            before = len(rounds_of(run_dir, learner))
            wait_until(lambda learner=learner, before=before: len(rounds_of(run_dir, learner)) > before + 10)
        two.kill()
        two.wait()
        before = len(rounds_of(run_dir, 0)) + len(rounds_of(run_dir, 1))
        wait_until(lambda: len(rounds_of(run_dir, 0)) + len(rounds_of(run_dir, 1)) > before + 10)
        three = start(SCRIPT, *arguments)
        wait_until(lambda: rounds_of(run_dir, 2))
        hurry.touch()
        assert [process.wait(timeout=90) for process in (one, three)] == [0, 0]
        assert asyncio.run(syncer.end()) == 0
    figures = figures_of(run_dir)
    assert figures["learners"] == 3
    lost = {one["learner"]: one["lost_by_cause"] for one in figures["per_learner"]}
    assert lost[0]["excluded"] == lost[0]["refused"] == 0
