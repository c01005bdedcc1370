"""A synchronous run in real processes is DiLoCo as one would write it down: average, Nesterov, overwrite."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support import synchronous_script
from support.synchronous_script import inner_step, make

LEARNERS, INTERVAL, STEPS = 2, 5, 20


def plain_diloco() -> dict[str, torch.Tensor]:
    """M copies; every H steps the outer optimizer takes the mean change, and everybody takes its value over."""
    whole, _ = make()
    outer = torch.optim.SGD(whole.parameters(), lr=0.7, momentum=0.9, nesterov=True)
    copies = [make() for _ in range(LEARNERS)]
    for first in range(0, STEPS, INTERVAL):
        for step in range(first, first + INTERVAL):
            for learner, (model, inner) in enumerate(copies):
                inner_step(model, inner, learner, step)
        for parameter, *theirs in zip(whole.parameters(), *(model.parameters() for model, _ in copies), strict=True):
            parameter.grad = torch.stack([parameter.detach() - theta.detach() for theta in theirs]).mean(0)
        outer.step()
        for model, _ in copies:
            model.load_state_dict(whole.state_dict())
    return whole.state_dict()


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Until the syncer has written its address."""
    give_up = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None and time.monotonic() < give_up, "the syncer did not start"
        time.sleep(0.02)


@pytest.mark.processes
def test_diloco_in_real_processes_is_the_algorithm_written_out(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "skerry.cli", "syncer", "--run-dir", str(run), "--preset", "diloco",
               "--policy.interval", str(INTERVAL), "--policy.steps", str(STEPS), "--policy.wait-for", str(LEARNERS),
               "--policy.codec-up", "fp32"]  # fmt: skip
    started = [subprocess.Popen(command, stdout=subprocess.DEVNULL)]
    try:
        wait_for(run / "address", started[0])
        script = [sys.executable, synchronous_script.__file__, (run / "address").read_text().strip()]
        learners = [subprocess.Popen([*script, str(run / "token"), str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                    for i in range(LEARNERS)]  # fmt: skip
        started += learners
        assert [learner.stdout.readline() for learner in learners] == [b"in\n"] * LEARNERS
        for learner in learners:  # a round waits for those that have come to train: now both have
            learner.stdin.close()
        assert [process.wait(timeout=120) for process in reversed(started)] == [0] * len(started)
    finally:
        for process in started:
            process.kill()
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout)):
                pipe.close()
    merged = load_file(run / "model" / "model.safetensors")
    start = make()[0].state_dict()
    for name, expected in plain_diloco().items():
        assert torch.linalg.vector_norm(expected - start[name]) > 0.1, "the comparison would say nothing"
        torch.testing.assert_close(merged[name], expected, rtol=1e-5, atol=1e-5)
