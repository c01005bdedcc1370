"""Who may open a connection: the run's token, proved by both sides without being sent.

    client: Hello -> server: Challenge -> client: Proof -> server: Greeting, or Refused and the connection ends

A proof is HMAC-SHA256 with the token over the prover's side and the two nonce-bearing messages exactly as they went over
the wire, so it covers role, run and session and fits no other connection. The client proves first: a stranger gets no
proof to guess tokens against. Without TLS, what follows the handshake is neither secret nor protected from change.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skerry import __version__
from skerry.core.messages import Refused
from skerry.errors import ConfigError, ProtocolError, RefusedError
from skerry.fabric.messages import Challenge, Greeting, Hello, Proof, Side
from skerry.fabric.wire import Frame, VersionError

if TYPE_CHECKING:
    from skerry.fabric.connection import Connection

NONCE = 32  # bytes
SHORTEST_TOKEN = 16  # characters


@dataclass(frozen=True)
class Token:
    """The run's secret. It is never shown, logged or sent."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < SHORTEST_TOKEN:
            raise ConfigError(f"the run's token is shorter than {SHORTEST_TOKEN} characters", remedy=_MAKE_ONE)

    @staticmethod
    def read(path: str | Path) -> Token:
        """The content of a file, without the white space around it. Raises ConfigError."""
        try:
            return Token(Path(path).read_bytes().strip())
        except OSError as error:
            raise ConfigError(f"the token file {path} cannot be read: {error.strerror}", remedy=_MAKE_ONE) from error
        except ConfigError as error:
            raise ConfigError(f"the token in {path} is shorter than {SHORTEST_TOKEN} characters", remedy=_MAKE_ONE) from error

    def proof(self, side: Side, hello: bytes, challenge: bytes) -> bytes:
        """What `side` proves with. `hello`, `challenge`: the encoded messages without frame headers."""
        text = b"skerry 1 " + side.encode() + hashlib.sha256(hello).digest() + hashlib.sha256(challenge).digest()
        return hmac.digest(self.secret, text, "sha256")


_MAKE_ONE = "give the syncer's token file, or make one: openssl rand -hex 32 > FILE"


class Denied(Exception):
    """The server does not let this client in; `refused` is told to it."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.refused = Refused(code=code, reason=reason)


async def ask_in(connection: Connection, token: Token, hello: Hello) -> Greeting:
    """The client's side. Raises RefusedError; ProtocolError or ConnectionError if the server does not keep to it."""
    sent = connection.send(hello)
    try:
        challenge = _expect(connection, await connection.read(), Challenge)
        connection.send(Proof(mac=token.proof("client", sent, challenge.raw)))
        greeting: Greeting = _expect(connection, await connection.read(), Greeting).message
    except VersionError as error:
        raise RefusedError(f"the syncer at {connection.peer}: {error.message}", code="version", remedy=error.remedy) from error
    if not hmac.compare_digest(greeting.mac, token.proof("server", sent, challenge.raw)):
        raise RefusedError(f"the syncer at {connection.peer} does not know this run's token", code="token",
                           remedy=REMEDIES["token"])  # fmt: skip
    return greeting


async def let_in(connection: Connection, token: Token, run: str) -> tuple[Hello, bytes]:
    """The server's side, up to the Greeting, whose proof is returned beside the client's Hello. Raises Denied;
    ProtocolError or ConnectionError if the client does not keep to it."""
    try:
        first = _expect(connection, await connection.read(), Hello)
    except VersionError as error:
        raise Denied("version", f"the syncer speaks another protocol version ({error.message})") from error
    hello: Hello = first.message
    if len(hello.nonce) != NONCE:
        raise ProtocolError(f"a nonce of {len(hello.nonce)} bytes instead of {NONCE}")
    challenge = connection.send(Challenge(nonce=secrets.token_bytes(NONCE)))
    answer: Proof = _expect(connection, await connection.read(), Proof).message
    if not hmac.compare_digest(answer.mac, token.proof("client", first.raw, challenge)):
        raise Denied("token", "the token is not this run's")
    if hello.run and hello.run != run:
        raise Denied("run", f"this is run {run}, not {hello.run}")
    return hello, token.proof("server", first.raw, challenge)


def hello(role: str, *, run: str = "", session: str = "") -> Hello:
    """A Hello with a fresh nonce."""
    return Hello(role=role, run=run, session=session, nonce=secrets.token_bytes(NONCE), software=f"skerry {__version__}")  # type: ignore[arg-type]


REMEDIES = {
    "version": "install the same release of skerry on both sides",
    "token": "use the token file of the run you want to join (the syncer prints its path)",
    "run": "join that run as a new learner, or resume the syncer from its snapshot",
    "session": "connect again",
    "layout": "build the same model as the run's first learner",
    "over": "the run has ended; start another, or resume it with a larger budget",
    "superseded": "give each learner an id of its own",
    "protocol": "install the same release of skerry on both sides; if it is the same, report this",
}


def refused_error(refused: Refused, peer: str) -> RefusedError:
    """What the peer's Refused means to the user."""
    return RefusedError(f"{peer} refused us: {refused.reason}", code=refused.code, remedy=REMEDIES.get(refused.code, ""))


def _expect(connection: Connection, frame: Frame, cls: type[Any]) -> Frame:
    if isinstance(frame.message, Refused):
        raise refused_error(frame.message, f"the syncer at {connection.peer}")
    if not isinstance(frame.message, cls):
        raise ProtocolError(f"a {type(frame.message).__name__} where the handshake wants a {cls.__name__}")
    return frame
