"""A syncer's process: stopped, killed, resumed; on a full disk; its memory."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from skerry.core.policy import Policy
from skerry.errors import SkerryError
from skerry.store.snapshot import load_snapshot
from skerry.store.tape import replay, segments, verify
from support.puppet import PATIENCE, Puppet, small_layout, train, until
from support.syncer_process import SyncerProcess

pytestmark = pytest.mark.processes
SETTINGS = {"fragments": 2, "interval": 4, "silent_after": 30.0}
POLICY = Policy(**SETTINGS)
LAYOUT = small_layout(POLICY, width=100)


async def joined(address: str, count: int = 2) -> list[Puppet]:
    puppets = [Puppet(POLICY, LAYOUT, learner=i, seed=i) for i in range(count)]
    for puppet in puppets:
        await puppet.join(address)
    await until(lambda: all(puppet.begun for puppet in puppets))
    return puppets


def rounds(run_dir) -> list[dict]:
    text = (run_dir / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return [line for line in lines if line["kind"] == "round"]


def only_overlap(figures) -> bool:
    """Whether nothing was lost by another cause."""
    return not any(tokens for cause, tokens in figures["lost_by_cause"].items() if cause != "overlap")


def versions(puppets) -> int:
    return min(min(puppet.memory.base) for puppet in puppets)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_saves_everything(tmp_path, number, code):
    run_dir = tmp_path / "run"

    async def play(syncer):
        puppets = await joined(await syncer.ready())
        await train(puppets, lambda: versions(puppets) >= 5)
        assert await syncer.end(number) == code
        await until(lambda: all(puppet.ended for puppet in puppets))
        return max(puppet.memory.base[0] for puppet in puppets)

    with SyncerProcess(run_dir, SETTINGS) as syncer:
        taken = asyncio.run(play(syncer))
    saved = load_snapshot(run_dir / "store" / "snapshot.safetensors")
    assert saved.published[0][0] >= taken, "no round was lost"
    assert (run_dir / "model" / "model.safetensors").exists()
    figures = json.loads((run_dir / "figures.json").read_text())
    ledger = figures["ledger"]
    assert ledger["processed"] == ledger["merged"] + ledger["lost"] + ledger["pending"]
    assert figures["phase"] == "running" and figures["lost_by_cause"]["died"] == 0, "what is pending stays so"
    (tape,) = segments(run_dir / "tape")
    assert verify(tape).difference == ""
    left = sorted(path.name for path in run_dir.iterdir())
    assert left == ["address", "figures.json", "lock", "metrics.jsonl", "model", "run", "store", "tape"]
    assert "Traceback" not in syncer.log


def test_a_signal_before_anybody_came(tmp_path):
    async def play(syncer):
        await syncer.ready()
        return await syncer.end(signal.SIGINT)

    with SyncerProcess(tmp_path / "run", SETTINGS) as syncer:
        assert asyncio.run(play(syncer)) == 130


@pytest.mark.parametrize("durability", ["process", "machine"])
def test_killed_and_resumed_nothing_is_lost(tmp_path, durability):
    run_dir = tmp_path / "run"
    puppets: list[Puppet] = []

    def in_time() -> bool:
        return not any(puppet.ahead for puppet in puppets)

    async def play() -> int:
        with SyncerProcess(run_dir, SETTINGS, durability=durability) as syncer:
            address = await syncer.ready()
            puppets.extend(await joined(address))
            await train(puppets, lambda: versions(puppets) >= 6, pace=in_time)
            assert await syncer.end(signal.SIGKILL) == -9
        await train(puppets, lambda: all(p.ended for p in puppets))
        for puppet in puppets:
            for _ in range(3):
                puppet.step()  # nobody stops for want of a syncer
        told = max(max(puppet.memory.base) for puppet in puppets)
        steps = max(puppet.core.clock for puppet in puppets) + 60
        run = (run_dir / "run").read_text().strip()
        with SyncerProcess(run_dir, {**SETTINGS, "steps": steps}, durability=durability, resume=True) as syncer:
            assert await syncer.ready() == address, "where its learners look for it"
            for puppet in puppets:
                await puppet.join(address, run=run)
            await train(puppets, lambda: all(puppet.over for puppet in puppets), pace=in_time)
            assert await syncer.end() == 0
        assert max(max(puppet.memory.base) for puppet in puppets) > told
        return steps

    steps = asyncio.run(play())
    figures = json.loads((run_dir / "figures.json").read_text())
    ledger = figures["ledger"]
    assert [puppet.memory.generation for puppet in puppets] == [1, 1], "as who they were"
    assert figures["step"] == steps and ledger["pending"] == 0
    assert ledger["processed"] == ledger["merged"] + ledger["lost"]
    assert only_overlap(figures), figures["lost_by_cause"]
    assert figures["tokens_processed"] == sum(puppet.count.tokens for puppet in puppets)
    assert [verify(tape).difference for tape in segments(run_dir / "tape")] == ["", ""]
    assert np.abs(np.concatenate(load_snapshot(run_dir / "store" / "snapshot.safetensors").theta)).mean() < 0.3


@pytest.mark.parametrize("phase", ["final", "ended"])
def test_killed_at_the_end_and_resumed_it_ends(tmp_path, phase):
    """In `final` one learner has not answered; in `ended` nothing is exported, for the disk was full."""
    run_dir = tmp_path / "run"
    settings = {**SETTINGS, "steps": 40, "round_timeout": 1.0, "final_timeout": 60.0}
    puppets: list[Puppet] = []

    async def play():
        with SyncerProcess(run_dir, settings) as syncer:
            address = await syncer.ready()
            puppets.extend([Puppet(Policy(**settings), LAYOUT, learner=i, seed=i) for i in range(2)])
            for puppet in puppets:
                await puppet.join(address)
            await until(lambda: all(puppet.begun for puppet in puppets))
            if phase == "ended":
                (run_dir / "model").rmdir()
                (run_dir / "model").write_text("no folder")
                await train(puppets, lambda: all(puppet.over for puppet in puppets))
                await until(lambda: [line for line in syncer.said("trouble") if "cannot export" in line["text"]])
            else:
                while not all(puppet.done for puppet in puppets):
                    for puppet in puppets:
                        if not puppet.done:
                            puppet.step()
                    await asyncio.sleep(0.001)
                puppets[0].stop()
                await until(lambda: phase_of(run_dir) == phase)
            assert await syncer.end(signal.SIGKILL) == -9
        assert phase_of(run_dir) == phase
        if phase == "ended":
            (run_dir / "model").unlink()
        with SyncerProcess(run_dir, settings, resume=True) as syncer:
            if phase == "final":
                assert await syncer.ready() == address
                for puppet in puppets:
                    await until(lambda puppet=puppet: puppet.ended)
                    await puppet.join(address)
                await train(puppets, lambda: all(puppet.over for puppet in puppets))
            assert await syncer.end() == 0

    asyncio.run(play())
    figures = json.loads((run_dir / "figures.json").read_text())
    assert figures["phase"] == "ended" and figures["ledger"]["pending"] == 0
    assert only_overlap(figures), figures["lost_by_cause"]
    assert (run_dir / "model" / "model.safetensors").exists()


def phase_of(run_dir: Path) -> str:
    """As the log tells it."""
    return str(replay(segments(run_dir / "tape")[-1]).core.phase)


def test_a_second_syncer_is_told_of_the_first_one(tmp_path):
    async def play():
        with SyncerProcess(tmp_path / "run", SETTINGS) as first:
            await first.ready()
            with SyncerProcess(tmp_path / "run", SETTINGS, resume=True) as second:
                assert await second.end() == 6
                assert f"process {first.process.pid}" in second.log and "Traceback" not in second.log
            assert first.process.poll() is None

    asyncio.run(play())


def test_killed_before_anybody_came_it_begins_under_its_name(tmp_path):
    run_dir = tmp_path / "run"

    async def play():
        with SyncerProcess(run_dir, SETTINGS) as syncer:
            address = await syncer.ready()
            run = (run_dir / "run").read_text().strip()
            await syncer.end(signal.SIGKILL)
        with SyncerProcess(run_dir, SETTINGS, resume=True) as syncer:
            assert await syncer.ready() == address
            puppet = Puppet(POLICY, LAYOUT)
            await puppet.join(address, run=run)
            await until(lambda: puppet.begun)

    asyncio.run(play())


def test_a_removed_directory_is_made_again(tmp_path):
    run_dir = tmp_path / "run"

    async def play():
        with SyncerProcess(run_dir, SETTINGS) as syncer:
            address = await syncer.ready()
            puppets = await joined(address)
            await train(puppets, lambda: versions(puppets) >= 3)
            shutil.rmtree(run_dir)
            await train(puppets, lambda: any("was removed" in line.get("text", "") for line in syncer.said("trouble")))
            base = versions(puppets)
            await train(puppets, lambda: versions(puppets) >= base + 3)
            await syncer.end(signal.SIGKILL)
        with SyncerProcess(run_dir, SETTINGS, resume=True) as syncer:
            assert await syncer.ready() == address
            return await syncer.end(signal.SIGTERM)

    assert asyncio.run(play()) == 0
    assert (run_dir / "model" / "model.safetensors").exists()


TRAINER = Path(__file__).parents[1] / "learner" / "trainer_script.py"


def test_real_learners_outlive_a_killed_syncer(tmp_path):
    """Nobody restarts them and nobody waits: they train on, find the resumed syncer by themselves and finish the run."""
    run_dir, hurry = tmp_path / "run", tmp_path / "hurry"
    snapshot = run_dir / "store" / "snapshot.safetensors"
    policy = {"fragments": 2, "interval": 8, "steps": 600, "silent_after": 30.0, "wait_for": 2}

    async def play() -> list[str]:
        with SyncerProcess(run_dir, policy, snapshot_rounds=2) as syncer:
            address = await syncer.ready()
            trainer = [sys.executable, TRAINER, address, tmp_path / "token", f"hurry={hurry}"]
            trainers = [subprocess.Popen(trainer, stdout=subprocess.PIPE) for _ in range(2)]
            try:
                await until(
                    lambda: snapshot.exists() and {0, 1} <= {m for line in rounds(run_dir)[4:] for m in line["included"]}
                )
                await syncer.end(signal.SIGKILL)
                hurry.touch()
                with SyncerProcess(run_dir, policy, resume=True) as again:
                    assert await again.ready() == address
                    told = [await asyncio.to_thread(trainer.communicate, timeout=PATIENCE) for trainer in trainers]
                    assert [trainer.returncode for trainer in trainers] == [0, 0]
                    assert await again.end() == 0
            finally:
                for trainer in trainers:
                    trainer.kill()
                    trainer.wait()
        return [out.decode() for out, _ in told]

    said = asyncio.run(play())
    steps = [int(words.split("steps ")[1].split()[0]) for words in said]
    figures = json.loads((run_dir / "figures.json").read_text())
    ledger = figures["ledger"]
    counted = sorted(one["steps"] for one in figures["per_learner"])
    assert counted == sorted(steps), "every step is counted, those without a syncer, too"
    assert {one["generations"] for one in figures["per_learner"]} == {1}
    assert only_overlap(figures), figures["lost_by_cause"]
    assert ledger["processed"] == ledger["merged"] + ledger["lost"] and ledger["pending"] == 0
    assert [verify(tape).difference for tape in segments(run_dir / "tape")] == ["", ""]


def test_a_full_disk_stops_the_core_and_nothing_else(tmp_path):
    run_dir = tmp_path / "run"
    policy = {**SETTINGS, "silent_after": 2.0, "round_timeout": 2.0, "steps": 400}
    puppets: list[Puppet] = []

    def in_time() -> bool:
        return not any(puppet.ahead for puppet in puppets)

    async def play(syncer):
        puppets.extend(await joined(await syncer.ready()))
        await train(puppets, lambda: versions(puppets) >= 3, pace=in_time)
        syncer.limit(1 << 10)
        await train(puppets, lambda: [line for line in syncer.said("trouble") if ".tape: " in line["text"]])
        made = [puppet.count.steps for puppet in puppets]
        await train(puppets, lambda: all(puppet.count.steps >= steps + 8 for puppet, steps in zip(puppets, made, strict=True)))
        until_silent = time.monotonic() + 3.0
        await train(puppets, lambda: time.monotonic() > until_silent, pace=lambda: False)
        syncer.lift_limit()
        await train(puppets, lambda: all(puppet.over for puppet in puppets), pace=in_time)
        return await syncer.end()

    with SyncerProcess(run_dir, policy, snapshot_rounds=2) as syncer:
        assert asyncio.run(play(syncer)) == 0
        assert syncer.said("silent") == [], "its time stood still with it"
        assert any("can be written again, nothing was lost" in line["text"] for line in syncer.said("trouble"))
    figures = json.loads((run_dir / "figures.json").read_text())
    assert only_overlap(figures), figures["lost_by_cause"]
    (tape,) = segments(run_dir / "tape")
    assert verify(tape).difference == "", "nothing is missing from the tape"
    assert (run_dir / "model" / "model.safetensors").exists()


def test_a_disk_that_stays_full_is_given_up_with_a_clear_word(tmp_path):
    run_dir = tmp_path / "run"

    async def play(syncer):
        puppets = await joined(await syncer.ready())
        await train(puppets, lambda: versions(puppets) >= 2)
        syncer.limit(1 << 10)
        return await syncer.end(signal.SIGTERM)

    with SyncerProcess(run_dir, SETTINGS) as syncer:
        assert asyncio.run(play(syncer)) == 7
    assert "cannot save the run" in syncer.log and "free space" in syncer.log and "Traceback" not in syncer.log
    load_snapshot(run_dir / "store" / "snapshot.safetensors")


def test_a_syncer_that_was_frozen_has_all_its_learners_back_as_they_were(tmp_path):
    """They have given their links up meanwhile, and wait at its door, some of them more than once."""

    ends = {}

    async def keep(puppet, address):
        while True:
            if puppet.ended:
                ends.setdefault(puppet.memory.learner, puppet.ended)
                try:
                    await puppet.join(address)
                except SkerryError as error:
                    puppet.ended = str(error)
            await asyncio.sleep(0.05)

    async def play(syncer):
        address = await syncer.ready()
        puppets = await joined(address, 6)
        keeping = [asyncio.create_task(keep(puppet, address)) for puppet in puppets]
        syncer.process.send_signal(signal.SIGSTOP)
        await until(lambda: len(ends) == 6)
        assert all("nothing came on its" in reason for reason in ends.values())
        for _ in range(40):  # attempts that nobody waits for any more
            _, writer = await asyncio.open_connection(*address.split(":"))
            writer.close()
        syncer.process.send_signal(signal.SIGCONT)
        await until(lambda: not any(puppet.ended for puppet in puppets) and all(puppet.core.joined for puppet in puppets))
        base = versions(puppets)
        await train(puppets, lambda: versions(puppets) >= base + 2)
        for task in keeping:
            task.cancel()
        assert [puppet.memory.generation for puppet in puppets] == [1] * 6
        assert await syncer.end(signal.SIGTERM) == 0

    with SyncerProcess(tmp_path / "run", SETTINGS, heartbeat=0.1) as syncer:
        asyncio.run(play(syncer))
    assert len(syncer.lines) < 60, "and the log is short"
