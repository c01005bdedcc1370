"""From an exported model to text."""

import json

import numpy as np
import pytest

from skerry.core.layout import TensorSpec, build_layout
from skerry.errors import ConfigError, DataError, RunDirError
from skerry.recipe.sample import load_model, sample
from skerry.store.export import export_model
from skerry.store.snapshot import Origin, fill, split
from support.pattern import PATTERN, train


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run's directory with a trained model, exported as the syncer does it."""
    model = train(PATTERN, 80)
    named = {name: p.detach().numpy() for name, p in model.named_parameters()}
    layout = build_layout([TensorSpec(name=n, shape=v.shape) for n, v in named.items()], 24, "balanced")
    theta = np.empty(layout.total, np.float32)
    parts = split(layout, theta)
    fill(layout, named, parts)
    path = tmp_path_factory.mktemp("run")
    export_model(path / "model", layout, Origin(aliases={}, config=PATTERN.description()), parts)
    return path


def test_what_was_learned_is_written(run_dir):
    model = load_model(run_dir)
    text = bytes(sample(model, b"the same ag", count=30, temperature=0))
    assert text == b"ain and the same again and the"[:30]
    assert bytes(sample(load_model(run_dir / "model"), b"the same ag", count=30, temperature=0)) == text


def test_the_seed_decides(run_dir):
    model = load_model(run_dir)
    first, again, other = (bytes(sample(model, b"", count=40, temperature=1.5, seed=s)) for s in (1, 1, 2))
    assert first == again != other and len(first) == 40


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"count": 0}])
def test_impossible_wishes(run_dir, wrong):
    with pytest.raises(ConfigError):
        sample(load_model(run_dir), b"x", **({"count": 1} | wrong))


def test_no_model(tmp_path, run_dir):
    with pytest.raises(RunDirError, match="no exported model"):
        load_model(tmp_path)
    with pytest.raises(RunDirError):
        load_model(tmp_path / "nowhere")


def test_another_kind_of_model(tmp_path, run_dir):
    for config in ({}, {"kind": "mine"}, {"model": {"width": 64}, "context": 16}, []):
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes((run_dir / "model" / "model.safetensors").read_bytes())
        with pytest.raises(DataError, match="not one of the recipe's") as caught:
            load_model(tmp_path)
        assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps(PATTERN.description() | {"context": 8}))
    (tmp_path / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(DataError):
        load_model(tmp_path)
