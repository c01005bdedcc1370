"""A syncer and honest learners, from the first Join to the exported model."""

from __future__ import annotations

import asyncio
import json

import numpy as np
from safetensors.numpy import load_file

from skerry.core.grace import Grace
from skerry.core.policy import Policy
from skerry.store.snapshot import by_name, load_snapshot
from skerry.store.tape import segments, verify
from support.puppet import Puppet, running, small_layout, train, until

POLICY = Policy(fragments=4, interval=8, steps=100, silent_after=30.0)


def test_a_run_from_its_first_learner_to_its_end(tmp_path, monkeypatch):
    layout = small_layout(POLICY)
    run_dir = tmp_path / "run"

    async def scenario() -> int:
        async with running(run_dir, POLICY) as server:
            puppets = [Puppet(POLICY, layout, seed=i) for i in range(3)]
            first = puppets[0].theta.copy()
            for puppet in puppets:
                await puppet.join(server.address)
            await until(lambda: all(puppet.begun for puppet in puppets))
            for puppet in puppets:
                assert np.array_equal(puppet.base, first), "all begin with the first one's model"
                puppet.link.send(puppet.vitals(loss=1.5))
            await train(puppets, lambda: all(puppet.over for puppet in puppets), pace=lambda: not server._worker.queued)
            return await server.outcome

    assert asyncio.run(scenario()) == 0
    figures = json.loads((run_dir / "figures.json").read_text())
    ledger = figures["ledger"]
    assert ledger["processed"] == ledger["merged"] + ledger["lost"] and ledger["pending"] == 0
    assert figures["tokens_processed"] == sum(one["tokens"] for one in figures["per_learner"])
    assert figures["rounds"] >= 4 * 100 / 8 - 4 and figures["mean_contributors"] > 1
    assert 0 < figures["goodput"] < 1 and figures["bytes_up"] > figures["rounds"] * 2 * layout.total // 4
    assert figures["per_learner"][0]["max_gap_ratio"] == 2.0
    snapshot = load_snapshot(run_dir / "store" / "snapshot.safetensors")
    model = load_file(run_dir / "model" / "model.safetensors")
    for name, values in by_name(layout, snapshot.theta).items():
        assert np.array_equal(model[name], values)
    assert np.abs(np.concatenate(snapshot.theta)).mean() < 0.1, "it was trained towards zero"
    assert json.loads((run_dir / "model" / "config.json").read_text()) == {"kind": "test"}
    (tape,) = segments(run_dir / "tape")
    found = verify(tape)
    assert found.difference == "" and found.events > 300 and found.actions > 100
    monkeypatch.setattr(Grace, "window", lambda self: 0.0)
    assert "was not decided then" in verify(tape).difference, "another rule would have decided otherwise"
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rounds = [line for line in lines if line["kind"] == "round"]
    assert len(rounds) == figures["rounds"] and all(r["open_s"] >= r["grace_s"] >= 0 for r in rounds)
    told = {line["event"] for line in lines if line["kind"] == "event"}
    assert told >= {"begin", "join", "budget_reached", "run_over", "export"}
    assert {line["learner"] for line in lines if line["kind"] == "learner"} == {0, 1, 2}
    assert sorted(p.name for p in (run_dir / "store").iterdir()) == ["initial.safetensors", "snapshot.safetensors"]
