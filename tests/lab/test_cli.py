"""`skerry lab`: which value wins, what is refused and how, and that its JSON is the whole truth about a run."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tomli_w

from skerry.cli import main
from skerry.cli.lab.run import LabCommand, read_config
from skerry.config.tree import flat, load, nested
from skerry.core.policy import Policy
from skerry.core.presets import PRESETS
from skerry.recipe.lab import LabConfig

SMALL = ["--learners", "2", "--evals", "2", "--set", "recipe.context=16", "--set", "recipe.batch=1",
         "--set", "recipe.eval_windows=4"]  # fmt: skip
QUICK = [*SMALL, "--set", "policy.fragments=4", "--set", "policy.interval=4"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 100)
    return path


def _command(tmp_path: Path, toml: str, **flags: object) -> LabConfig:
    path = tmp_path / "lab.toml"
    path.write_text(toml)
    return read_config(LabCommand(config=path, **flags))


# ---------------------------------------------------------------- which value wins


def test_method_then_file_then_flags_then_set(tmp_path):
    toml = 'method = "diloco"\n[policy]\nouter_lr = 0.5\nsteps = 7\n[recipe]\nlr = 1e-3\n'
    assert _command(tmp_path, toml).policy == PRESETS["diloco"].replace(outer_lr=0.5, steps=7)
    assert _command(tmp_path, toml, method="streaming").policy == PRESETS["streaming"].replace(outer_lr=0.5, steps=7)
    config = _command(tmp_path, toml, steps=8, lr=2e-3, set=("recipe.lr=3e-3", "world.link=100ms,1Gbit"))
    assert (config.method, config.policy.steps, config.recipe.lr, config.world.link) == ("diloco", 8, 3e-3, "100ms,1Gbit")


def test_only_what_all_layers_come_to_is_checked(tmp_path):
    config = _command(tmp_path, "[policy]\nquorum = 8\n", learners=8)
    assert (config.policy.quorum, config.world.learners) == (8, 8)


def test_the_defaults():
    config = read_config(LabCommand())
    assert (config.method, config.seed, config.evals, config.policy) == ("decoupled", 0, 12, Policy(steps=1000))
    assert (config.recipe.model, config.world.learners) == ("nano", 4)


def test_flags_reach_the_world():
    given = LabCommand(learners=5, speeds="1, 0.5", jitter=0.1, link="5ms", faults="kill:4@3s", fault_rate=0.2, step_time=2.0)
    world = read_config(given).world
    assert (world.learners, world.speeds, world.jitter, world.link) == (5, (1.0, 0.5), 0.1, "5ms")
    assert (world.faults, world.fault_rate, world.step_s) == ("kill:4@3s", 0.2, 2.0)


def test_learners_is_short_for_the_worlds(tmp_path):
    assert _command(tmp_path, "learners = 3\n").world.learners == 3
    assert _command(tmp_path, "learners = 3\n", learners=5).world.learners == 5
    assert _command(tmp_path, "learners = 3\n", learners=5, set=("learners=6",)).world.learners == 6


def test_shards_and_seeds_follow_unless_they_are_given(tmp_path):
    config = _command(tmp_path, "learners = 3\nseed = 7\n")
    assert (config.recipe.shards, config.recipe.seed, config.world.seed) == (3, 7, 7)
    config = _command(tmp_path, "[recipe]\nseed = 0\nshards = 2\n[world]\nseed = 1\n", seed=7)
    assert (config.seed, config.recipe.shards, config.recipe.seed, config.world.seed) == (7, 2, 0, 1)


@pytest.mark.parametrize("method", ["decoupled", "streaming", "diloco", "data-parallel"])
def test_a_settled_tree_is_read_back_as_it_is(method):
    config = read_config(LabCommand(method=method, seed=3, speeds="1,0.5", set=("recipe.betas=[0.5, 0.6]",)))
    assert load(LabConfig, ("again", config.tables())) == config


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--lr", "-1"], ["--lr = -1.0 cannot work", "above 0"]),
        (["--lr", "1", "--set", "recipe.lr=-1"], ["recipe.lr = -1.0 cannot work", "above 0"]),
        (["--step-time", "-1"], ["--step-time = -1.0 cannot work"]),
        (["--steps", "0"], ["--steps = 0", "never end"]),
        (["--seed", "-1"], ["seed = -1"]),
        (["--evals", "0"], ["evals = 0"]),
        (["--speeds", "1,x"], ["speeds = '1,x' cannot work", "1,1,0.8,0.5"]),
        (["--speeds", "1,,1"], ["speeds = '1,,1' cannot work"]),
        (["--speeds", "1,1,1,1,1"], ["--speeds = '1,1,1,1,1' cannot work", "at most one a learner (4)"]),
        (["--link", "3"], ["link '3'", "100ms,1Gbit"]),
        (["--faults", "kill:9@1s"], ["kill:9@1s", "no learner 9"]),
        (["--set", "policy.outer_lr"], ["--set 'policy.outer_lr' is not KEY=VALUE"]),
        (["--set", "policy.x=1"], ["unknown key policy.x = 1", "allowed in [policy]", "outer_lr"]),
        (["--set", "plicy.x=1"], ["unknown key plicy", "method, seed, evals, policy, recipe, world"]),
        (["--set", "policy.outer_lr=high"], ["policy.outer_lr = 'high' has the wrong type; give a number\n"]),
        (["--set", "recipe.batch=1.5"], ["recipe.batch = 1.5 has the wrong type; give a whole number\n"]),
        (["--set", "recipe.betas=3"], ["recipe.betas = 3 has the wrong type; give a list, each of it a number\n"]),
        (["--set", "policy.direct=3"], ["policy.direct = 3 has the wrong type; give a list, each of it text in"]),
        (["--set", "policy=3"], ["policy is a table"]),
        (["--set", "world.jitter.x=3"], ["world.jitter"]),
        (["--set", "method='all'"], ["method = 'all'", "decoupled, streaming, diloco, data-parallel"]),
        (["--learners", "2", "--set", "policy.wait_for=3"], ["policy.wait_for = 3 is more than learners = 2"]),
        (["--set", "policy.quorum=5"], ["policy.quorum = 5 is more than learners = 4"]),
        (["--method", "data-parallel", "--set", "policy.interval=3"], ["policy.interval = 3", "data-parallel has no policy"]),
        (["--method", "data-parallel", "--fault-rate", "0.1"], ["--fault-rate = 0.1", "data-parallel has no faults"]),
        (["--config", "none.toml"], ["cannot read none.toml"]),
        (["--set", "policy.fragments=100"], ["policy.fragments = 100 is more than the 39"]),
        (["--model", "small", "--learners", "9000"], ["learners = 9000 with the small model need about 1,8", "GB of memory"]),
    ],
)
def test_what_cannot_be_is_one_line(given, says, capsys):
    assert main(["lab", *given]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert [part for part in says if part not in error] == []


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("stps = 3\n", "unknown key stps = 3; allowed in the top level are method"),
        ("learners = 3\nworld.learners = 4\n", "learners = 3 and world.learners = 4 are one key"),
        ("method = ['diloco']\n", "method = ['diloco'] is none"),
        ("[world]\nlearners = 'four'\n", "world.learners = 'four' has the wrong type"),
        ("world = 4\n", "world is a table"),
        ("recipe = 4\nlearners = 2\n", "recipe is a table"),
    ],
)
def test_what_a_file_cannot_say(tmp_path, toml, says, capsys):
    (tmp_path / "lab.toml").write_text(toml)
    assert main(["lab", "--config", str(tmp_path / "lab.toml")]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("command", ["lab", "train"])
def test_what_has_no_end_is_no_data(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([command, "--data", "/dev/zero"]) == 3
    assert "/dev/zero is neither a file nor a folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_is_value_and_table_is_refused(capsys):
    assert main(["lab", "--set", "policy=3", "--set", "policy.steps=4"]) == 2
    assert "policy is a value already" in capsys.readouterr().err


def test_nested_tables():
    assert nested({"a.b.c": 1, "a.d": [2], "e": 3}) == {"a": {"b": {"c": 1}, "d": [2]}, "e": 3}
    assert nested(flat({"tls": {}, "a": {"b": {}, "c": 1}})) == {"tls": {}, "a": {"b": {}, "c": 1}}  # [tls] says something


# ---------------------------------------------------------------- what comes of it


def test_the_json_is_enough_to_make_the_run_again(tmp_path, text, capsys):
    out = tmp_path / "new" / "out.json"
    assert main(["lab", "--data", str(text), "--steps", "8", *QUICK, "--seed", "3", "--json", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    first = json.loads(printed.out)
    assert (printed.out.count("\n"), printed.err, json.loads(out.read_text())) == (1, "", first)
    about = {"method": "decoupled", "learners": 2, "steps": 8, "seed": 3, "model": "nano"}
    assert {name: first[name] for name in about} == about
    assert first["eval_curve"][-1][3] == first["eval_loss"] < first["eval_curve"][0][3]
    assert [path.name for path in out.parent.iterdir()] == ["out.json"]
    (tmp_path / "again.toml").write_text(tomli_w.dumps(first["config"]))
    assert main(["lab", "--config", str(tmp_path / "again.toml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first


def test_data_parallel_has_no_policy(text, capsys):
    assert main(["lab", "--method", "data-parallel", "--data", str(text), "--steps", "4", *SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["config"]["policy"], result["method"], result["tokens"]["processed"]) == ({"steps": 4}, "data-parallel", 128)


def test_without_json_a_person_can_read_it(text, capsys):
    assert main(["lab", "--data", str(text), "--steps", "4", *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(maxsplit=1) == ["method", "decoupled, 2 learners, nano model, seed 0"]
    assert {"eval loss", "rounds", "tokens", "goodput", "traffic"} <= {line[:9].strip() for line in lines}


def test_faults_and_what_was_lost_are_said(text, capsys):
    struck = ["--faults", "kill:0@1s slow:1x0.5@2s+1s kill:0@3s", "--steps", "20"]
    assert main(["lab", "--data", str(text), *struck, *QUICK]) == 0
    printed = capsys.readouterr()
    assert "faults     2 of 3 struck: kill:0 at 1 s, slow:1x0.5 at 2 s\n" in printed.out and printed.err == ""


def test_a_run_that_merged_nothing_says_so(text, capsys):
    assert main(["lab", "--data", str(text), "--lr", "1e8", "--steps", "20", *QUICK]) == 0
    printed = capsys.readouterr()
    assert "rounds     0 merged, " in printed.out and " cancelled" in printed.out and "refused " in printed.out
    assert printed.err.startswith("skerry: this run learnt little: no round was merged; tokens lost: ")
    assert printed.err.count("\n") == 1


def test_a_loss_that_is_no_number_is_null(text, capsys):
    given = ["--method", "data-parallel", "--data", str(text), "--steps", "6", *SMALL, "--lr", "1e30", "--json"]
    assert main(["lab", *given]) == 0
    assert json.loads(capsys.readouterr().out)["eval_loss"] is None


@pytest.mark.processes
def test_ctrl_c_is_one_line_and_130(tmp_path, text):
    """On a terminal, where it also shows how far it is."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "skerry.cli", "lab", "--data", str(text), "--steps", "1000000", *QUICK]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, cwd=tmp_path)
    os.close(theirs)
    try:
        shown = _read_until(ours, b" of 1,000,000", seconds=60)
        process.send_signal(2)
        shown += _read_until(ours, b"nothing of it is kept", seconds=30)
        assert process.wait(30) == 130
    finally:
        process.kill()
        output = process.communicate()[0]
        os.close(ours)
    assert (output, b"Traceback" in shown, list(tmp_path.glob("*.json"))) == (b"", False, [])


