"""The config tree: TOML, flags and Python are views of one thing; what cannot work is one clear error."""

from dataclasses import replace
from pathlib import Path

import pytest

from skerry.cli.reference import BEGIN, written
from skerry.cli.train import read_command
from skerry.config.toml import read
from skerry.config.tree import load
from skerry.core.policy import Policy
from skerry.core.presets import PRESETS
from skerry.errors import ConfigError
from skerry.fabric.tls import TlsConfig
from skerry.recipe.config import RecipeConfig
from skerry.recipe.lab import LabConfig
from skerry.recipe.tree import LearnerPart, RunConfig, TrainConfig

ROOT = Path(__file__).parents[2]


def _file(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def _load(path: Path) -> TrainConfig:
    return load(TrainConfig, (str(path), read(path)))


def test_a_written_tree_is_read_back_as_it_was(tmp_path):
    config = TrainConfig(
        learners=3, chaos="kill:2@3s", policy=Policy(outer_lr=0.3, direct=("head", "x"), tokens=5),
        recipe=RecipeConfig(model="nano", data=("a", "b c"), betas=(0.5, 0.6)),
        learner=LearnerPart(shm_dir=Path("/tmp"), tls=TlsConfig(ca="ca.pem")),
    )  # fmt: skip
    config.write(tmp_path / "config.toml")
    assert _load(tmp_path / "config.toml") == config


def test_flags_go_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = _file(tmp_path, 'learners = 2\n[policy]\npreset = "diloco"\nouter_lr = 0.5\nsteps = 7\n[recipe]\nmodel = "nano"\n')
    tree = read_command(["--config", str(path), "--policy.outer-lr", "0.6", "--data", "here", "there"]).tree
    assert tree.policy == PRESETS["diloco"].replace(outer_lr=0.6, steps=7)
    assert (tree.learners, tree.recipe) == (2, RecipeConfig(model="nano", data=("here", "there")))
    tree = read_command(["--config", str(path), "--preset", "streaming"]).tree
    assert tree.policy == PRESETS["streaming"].replace(outer_lr=0.5, steps=7)


def test_a_table_without_keys_is_there(tmp_path):
    assert _load(_file(tmp_path, "[learner.tls]\n")).learner.tls == TlsConfig()


def test_flags_reach_every_part():
    given = ["--policy.outer-lr", "0.8", "--recipe.model", "tiny", "--learners", "5", "--chaos", "kill:4@1s", "--name", "x"]
    tree = read_command([*given, "--syncer.snapshot-rounds", "9", "--launch.max-restarts", "1"]).tree
    assert (tree.learners, tree.chaos, tree.syncer.run_dir) == (5, "kill:4@1s", Path("runs/x"))
    assert (tree.syncer.snapshot_rounds, tree.launch.max_restarts) == (9, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[policy]\nouter_rl = 1\n", ["unknown key policy.outer_rl", "allowed in [policy] are", "outer_lr"]),
        ("laerners = 1\n", ["unknown key laerners", "learners, chaos, policy"]),
        ("[learner.tls]\ncrt = 'x'\n", ["unknown key learner.tls.crt", "cert, key, ca"]),
        ("policy = 3\n", ["policy is a table", "[policy]"]),
        ("learners = 'four'\n", ["learners = 'four' has the wrong type", "give a whole number"]),
        ("[policy]\noverlap = 30\n", ["policy.overlap = 30 cannot work", "tau must be below interval (H = 24)"]),
        ("[policy]\nquorum = 5\n", ["policy.quorum = 5 is more than learners = 4"]),
        ("[policy]\nwait_for = 5\n", ["policy.wait_for = 5 is more than learners = 4"]),
        ("[policy]\npreset = 'none'\n", ["no preset 'none'", "decoupled, streaming, diloco"]),
        ("chaos = 'kill:9@1s'\n", ["kill:9@1s", "no learner 9"]),
        ("learners = 0\n", ["learners = 0"]),
        ("learners == 0\n", ["is no TOML"]),
    ],
)
def test_what_a_file_cannot_say(tmp_path, text, says):
    path = _file(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        _load(path)
    assert [part for part in says if part.lower() not in str(error.value).lower()] == []


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"cannot read none\.toml"):
        _load(Path("none.toml"))


def test_the_reference_is_what_the_code_says():
    document = (ROOT / "docs/configuration.md").read_text()
    made = written(document, RunConfig(), LabConfig())
    assert document == made, "run: python -m skerry.cli.reference docs/configuration.md"
    rows = [line.split("|") for line in made.partition(BEGIN)[2].splitlines() if line.startswith("| `")]
    assert [row[1] for row in rows if not row[-2].strip()] == [], "keys without a meaning"


def test_the_examples_are_trees():
    paths = set((ROOT / "examples").glob("*.toml")) - {ROOT / "examples/fleet.toml"}  # that is for skerry plan
    assert paths
    for path in paths:
        assert _load(path).learners


def test_a_frozen_tree_is_checked_when_it_is_changed():
    with pytest.raises(ConfigError):
        replace(TrainConfig(), learners=-1)
