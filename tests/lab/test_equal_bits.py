"""Equal bits before and after a refactoring: small runs of the lab decide and compute what equal_bits.json says.

The list holds of every run, as tests/support/equal_bits.py notes it:
    figures            rounds, contributors, ledger, steps, bytes, virtual times: to be read, and named first when they differ
    early_decisions    SHA-256 of who made which step when, and when versions were made, in the first three quarters
    decisions          the same of the whole run, and of the figures
    early_bits         SHA-256 of every loss and of the global models, in the first three quarters
    model_hash         SHA-256 of the final model
Decisions do not depend on floating-point values and are compared everywhere. Bits depend on the processor and on torch: where
this machine's arithmetic is not the list's (hashes of fixed computations without Skerry), the test skips them and says so.

Rules: a change that is to keep the bits leaves the list alone. One that changes them on purpose makes the list anew in the same
commit, whose message says why and in which runs:
    PYTHONPATH=tests .venv/bin/python -m lab.test_equal_bits
It tells what became different. Where only the end of runs is meant to change, no `early_` hash does. On a machine of other
arithmetic make the former commit's list first, or all bits seem to have changed. Faults strike between 20% and 70% of a run's
time: what is changed at its end shall leave them alone.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from skerry import Policy, preset
from skerry.lab import World
from support.equal_bits import Record, arithmetic, play, play_command

LIST = Path(__file__).with_name("equal_bits.json")
UNEQUAL: dict[str, Any] = {"speeds": (1, 0.9, 0.7, 0.4), "jitter": 0.2, "link": "100ms,200kbit"}
NEAR_AND_FAR: dict[str, Any] = {"speeds": (1, 0.8), "jitter": 0.1, "link": "20ms,1Mbit;900ms,100kbit;1500ms"}
EVERY_FAULT = (
    "kill:0.agent@24s kill:1.trainer@27s stop:2.agent@31s+7s slow:3x0.5@33s+12s kill:2@45s+8s stop:0@50s+12s "
    "slow:1.trainerx0.3@52s+9s stop:3.trainer@60s+5s"
)
RECIPE = ("--learners", "3", "--speeds", "1,0.8,0.5", "--jitter", "0.1", "--link", "100ms,100Mbit", "--steps", "20",
          "--faults", "kill:1@8s+4s stop:2@6s+3s", "--set", "recipe.batch=1", "--set", "recipe.context=16",
          "--set", "recipe.eval_windows=4", "--set", "policy.fragments=6", "--set", "policy.interval=6")  # fmt: skip


def decoupled(**changes: Any) -> Policy:
    return preset("decoupled", **{"fragments": 6, "interval": 8, "steps": 60, **changes})


def world(shape: dict[str, Any] | None = None, **changes: Any) -> World:
    return World(**{"learners": 4, **(shape or {}), **changes})


RUNS: dict[str, dict[str, Any]] = {
    # synchronous
    "diloco, all wait, fp32 up, an island dies": {
        "policy": preset("diloco", interval=6, steps=60, codec_up="fp32"),
        "world": world(jitter=0.2, link="50ms,1Mbit", faults="kill:2@25s+9s"),
    },
    "streaming, blend, strided, unequal speeds, one freezes": {
        "policy": preset("streaming", fragments=2, fragmentation="strided", interval=8, overlap=2, steps=48),
        "world": world(UNEQUAL, faults="stop:1@30s+15s"),
    },
    "streaming, rebase, rda, bf16 down, an agent dies, one silent too long": {
        "policy": preset("streaming", fragments=4, interval=12, overlap=3, steps=60, on_included="rebase", merge="rda",
                         codec_down="bf16", sync_timeout=9.0),
        "world": world(jitter=0.1, link="200ms,1Mbit", faults="kill:0.agent@22s stop:3@24s+20s"),
    },
    "streaming, overwrite, no links, no jitter, one freezes shortly": {
        "policy": preset("streaming", fragments=4, interval=8, overlap=1, steps=48, on_included="overwrite"),
        "world": world(faults="stop:2.trainer@20.2s+0.3s kill:1.trainer@22s+5s"),
    },
    # K = 1
    "K=1, grace, overwrite and carry, unequal speeds": {"policy": decoupled(), "world": world(UNEQUAL)},
    "K=1, grace, rebase and carry, near and far": {
        "policy": decoupled(overlap=4, on_included="rebase"), "world": world(NEAR_AND_FAR),
    },
    "K=1, no grace, overwrite and overwrite": {
        "policy": decoupled(grace=0.0, on_excluded="overwrite"), "world": world(NEAR_AND_FAR),
    },
    "K=1, no grace, overwrite and carry": {"policy": decoupled(grace=0.0), "world": world(NEAR_AND_FAR)},
    "K=1, no grace, rebase and overwrite": {
        "policy": decoupled(grace=0.0, on_included="rebase", on_excluded="overwrite"), "world": world(NEAR_AND_FAR),
    },
    "K=1, no grace, blend and overwrite": {
        "policy": decoupled(grace=0.0, on_included="blend", blend=0.3, on_excluded="overwrite"), "world": world(NEAR_AND_FAR),
    },
    "K=1, grace, blend and carry, narrow links, contributions are stale": {
        "policy": decoupled(fragments=4, interval=4, on_included="blend", max_staleness=0),
        "world": world(UNEQUAL, link="500ms,56kbit;500ms,14kbit"),
    },
    "K=1, no links, no jitter, much at the same time, a short freeze": {
        "policy": decoupled(codec_up="fp32"),
        "world": world(speeds=(1, 0.5), faults="stop:1.trainer@20s+0.5s kill:0.agent@25s"),
    },
    "K=1, many fragments, no room for a slow learner's copies": {
        "policy": decoupled(fragments=12, interval=6, overlap=1), "world": world(speeds=(1, 1, 1, 0.1), link="50ms"),
    },
    "K=1, every fault": {
        "policy": decoupled(interval=12, steps=100, silent_after=5.0),
        "world": world(UNEQUAL, link="100ms,1Mbit", restart=6.0, faults=EVERY_FAULT),
    },
    "K=1, overlap 1, rounds are skipped": {
        "policy": decoupled(fragments=8, overlap=1, codec_up="fp32"), "world": world(link="1500ms,50kbit"),
    },
    # more than one
    "K=M, nobody stands, rebase, a freeze outlasts the rounds": {
        "policy": decoupled(quorum=0, on_included="rebase", on_excluded="overwrite", round_timeout=7.0, silent_after=12.0),
        "world": world(jitter=0.2, link="100ms,1Mbit", faults="stop:1@25s+11s"),
    },
    "K=2, direct, layers, bf16 down, one joins, one leaves": {
        "policy": decoupled(quorum=2, wait_for=3, merge="direct", fragments=2, fragmentation="layer", codec_down="bf16"),
        "world": world(UNEQUAL, faults="join:4@15s leave:0@30s"),
    },
    "K=3, a budget of tokens, random kills": {
        "policy": decoupled(quorum=3, steps=0, tokens=4500, direct=("head",)),
        "world": world(UNEQUAL, fault_rate=0.05, downtime=5.0, seed=378),
    },
    # other tensors
    "a model in bf16, blend and carry": {
        "policy": decoupled(on_included="blend", grace=0.0), "world": world(NEAR_AND_FAR, learners=3), "dtype": torch.bfloat16,
    },
    "a head tied to the embedding, K=2": {"policy": decoupled(quorum=2), "world": world(UNEQUAL), "tied": True},
    "a learner whose values are no numbers is refused until it starts again": {
        "policy": decoupled(), "world": world(UNEQUAL, faults="kill:1.trainer@35s"), "spoilt": (1, 15),
    },
    "data-parallel": {"policy": None, "world": world(UNEQUAL)},
}  # fmt: skip
COMMAND = "skerry lab, the recipe's model"


def played(name: str) -> Record:
    if name == COMMAND:
        with tempfile.TemporaryDirectory() as folder:
            return play_command(Path(folder), *RECIPE)
    return play(**RUNS[name])


def listed() -> Record:
    return json.loads(LIST.read_text())


def elsewhere(arithmetic_then: dict[str, str]) -> str:
    """In which kinds this machine's arithmetic is not that of the list."""
    return ", ".join(kind for kind, made in arithmetic().items() if arithmetic_then.get(kind) != made)


