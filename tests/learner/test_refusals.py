"""A learner that is refused, finds nobody, or is told something impossible: what it says, raises or lives through."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch
from torch import nn

import skerry
from skerry.core.messages import Join, Refused
from skerry.core.policy import Policy
from skerry.errors import ConfigError, RefusedError, StorageError

pytestmark = pytest.mark.processes
POLICY = Policy(fragments=2, interval=2, overlap=1, steps=1000, codec_up="fp32")


def model_of_two() -> nn.Module:
    """Parameters of two dtypes."""
    torch.manual_seed(3)
    dtypes = (torch.float32, torch.bfloat16)
    return nn.ParameterDict({f"p{i}": nn.Parameter(torch.randn(40 + i, 3).to(d)) for i, d in enumerate(dtypes)})


def test_wrong_token(scripted, tmp_path) -> None:
    syncer = scripted(POLICY)
    other = tmp_path / "other"
    other.write_text("another run's token")
    model = model_of_two()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = psutil.Process().children()
    with pytest.raises(RefusedError, match="token") as caught:
        skerry.Learner(model, optimizer, syncer=syncer.address, token_file=other).__enter__()
    assert caught.value.code == "token" and caught.value.remedy
    with pytest.raises(ConfigError, match="cannot be read"):
        skerry.Learner(model, optimizer, syncer=syncer.address, token_file=tmp_path / "none").__enter__()
    assert psutil.Process().children() == before


def test_impossible_policy_for_this_model(scripted, token_file) -> None:
    model = nn.Linear(2, 2)
    syncer = scripted(POLICY.replace(fragments=24, interval=24))
    with pytest.raises(ConfigError, match=r"policy\.fragments = 24"):
        skerry.Learner(model, torch.optim.SGD(model.parameters()), syncer=syncer.address, token_file=token_file).__enter__()


def test_too_little_shared_memory(scripted, token_file, tmp_path) -> None:
    model = nn.Linear(2, 2)
    syncer = scripted(POLICY)
    with pytest.raises(StorageError, match="shm_dir"):
        skerry.Learner(model, torch.optim.SGD(model.parameters()), syncer=syncer.address, token_file=token_file,
                       shm_dir=tmp_path / "missing").__enter__()  # fmt: skip


def test_bad_settings(token_file) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(ConfigError, match="no address"):
        skerry.Learner(model, optimizer, syncer="nowhere", token_file=token_file)
    with pytest.raises(ConfigError, match="no optimizer"):
        skerry.Learner(model, [], syncer="localhost:1", token_file=token_file)


def test_a_token_that_is_gone_ends_nobody_who_trains(island, token_file, capfd) -> None:
    it = island(model_of_two(), POLICY)
    secret = token_file.read_bytes()
    token_file.unlink()
    it.syncer.drop_link()
    said = ""

    def told() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "has ended" in said

    it.train_until(told)
    token_file.write_bytes(secret)
    join, _ = it.until(Join)
    assert join.generation == 1 and said.count("training goes on, trying again") == 1


def test_a_token_that_is_gone_before_training_is_raised(scripted, token_file) -> None:
    """By then there is a core, which was told of it; the trainer raises the error as it was."""
    syncer, model = scripted(POLICY), model_of_two()

    def lose() -> None:
        syncer.wait_for(Join)
        token_file.unlink()
        syncer.drop_link()

    with ThreadPoolExecutor(1) as other:
        lost = other.submit(lose)
        learner = skerry.Learner(model, torch.optim.SGD(model.parameters()), syncer=syncer.address, token_file=token_file)
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            learner.__enter__()
        lost.result()
    assert "openssl" in caught.value.remedy


def test_the_syncer_may_come_later(scripted, token_file, capfd) -> None:
    model = model_of_two()
    early = socket.create_server(("127.0.0.1", 0))
    port = early.getsockname()[1]

    def come() -> Join:
        for _ in range(2):  # two attempts find nobody who answers
            early.accept()[0].close()
        early.close()
        return scripted(POLICY, port=port).begin()

    with ThreadPoolExecutor(1) as other:
        begun = other.submit(come)
        with skerry.Learner(model, torch.optim.SGD(model.parameters()), syncer=f"127.0.0.1:{port}", token_file=token_file):
            begun.result()
    said = capfd.readouterr().err
    assert 1 <= said.count("waiting for it, trying again") <= 3, "each reason once"
    assert "connected with the syncer" in said


def test_a_run_that_is_over_is_no_error(scripted, token_file) -> None:
    syncer = scripted(POLICY)
    model = model_of_two()

    def refuse() -> None:
        syncer.wait_for(Join)
        syncer.send(Refused(code="over", reason="the run is over"))

    with ThreadPoolExecutor(1) as other:
        refused = other.submit(refuse)
        optimizer = torch.optim.SGD(model.parameters())
        with skerry.Learner(model, optimizer, syncer=syncer.address, token_file=token_file) as learner:
            assert learner.done
        refused.result()


def test_another_layout_is_refused(scripted, token_file) -> None:
    syncer = scripted(POLICY)
    model = model_of_two()

    def refuse() -> None:
        syncer.wait_for(Join)
        syncer.send(Refused(code="layout", reason="your model's parameters differ"))

    with ThreadPoolExecutor(1) as other:
        refused = other.submit(refuse)
        with pytest.raises(RefusedError, match="parameters differ"):
            skerry.Learner(model, torch.optim.SGD(model.parameters()), syncer=syncer.address, token_file=token_file).__enter__()
        refused.result()
