"""Who may open a connection, and what both sides agree on: version and features, and a token proved without being sent.

    client: Hello -> server: Challenge -> client: Proof -> server: Greeting, or Refused and the connection ends

A proof is HMAC-SHA256 with the token's secret over the prover's side and the two nonce-bearing messages exactly as they went
over the wire, so it covers identity, role, version, features, run and session and fits no other connection. The client
proves first: a stranger gets no proof to guess secrets against, and does not learn which names there are. Without TLS, what
follows the handshake is neither secret nor protected from change.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Set
from typing import TYPE_CHECKING, Any, NamedTuple

from skerry import __version__
from skerry.codecs import CODECS
from skerry.core.messages import Refused
from skerry.errors import ProtocolError, RefusedError
from skerry.fabric.messages import ROLES, Challenge, Greeting, Hello, Proof, Role, accepted
from skerry.fabric.tokens import Identity, Keyring, Token
from skerry.fabric.wire import SPOKEN, Frame, VersionError, span

if TYPE_CHECKING:
    from skerry.fabric.connection import Connection

NONCE = 32  # bytes
FEATURES = frozenset(f"codec:{name}" for name in CODECS)
SERVED = frozenset(role for role in ROLES if accepted(role, "server"))
"""Roles that a syncer has an ear for."""


class Denied(Exception):
    """The server does not let this client in; `refused` is told to it."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.refused = Refused(code=code, reason=reason)


class Agreement(NamedTuple):
    """What a client comes away with: what it was told, and the features that both sides have."""

    greeting: Greeting
    features: frozenset[str]


class Arrival(NamedTuple):
    """Whom a server has let in. `mac`: its own proof, for the Greeting. `role`: None for a learner's bulk connection."""

    hello: Hello
    role: Role | None
    identity: Identity
    features: frozenset[str]
    mac: bytes


async def ask_in(connection: Connection, token: Token, hello: Hello) -> Agreement:
    """The client's side. Raises RefusedError; ProtocolError or ConnectionError if the server does not keep to it."""
    sent = connection.send(hello)
    try:
        first = _expect(connection, await connection.read(), Challenge)
        challenge: Challenge = first.message
        if challenge.version not in SPOKEN or not FEATURES.issuperset(challenge.features):
            raise ProtocolError(f"version {challenge.version} and features {challenge.features}, which were not offered")
        connection.speak(challenge.version)
        connection.send(Proof(mac=token.proof("client", challenge.version, sent, first.raw)))
        greeting: Greeting = _expect(connection, await connection.read(), Greeting).message
    except VersionError as error:
        raise RefusedError(f"the syncer at {connection.peer}: {error.message}", code="version", remedy=error.remedy) from error
    if not hmac.compare_digest(greeting.mac, token.proof("server", challenge.version, sent, first.raw)):
        raise RefusedError(f"the syncer at {connection.peer} does not know this run's token", code="token",
                           remedy=REMEDIES["token"])  # fmt: skip
    return Agreement(greeting, frozenset(challenge.features))


async def let_in(connection: Connection, keyring: Keyring, run: str, needs: Set[str]) -> Arrival:
    """The server's side, up to the Greeting. `needs`: features that a learner must have. Raises Denied; ProtocolError or
    ConnectionError if the client does not keep to it."""
    first = _expect(connection, await connection.read(), Hello)
    hello: Hello = first.message
    version = common_version(hello)
    if version is None:
        connection.speak(first.version)  # the client's own, so that it can read why
        raise Denied("version", f"the syncer speaks {span(SPOKEN[0], SPOKEN[-1])} of the protocol, "
                                f"you {span(hello.lowest, hello.highest)}")  # fmt: skip
    connection.speak(version)
    if len(hello.nonce) != NONCE:
        raise ProtocolError(f"a nonce of {len(hello.nonce)} bytes instead of {NONCE}")
    features = FEATURES.intersection(hello.features)
    challenge = Challenge(nonce=secrets.token_bytes(NONCE), version=version, features=tuple(sorted(features)))
    raw = connection.send(challenge)
    answer: Proof = _expect(connection, await connection.read(), Proof).message
    token = keyring.find(hello.identity)
    if not hmac.compare_digest(answer.mac, token.proof("client", version, first.raw, raw)):
        raise Denied("token", "the token is not this run's")
    if hello.run and hello.run != run:
        raise Denied("run", f"this is run {run}, not {hello.run}")
    role = None if hello.role == "bulk" else _role(hello, token.identity)
    if role == "learner" and (lacking := needs - features):
        raise Denied("feature", f"this run needs {_list(lacking)}; what both sides have is {_list(features) or 'nothing'}")
    return Arrival(hello, role, token.identity, features, token.proof("server", version, first.raw, raw))


def hello(role: Role | str, identity: Identity, *, run: str = "", session: str = "", learner: int = -1) -> Hello:
    """A Hello with a fresh nonce."""
    return Hello(role=role, identity=identity.name, run=run, session=session, learner=learner, lowest=SPOKEN[0],
                 highest=SPOKEN[-1], features=tuple(sorted(FEATURES)), nonce=secrets.token_bytes(NONCE),
                 software=f"skerry {__version__}")  # fmt: skip


def common_version(hello: Hello) -> int | None:
    """The highest version that both sides speak."""
    highest = min(hello.highest, SPOKEN[-1])
    return highest if highest >= max(hello.lowest, SPOKEN[0]) else None


def codec_features(*names: str) -> frozenset[str]:
    """The features that stand for these codecs."""
    return frozenset(f"codec:{name}" for name in names)


REMEDIES = {
    "version": "install the same release of skerry on both sides",
    "token": "use the token file of the run you want to join (the syncer prints its path)",
    "role": "use a token that is for it, or another syncer",
    "identity": "join as the learner that the token is for, or with another token",
    "feature": "install the same release of skerry on both sides",
    "run": "join that run as a new learner, or resume the syncer from its snapshot",
    "session": "connect again",
    "layout": "build the same model as the run's first learner",
    "over": "the run has ended; start another, or resume it with a larger budget",
    "full": "join as a learner that the run knows, or raise syncer.max_learners and resume the run",
    "superseded": "give each learner an id of its own",
    "protocol": "install the same release of skerry on both sides; if it is the same, report this",
}


def refused_error(refused: Refused, peer: str) -> RefusedError:
    """What the peer's Refused means to the user."""
    return RefusedError(f"{peer} refused us: {refused.reason}", code=refused.code, remedy=REMEDIES.get(refused.code, ""))


def _role(hello: Hello, identity: Identity) -> Role:
    """The role that the client asks for, if it may have it. Raises Denied."""
    if hello.role not in SERVED:
        raise Denied("role", f"this syncer takes no {hello.role if hello.role in ROLES else 'such role'}")
    role: Role = hello.role
    if role not in identity.roles:
        raise Denied("role", f"the token {identity.name} is for {_list(identity.roles)}, not for {role}")
    if role == "learner" and not identity.allows_learner(hello.learner):
        raise Denied("identity", identity.only)
    return role


def _list(words: Set[str]) -> str:
    return ", ".join(sorted(words))


def _expect(connection: Connection, frame: Frame, cls: type[Any]) -> Frame:
    if isinstance(frame.message, Refused):
        raise refused_error(frame.message, f"the syncer at {connection.peer}")
    if not isinstance(frame.message, cls):
        raise ProtocolError(f"a {type(frame.message).__name__} where the handshake wants a {cls.__name__}")
    return frame
