"""What travels besides the core's vocabulary, and the table of everything that may travel.

Rules: a kind's number is never reused. A bulk message travels on the bulk connection and has a body; every other message
travels on the control connection and has none. What a side gets that the table does not give to the link's role ends the
link. Hello and Refused keep their form in every version: fields are only added. docs/protocol.md describes all of it (a
test compares).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from skerry.core import messages as core
from skerry.fabric.address import Endpoint

Role = Literal["learner", "observer", "standby", "plane", "aggregator"]
Side = Literal["client", "server"]
ROLES: tuple[Role, ...] = get_args(Role)


# ---------------------------------------------------------------- handshake


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The client's first message on a connection. What an older one leaves out has these defaults."""

    role: str  # a Role; or "bulk": the second connection of a learner's session
    run: str = ""  # the run it belongs to; "" = whichever this is
    session: str = ""  # role "bulk": the session that the control connection's Greeting named
    nonce: bytes  # 32 fresh random bytes
    software: str = ""  # name and release, for logs
    lowest: int = 1  # versions of the protocol that it speaks
    highest: int = 1
    features: tuple[str, ...] = ()  # what it can do beyond the version
    identity: str = "run"  # name of the token that it proves
    learner: int = -1  # role "learner": the id that it wants; -1 = any


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """The server's answer to Hello."""

    nonce: bytes  # 32 fresh random bytes
    version: int  # the highest that both speak: of every frame from here on
    features: tuple[str, ...] = ()  # those that both have


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The client knows the token's secret."""

    mac: bytes  # 32 bytes; Token.proof( "client", ...)


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """The server knows the secret, too; the connection is open. A refused client gets the core's Refused instead."""

    mac: bytes  # 32 bytes; Token.proof( "server", ...)
    run: str
    session: str = ""  # role "learner": what its bulk connection names
    policy: str = ""  # the run's policy as JSON text
    heartbeat: float = 1.0  # seconds: a learner sends a Report at least so often
    addresses: tuple[Endpoint, ...] = ()  # where else the run may be found


# ---------------------------------------------------------------- bodies


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A part of a body that a message announced (bulk: these bytes of it)."""

    body: int  # the number that it was announced under
    offset: int  # bytes


# ---------------------------------------------------------------- beside the core


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutText:
    """The layout of the sender's model (bulk: UTF-8 JSON {"layout": Layout.to_json's object, "aliases": {other name of a tied
    tensor: its name in the layout}, "config": the user's description of the model}). A learner sends it on every new link,
    beside its Join. A syncer that has no layout yet takes the first one that comes, and keeps a Join waiting for it."""

    hash: str  # Layout.hash of the layout in the body


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """How a learner fares, for display and metrics; no decision hangs on it. Times are microseconds."""

    learner: int
    generation: int
    median_step_us: int
    max_gap_us: int  # longest time between two step hooks
    max_hook_us: int
    hook_us: int  # sum over all steps
    span_us: int  # from the first step hook to the last
    loss: float | None = None
    pid_trainer: int = 0
    pid_agent: int = 0
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRequest:
    """An observer asks how the run fares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusText:
    """The answer: a JSON object as text (docs/protocol.md)."""

    text: str


LEARNERS: frozenset[Role] = frozenset({"learner"})
OBSERVERS: frozenset[Role] = frozenset({"learner", "observer"})
EVERYBODY: frozenset[Role] = frozenset(ROLES)
NOBODY: frozenset[Role] = frozenset()  # of the handshake: on no link


class Kind(NamedTuple):
    """What may travel: its number in the frame's header, its class, who may send it, whether it has a bulk body, and on the
    links of which roles."""

    number: int
    cls: type[Any]
    sender: Side | Literal["both"]
    bulk: bool = False
    roles: frozenset[Role] = LEARNERS


KINDS: tuple[Kind, ...] = (
    Kind(1, Hello, "client", roles=NOBODY),
    Kind(2, Challenge, "server", roles=NOBODY),
    Kind(3, Proof, "client", roles=NOBODY),
    Kind(4, Greeting, "server", roles=NOBODY),
    Kind(5, core.Refused, "server", roles=EVERYBODY),
    Kind(6, Chunk, "both", bulk=True),
    Kind(10, core.Join, "client"),
    Kind(11, LayoutText, "client", bulk=True),
    Kind(12, core.ProvideInitial, "client", bulk=True),
    Kind(13, core.Report, "client"),
    Kind(14, core.Abstain, "client"),
    Kind(15, core.Contribution, "client", bulk=True),
    Kind(16, core.Received, "client"),
    Kind(17, core.TakenOver, "client"),
    Kind(18, core.Leave, "client"),
    Kind(19, Vitals, "client"),
    Kind(20, StatusRequest, "client", roles=OBSERVERS),
    Kind(30, core.Welcome, "server"),
    Kind(31, core.RequestInitial, "server"),
    Kind(32, core.Ask, "server"),
    Kind(33, core.Verdict, "server"),
    Kind(34, core.Cancel, "server"),
    Kind(35, core.Delivery, "server", bulk=True),
    Kind(36, core.BudgetReached, "server"),
    Kind(37, core.RunOver, "server"),
    Kind(38, StatusText, "server", roles=OBSERVERS),
    Kind(39, core.Farewell, "server"),
    Kind(40, core.Quarantined, "server"),
)
BY_NUMBER = {kind.number: kind for kind in KINDS}
BY_CLASS = {kind.cls: kind for kind in KINDS}


def accepted(role: Role, side: Side) -> frozenset[type[Any]]:
    """What `side` of a link of that role takes from the other."""
    return frozenset(kind.cls for kind in KINDS if kind.sender != side and role in kind.roles)