def differing(made: Record, then: Record, part: str) -> str:
    """Where a run does, if it does; empty where nobody saw."""
    early = f"early_{part}"
    if early not in then:
        return ""
    return " in the last quarter alone" if made[early] == then[early] else " before the last quarter"


# ---------------------------------------------------------------- the tests


@pytest.mark.parametrize("name", [*RUNS, COMMAND])
def test_a_run_decides_and_computes_what_the_list_says(name: str) -> None:
    made, then = played(name), listed()["runs"][name]
    where = differing(made, then, "decisions")
    assert made["figures"] == then["figures"], f"what is decided has changed{where}"
    assert made["decisions"] == then["decisions"], f"who steps when has changed{where}, though not the figures"
    if kinds := elsewhere(listed()["arithmetic"]):
        pytest.skip(f"decisions are equal; bits are not compared: this machine computes otherwise than the list's in {kinds}")
    bits = ("early_bits", "model_hash")
    assert [made.get(part) for part in bits] == [then.get(part) for part in bits], \
        f"decisions are equal, bits have changed{differing(made, then, 'bits')}"  # fmt: skip


def test_decisions_do_not_depend_on_values() -> None:
    name = "K=1, every fault"
    other, then = play(**RUNS[name], seed=1), listed()["runs"][name]
    decided = ("figures", "early_decisions", "decisions")
    assert [other[part] for part in decided] == [then[part] for part in decided]
    assert other["early_bits"] != then["early_bits"] and other["model_hash"] != then["model_hash"]


