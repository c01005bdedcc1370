"""An operator lets a quarantined learner in again, and nobody else may."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from skerry.cli import main
from skerry.core.messages import Quarantined
from skerry.core.policy import Policy
from skerry.errors import RefusedError
from skerry.fabric.client import ask_readmit, ask_status
from skerry.fabric.messages import Answer
from skerry.fabric.tokens import Identity, Token
from support import puppet
from support.puppet import Puppet, running, small_layout, train, until

POLICY = Policy(fragments=2, interval=4, grace=0.0, silent_after=30.0, quarantine_after=1)
LAYOUT = small_layout(POLICY)


def test_a_quarantined_learner_is_let_in_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def play() -> None:
        async with running(tmp_path / "run", POLICY) as server:
            assert await ask_readmit(server.address, 0, token=puppet.TOKEN) == Answer(
                done=False, text="there is no learner 0 in this run")
            bad, good = Puppet(POLICY, LAYOUT, seed=0), Puppet(POLICY, LAYOUT, seed=1)
            for each in (bad, good):
                await each.join(server.address)
            await until(lambda: bad.begun and good.begun)
            assert not (await ask_readmit(server.address, 0, token=puppet.TOKEN)).done
            bad.spoil = lambda fragment, copy: copy.fill(float("nan"))
            await train([bad, good], lambda: bad.all(Quarantined))
            bad.spoil = lambda fragment, copy: None
            command = ["readmit", server.address, "0", "--token-file", str(tmp_path / "run.token")]
            assert await asyncio.to_thread(main, command) == 0
            await until(lambda: len(bad.all(Quarantined)) == 2)
            assert bad.all(Quarantined)[1].reason == ""
            assert await asyncio.to_thread(main, command) == 2
            command[2] = "7"
            assert await asyncio.to_thread(main, command) == 2

    asyncio.run(play())
    said = capsys.readouterr()
    assert "learner 0 is let in again" in said.out
    assert "learner 0 is not in quarantine; skerry status shows" in said.err
    assert "there is no learner 7 in this run; skerry status shows" in said.err


def test_an_observer_may_only_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eye = Token(b"the-secret-of-an-observer", Identity(name="eye", roles=frozenset({"observer"})))
    monkeypatch.setattr(puppet, "TOKEN", Token(b"skerry-token eye observer the-secret-of-an-observer\n"))

    async def play() -> None:
        async with running(tmp_path / "run", POLICY) as server:
            assert "phase" in await ask_status(server.address, token=eye)
            with pytest.raises(RefusedError, match="the token eye is for observer, not for operator"):
                await ask_readmit(server.address, 0, token=eye)

    asyncio.run(play())


def test_no_such_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["readmit", str(tmp_path), "0"]) == 6
    assert "holds no run that is going on" in capsys.readouterr().err
    assert main(["readmit", str(tmp_path), "-1"]) == 2
