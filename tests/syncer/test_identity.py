"""A token says which learner it is for, and the syncer keeps to it after the handshake, too."""

from __future__ import annotations

import asyncio

import pytest

from skerry.core.messages import Join, Refused, Welcome
from skerry.core.policy import Policy
from skerry.errors import RefusedError
from skerry.fabric.client import ask_status, connect
from skerry.fabric.tokens import Identity, Token
from support import puppet
from support.puppet import Raw, running, small_layout, until

POLICY = Policy(fragments=2, interval=4, grace=0.0, silent_after=30.0)
LAYOUT = small_layout(POLICY)
ANNA = Token(b"the-secret-of-learner-3-alone", Identity(name="anna", roles=frozenset({"learner"}), learner=3))
EYE = Token(b"the-secret-of-an-observer", Identity(name="eye", roles=frozenset({"observer"})))
FILE = b"skerry-token anna learner=3 the-secret-of-learner-3-alone\nskerry-token eye observer the-secret-of-an-observer\n"


@pytest.fixture
def scenario(tmp_path, monkeypatch):
    """Runs `play(server)` against a syncer that knows the two tokens."""
    monkeypatch.setattr(puppet, "TOKEN", Token(FILE))  # what `running` writes into the token file

    async def all_of_it(play):
        async with running(tmp_path / "run", POLICY) as server:
            await play(server)

    return lambda play: asyncio.run(all_of_it(play))


async def linked(server, learner: int, token: Token = ANNA) -> Raw:
    raw = Raw(LAYOUT)
    raw.link = await connect(server.address, token=token, handler=raw, learner=learner)
    return raw


@pytest.mark.parametrize("wanted", [4, -1, 0])
def test_a_join_under_an_id_that_the_token_is_not_for_is_refused(scenario, wanted):
    async def play(server):
        liar = await linked(server, 3)
        liar.link.send(Join(learner=wanted, layout=LAYOUT.hash))
        assert await liar.one(Refused) == Refused(code="identity", reason="the token anna is for learner 3 alone")
        await until(lambda: liar.ended)
        assert server.run is None and not server._held

    scenario(play)


def test_each_token_serves_its_purpose_and_no_other(scenario):
    async def play(server):
        learner = await linked(server, 3)
        learner.link.send(Join(learner=3, layout=LAYOUT.hash))
        await learner.tell_layout()
        assert (await learner.one(Welcome)).learner == 3
        assert '"phase"' in await ask_status(server.address, token=EYE)
        with pytest.raises(RefusedError, match=r"the token anna is for learner, not for observer"):
            await ask_status(server.address, token=ANNA)
        with pytest.raises(RefusedError, match=r"the token eye is for observer, not for learner"):
            await linked(server, 3, EYE)
        await learner.end()

    scenario(play)