def _read_until(terminal: int, what: bytes, seconds: float) -> bytes:
    until, shown = time.monotonic() + seconds, b""
    while what not in shown:
        assert time.monotonic() < until, shown
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    assert what in shown
    return shown


# ---------------------------------------------------------------- where it is written


@pytest.mark.parametrize(("out", "code", "says"), [
    ("here.txt/x.json", 2, "--out = 'here.txt/x.json' cannot work; here.txt is a file: name a folder"),
    ("here.txt/a/x.json", 7, "cannot write here.txt/a/x.json: Not a directory; free space there, or name another with --out"),
    (".", 2, "--out = '.' cannot work; it is no file: name one"),
    ("", 2, "--out = '' cannot work; give a path"),
])  # fmt: skip
def test_a_place_that_cannot_be_written_is_refused_before_the_run(out, code, says, tmp_path, text, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").write_text("")
    monkeypatch.setattr("skerry.cli.lab.run.carry_out", None)
    assert main(["lab", "--data", str(text), *QUICK, "--out", out]) == code
    assert capsys.readouterr() == ("", f"skerry: {says}\n")


def test_an_output_that_fails_does_not_cost_what_is_written(tmp_path, text):
    command = [sys.executable, "-m", "skerry.cli", "lab", "--data", str(text), "--steps", "4", *QUICK, "--out", "o.json"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, cwd=tmp_path)
    assert (ended.returncode, ended.stderr.count("\n")) == (7, 1)
    assert "eval_loss" in json.loads((tmp_path / "o.json").read_text())


def test_a_place_that_fails_after_the_run_does_not_cost_it(tmp_path, text, capsys, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skerry.cli.lab.run.settle", full)
    assert main(["lab", "--data", str(text), "--steps", "4", *QUICK, "--json", "--out", str(tmp_path / "o.json")]) == 7
    printed = capsys.readouterr()
    assert "eval_loss" in json.loads(printed.out) and printed.err.startswith("skerry: cannot write")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_the_recipes_own_seed_decides_its_initial_values(text, capsys):
    """As the run's seed does where the recipe has none: nothing else here is random."""
    hashes = []
    for seed in (["--seed", "5"], ["--set", "recipe.seed=5"], ["--seed", "0"]):
        assert main(["lab", *QUICK, "--data", str(text), "--steps", "2", "--json", *seed]) == 0
        hashes.append(json.loads(capsys.readouterr().out)["model_hash"])
    assert hashes[0] == hashes[1] != hashes[2]
