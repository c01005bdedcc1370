"""What both sides agree on before a link: version, features, role and identity; each refusal says what would do."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import struct
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from skerry.core.messages import Refused
from skerry.errors import RefusedError
from skerry.fabric.address import Endpoint
from skerry.fabric.client import connect
from skerry.fabric.connection import Connection
from skerry.fabric.handshake import FEATURES, SERVED, ask_in, codec_features, common_version, hello
from skerry.fabric.listener import Listener
from skerry.fabric.messages import KINDS, ROLES, Challenge, Hello, Proof, accepted
from skerry.fabric.tokens import Identity, Keyring, Token
from skerry.fabric.wire import SPOKEN, VERSION, Frame, FrameReader, encode

ANNA = Token(b"the secret of learner 3 alone", Identity(name="anna", learner=3))
EYE = Token(b"the secret of an observer", Identity(name="eye", roles=frozenset({"observer"})))
ALL = Token(b"the secret of one who may be all", Identity(name="all", roles=frozenset(ROLES)))


@pytest.fixture
def keyring(fabric: SimpleNamespace) -> Keyring:
    return Keyring(fabric.TOKEN, ANNA, EYE, ALL)


async def opened(listener: Listener) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection("x"), "127.0.0.1", listener.address.port)
    return connection


async def answered(listener: Listener, first: Hello) -> Frame:
    """What a Hello is answered with."""
    connection = await opened(listener)
    connection.send(first)
    frame = await connection.read()
    connection.end("seen", abort=True)
    return frame


# ---------------------------------------------------------------- version


@pytest.mark.parametrize("lowest", range(5))
@pytest.mark.parametrize("highest", range(5))
def test_the_highest_version_that_both_speak_is_chosen(lowest: int, highest: int) -> None:
    both = set(SPOKEN) & set(range(lowest, highest + 1))
    assert common_version(Hello(role="learner", nonce=b"", lowest=lowest, highest=highest)) == max(both, default=None)


@pytest.mark.parametrize(("lowest", "highest"), [(1, VERSION), (VERSION, VERSION), (VERSION, 9), (1, 9)])
def test_who_speaks_others_too_is_answered_in_the_common_one(fabric: SimpleNamespace, lowest: int, highest: int) -> None:
    async def run() -> None:
        async with fabric.listening() as (listener, _):
            frame = await answered(listener, dataclasses.replace(hello("learner", Identity()), lowest=lowest, highest=highest))
            assert isinstance(frame.message, Challenge) and frame.message.version == frame.version == VERSION

    asyncio.run(run())


def test_who_speaks_only_later_versions_is_told_both_ranges_in_a_frame_of_its_own(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.listening() as (listener, host):
            later = dataclasses.replace(hello("learner", Identity()), lowest=VERSION + 1, highest=VERSION + 3)
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
            writer.write(encode(later, version=VERSION + 1))
            answer = await asyncio.wait_for(reader.read(), fabric.PATIENCE)
            writer.close()
            frame = read(answer)
            wanted = f"the syncer speaks version {VERSION} of the protocol, you versions {VERSION + 1} to {VERSION + 3}"
            assert (frame.message, frame.version) == (Refused(code="version", reason=wanted), VERSION + 1)
            assert host.events == [("refused", "version", wanted)]

    asyncio.run(run())


def read(data: bytes) -> Frame:
    reader = FrameReader()
    reader.buffer()[: len(data)] = data
    reader.feed(len(data))
    frame = reader.next()
    assert isinstance(frame, Frame)
    return frame


def version_1(kind: int, fields: dict[str, Any]) -> bytes:
    """A frame as version 1 had it, without the code of today."""
    message = msgspec.msgpack.encode(fields)
    return struct.pack("<4sHHIQ", b"SKRY", 1, kind, len(message), 0) + message


def test_a_learner_of_version_1_is_told_in_a_frame_that_it_can_read(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.listening() as (listener, host):
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.address.port)
            said = {"role": "learner", "run": "", "session": "", "nonce": bytes(32), "software": "skerry 0"}
            writer.write(version_1(1, said))
            answer = await asyncio.wait_for(reader.read(), fabric.PATIENCE)
            writer.close()
            magic, version, kind, length, body = struct.unpack_from("<4sHHIQ", answer)
            assert (magic, version, kind, body, len(answer)) == (b"SKRY", 1, 5, 0, 20 + length)
            heard = msgspec.msgpack.decode(answer[20:])
            assert heard == {"code": "version", "reason": f"the syncer speaks version {VERSION} of the protocol, you version 1"}
            assert host.events[0][:2] == ("refused", "version")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (version_1(5, {"code": "version", "reason": "an old syncer's own words"}), "own words; install the same"),
        (version_1(2, {"nonce": bytes(32)}), f"version 1 of the protocol, this side version {VERSION}; install the same"),
        (encode(Challenge(nonce=bytes(32), version=VERSION), version=VERSION + 7), f"version {VERSION + 7} of the protocol"),
    ],
)
def test_a_server_of_another_version_is_named(fabric: SimpleNamespace, frame: bytes, words: str) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame)
        await reader.read()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(other, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(RefusedError, match=words) as caught:
                await connect(f"127.0.0.1:{port}", token=fabric.TOKEN, handler=fabric.Recorder())
            assert caught.value.code == "version"

    asyncio.run(run())


@pytest.mark.parametrize("challenge", [{"version": 9}, {"version": VERSION, "features": ("codec:made-up",)}])
def test_a_server_that_chooses_what_was_not_offered_is_not_believed(fabric: SimpleNamespace, challenge: dict[str, Any]) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(Challenge(nonce=bytes(32), **challenge)))
        await reader.read()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(other, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(RefusedError, match="not offered"):
                await connect(f"127.0.0.1:{port}", token=fabric.TOKEN, handler=fabric.Recorder())

    asyncio.run(run())


# ---------------------------------------------------------------- features


@pytest.mark.parametrize(
    ("offered", "agreed"),
    [((), ()), (("codec:bf16",), ("codec:bf16",)), (("from the future", "codec:fp32"), ("codec:fp32",)),
     (tuple(FEATURES), tuple(sorted(FEATURES)))],
)  # fmt: skip
def test_the_features_that_both_have_are_agreed_on(fabric: SimpleNamespace, offered: Any, agreed: Any) -> None:
    async def run() -> None:
        async with fabric.listening() as (listener, _):
            first = dataclasses.replace(hello("learner", Identity()), features=offered)
            assert (await answered(listener, first)).message.features == agreed

    asyncio.run(run())


def test_both_ends_of_a_link_know_the_features(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.linked() as pair:
            assert pair.near.features == pair.far.features == FEATURES >= codec_features("fp32", "bf16")

    asyncio.run(run())


async def refusal(listener: Listener, token: Token, first: Hello) -> tuple[str, str]:
    connection = await opened(listener)
    with pytest.raises(RefusedError) as caught:
        await ask_in(connection, token, first)
    connection.end("seen", abort=True)
    return caught.value.code, str(caught.value)


def test_a_learner_without_the_runs_codec_is_refused_with_the_list(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.listening(needs=codec_features("bf16", "int4")) as (listener, _):
            code, words = await refusal(listener, fabric.TOKEN, hello("learner", Identity()))
            assert code == "feature" and "needs codec:int4; what both sides have is codec:bf16, codec:fp32; install" in words
        async with fabric.listening(needs=codec_features("bf16")) as (listener, _):
            poor = dataclasses.replace(hello("learner", Identity()), features=())
            code, words = await refusal(listener, fabric.TOKEN, poor)
            assert code == "feature" and "needs codec:bf16; what both sides have is nothing" in words
            watcher = await opened(listener)  # who moves no bodies needs no codec
            await ask_in(watcher, fabric.TOKEN, dataclasses.replace(hello("observer", Identity()), features=()))
            watcher.end("seen", abort=True)

    asyncio.run(run())


# ---------------------------------------------------------------- role and identity


@pytest.mark.parametrize("token", [Token(b"the run's own, for tests"), ANNA, EYE, ALL], ids=lambda token: token.identity.name)
@pytest.mark.parametrize("role", [*ROLES, "chief", ""])
def test_a_client_is_what_its_token_allows_and_the_syncer_serves(fabric: SimpleNamespace, token: Token, role: str) -> None:
    async def run() -> None:
        async with fabric.listening(keyring=Keyring(token)) as (listener, host):
            first = hello(role, token.identity, learner=3)
            if role in SERVED and role in token.identity.roles:
                connection = await opened(listener)
                assert (await ask_in(connection, token, first)).greeting.run == "run-1"
                connection.end("seen", abort=True)
                return
            code, words = await refusal(listener, token, first)
            assert code == "role"
            if role in SERVED:
                assert f"the token {token.identity.name} is for " in words and f"not for {role}; use a token" in words
            else:
                assert f"this syncer takes no {role if role in ROLES else 'such role'}; " in words
            assert (await host.until("refused", "role"))[2] in words

    asyncio.run(run())


def test_the_roles_that_a_syncer_serves() -> None:
    assert {"learner", "observer", "operator"} == SERVED


@pytest.mark.parametrize("role", ROLES)
def test_what_each_role_may_say(role: Any) -> None:
    said = {kind.cls.__name__ for kind in KINDS if kind.cls in accepted(role, "server")}
    learner = {"Join", "LayoutText", "ProvideInitial", "Report", "Abstain", "Contribution", "Received", "TakenOver", "Leave",
               "Vitals", "StatusRequest", "Chunk", "Ping"}  # fmt: skip
    watching = {"StatusRequest", "Ping"}
    assert said == {"learner": learner, "observer": watching, "operator": watching | {"Readmit"}}.get(role, set())
    heard = {kind.cls.__name__ for kind in KINDS if kind.cls in accepted(role, "client")}
    sent = {kind.cls.__name__ for kind in KINDS if kind.sender != "client"} - {"Challenge", "Greeting", "Answer"}
    watched = {"StatusText", "Refused", "Ping"}
    assert heard == {"learner": sent, "observer": watched, "operator": watched | {"Answer"}}.get(role, {"Refused"})


OBSERVED = [kind for kind in KINDS if kind.sender != "server" and kind.cls not in accepted("observer", "server")]


@pytest.mark.parametrize("kind", OBSERVED, ids=lambda kind: kind.cls.__name__)
def test_an_observer_can_change_nothing(fabric: SimpleNamespace, kind: Any) -> None:
    hints: dict[str, Any] = {"str": "", "int": 1, "bytes": b"", "Count": (0, 0, 0)}
    needed = {f.name: hints[f.type] for f in dataclasses.fields(kind.cls)
              if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}  # fmt: skip

    async def run() -> None:
        async with fabric.listening(keyring=Keyring(EYE)) as (listener, host):
            handler = fabric.Recorder()
            link = await connect(listener.address, token=EYE, handler=handler, role="observer")
            await host.until("opened")
            link._control._write(encode(kind.cls(**needed), 5 if kind.bulk else 0))
            assert f"a {kind.cls.__name__} on the control connection of a observer's link" in (await handler.until("closed"))[1]
            assert not host.handlers[0].said("message") and not host.handlers[0].said("announced")

    asyncio.run(run())


def test_unknown_names_and_wrong_secrets_end_alike(fabric: SimpleNamespace, keyring: Keyring) -> None:
    wrong = [
        Token(b"a guess at anna's secret", ANNA.identity),
        Token(ANNA.secret, Identity(name="someone else")),
        Token(ANNA.secret, EYE.identity),
        Token(ANNA.secret),  # under the name of the run's own
    ]

    async def run() -> None:
        async with fabric.listening(keyring=keyring) as (listener, host):
            for token in wrong:
                assert (await refusal(listener, token, hello("learner", token.identity)))[0] == "token"
            assert {event[1:] for event in host.events} == {("token", "the token is not this run's")}

    asyncio.run(run())


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Hello)])
def test_the_proof_covers_everything_in_hello(fabric: SimpleNamespace, keyring: Keyring, field: str) -> None:
    """What somebody in between changes of it makes the proof wrong."""
    said = hello("learner", fabric.TOKEN.identity, learner=4)
    value = getattr(said, field)
    changed = {"nonce": bytes(32), "features": ("codec:fp32",), "role": "observer", "identity": "all", "lowest": 1}.get(
        field, 7 if isinstance(value, int) else f"{value}x"
    )

    async def run() -> None:
        async with fabric.listening(keyring=keyring) as (listener, _):
            connection = await opened(listener)
            connection.send(dataclasses.replace(said, **{field: changed}))
            challenge = await connection.read()
            meant = encode(said)[20:]
            connection.send(Proof(mac=fabric.TOKEN.proof("client", VERSION, meant, challenge.raw)))
            answer = (await connection.read()).message
            assert isinstance(answer, Refused) and answer.code == "token"
            connection.end("seen", abort=True)

    asyncio.run(run())


@pytest.mark.parametrize("field", ["nonce", "version", "features"])
def test_the_proofs_cover_everything_in_challenge(field: str) -> None:
    challenge = Challenge(nonce=bytes(32), version=2, features=("codec:fp32",))
    other = dataclasses.replace(challenge, **{field: {"nonce": bytes(31), "version": 3, "features": ()}[field]})
    for side in ("client", "server"):
        assert ANNA.proof(side, 2, b"", encode(challenge)[20:]) != ANNA.proof(side, 2, b"", encode(other)[20:])  # type: ignore[arg-type]
    assert ANNA.proof("client", 2, b"", b"") != ANNA.proof("client", 3, b"", b"")


@pytest.mark.parametrize("wanted", [-1, 0, 4])
def test_a_token_for_one_learner_lets_in_no_other(fabric: SimpleNamespace, keyring: Keyring, wanted: int) -> None:
    async def run() -> None:
        async with fabric.listening(keyring=keyring) as (listener, host):
            with pytest.raises(RefusedError, match="the token anna is for learner 3 alone; join as the learner that") as caught:
                await connect(listener.address, token=ANNA, handler=fabric.Recorder(), learner=wanted)
            assert caught.value.code == "identity"
            link = await connect(listener.address, token=ANNA, handler=fabric.Recorder(), learner=3)
            await host.until("opened")
            assert link.identity == host.links[0].identity == ANNA.identity
            assert not host.links[0].identity.allows_learner(4)
            link.close()

    asyncio.run(run())


def test_a_bulk_connection_belongs_to_who_opened_the_session(fabric: SimpleNamespace, keyring: Keyring) -> None:
    async def run() -> None:
        async with fabric.listening(keyring=keyring) as (listener, host):
            control = await opened(listener)
            greeting, _ = await ask_in(control, ANNA, hello("learner", ANNA.identity, learner=3))
            stolen = hello("bulk", fabric.TOKEN.identity, session=greeting.session)
            assert (await refusal(listener, fabric.TOKEN, stolen))[0] == "session"
            bulk = await opened(listener)  # and the attempt has not harmed the session
            await ask_in(bulk, ANNA, hello("bulk", ANNA.identity, session=greeting.session))
            await host.until("opened")
            for connection in (control, bulk):
                connection.end("seen", abort=True)

    asyncio.run(run())


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_learner_is_told_where_its_syncer_listens_unless_that_is_everywhere(fabric: SimpleNamespace, host: str) -> None:
    async def run() -> None:
        async with fabric.listening(host=host, insecure=True) as (listener, _):
            port = listener.address.port
            link = await connect(f"127.0.0.1:{port}", token=fabric.TOKEN, handler=fabric.Recorder())
            there = (Endpoint(kind="syncer", host="127.0.0.1", port=port),)
            assert link.greeting.addresses == (there if host == "127.0.0.1" else ())
            link.close()

    asyncio.run(run())


def test_a_short_nonce_is_an_error(fabric: SimpleNamespace) -> None:
    async def run() -> None:
        async with fabric.listening() as (listener, host):
            connection = await opened(listener)
            connection.send(dataclasses.replace(hello("learner", Identity()), nonce=secrets.token_bytes(31)))
            assert (await host.until("refused", "protocol"))[2] == "a nonce of 31 bytes instead of 32"
            connection.end("seen", abort=True)

    asyncio.run(run())