def test_the_list_covers_what_it_is_for() -> None:
    runs = listed()["runs"]
    assert set(runs) == {*RUNS, COMMAND}
    assert len({one["model_hash"] for one in runs.values()}) == len(runs), "two runs are one"
    made = {name: one["figures"] for name, one in runs.items()}
    for name, one in made.items():
        for fault, at, struck, down in one["faults"]:
            assert struck and at >= 0.2 * one["virtual_s"] and at + down <= 0.7 * one["virtual_s"], (name, fault)
        if "and overwrite" in name:
            assert one["tokens"]["lost"]["excluded"] > 0, name
    causes = {cause for one in made.values() for cause in one["tokens"].get("lost", ())}
    assert causes == {"overlap", "excluded", "refused", "died"}
    assert any(one["rounds_skipped"] for one in made.values()) and any(one["rounds_cancelled"] for one in made.values())
    assert made["K=3, a budget of tokens, random kills"]["faults"]


# ---------------------------------------------------------------- the list


def make() -> None:
    """The list anew; on stdout, what became different."""
    before = listed() if LIST.exists() else {"runs": {}, "arithmetic": {}}
    if before["arithmetic"] and (kinds := elsewhere(before["arithmetic"])):
        print(f"this machine computes otherwise in {kinds}: bits differ for that alone")
    runs = {name: played(name) for name in (*RUNS, COMMAND)}
    for name in {**before["runs"], **runs}:
        then, now = before["runs"].get(name, {}), runs.get(name, {})
        if changed := [part for part in {**then, **now} if then.get(part) != now.get(part)]:
            print(f"{name}: {', '.join(changed) if then and now else 'new' if now else 'gone'}")
    LIST.write_text(_text({"arithmetic": arithmetic(), "runs": runs}))


def _text(value: Record) -> str:
    """JSON with a line for each part of a run, for diffs that can be read."""
    lines = {name: ",\n".join(f"   {json.dumps(key)}: {json.dumps(part)}" for key, part in one.items())
             for name, one in value["runs"].items()}  # fmt: skip
    runs = ",\n".join(f"  {json.dumps(name)}: {{\n{text}\n  }}" for name, text in lines.items())
    return f'{{\n "arithmetic": {json.dumps(value["arithmetic"])},\n "runs": {{\n{runs}\n }}\n}}\n'


if __name__ == "__main__":
    make()
