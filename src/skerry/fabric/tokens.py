"""Tokens: a name, what it may be, and a secret that proves it. A token file holds either

    the secret alone                              token "run": any learner, an observer, or an operator
    skerry-token NAME ROLES SECRET                one a line; ROLES: learner, learner=ID, observer, ... with commas between

Rules: a secret is never shown, logged or sent. A syncer reads a whole file; who joins reads one that holds a single token.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from skerry.errors import ConfigError
from skerry.fabric.messages import ROLES, Role, Side

SHORTEST_SECRET = 16  # characters
LONGEST_NAME = 64
_MARK = "skerry-token"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whose token it is. `learner`: the only learner that it may be; -1: any."""

    name: str = "run"
    roles: frozenset[Role] = frozenset({"learner", "observer", "operator"})
    learner: int = -1

    def __post_init__(self) -> None:
        if not 0 < len(self.name) <= LONGEST_NAME:
            raise ConfigError(f"the name of a token has {len(self.name)} characters", remedy=f"give 1 to {LONGEST_NAME}")

    def allows_learner(self, learner: int) -> bool:
        """Whether it may join under that id (-1: any that is free)."""
        return "learner" in self.roles and self.learner in (-1, learner)

    @property
    def only(self) -> str:
        """In words, where it may not be the learner that it wanted to be."""
        return f"the token {self.name} is for {'no learner' if self.learner < 0 else f'learner {self.learner} alone'}"


@dataclass(frozen=True)
class Token:
    """A secret, and who knows it."""

    secret: bytes = field(repr=False)
    identity: Identity = Identity()

    def __post_init__(self) -> None:
        if len(self.secret) < SHORTEST_SECRET:
            raise ConfigError(f"the run's token is shorter than {SHORTEST_SECRET} characters", remedy=_MAKE_ONE)

    @staticmethod
    def read(path: str | Path) -> Token:
        """The one in a file. Raises ConfigError."""
        tokens = _read(Path(path))
        if len(tokens) != 1:
            raise ConfigError(f"the token file {path} holds {len(tokens)} tokens",
                              remedy="give a file with one of its lines alone")  # fmt: skip
        return tokens[0]

    def proof(self, side: Side, version: int, hello: bytes, challenge: bytes) -> bytes:
        """What `side` proves with. `hello`, `challenge`: the encoded messages without frame headers."""
        digests = hashlib.sha256(hello).digest() + hashlib.sha256(challenge).digest()
        return hmac.digest(self.secret, f"skerry {version} {side}".encode() + digests, "sha256")


class Keyring:
    """The tokens that a server knows."""

    def __init__(self, *tokens: Token) -> None:
        """Raises ConfigError: two of one name."""
        self._tokens = {token.identity.name: token for token in tokens}
        if len(self._tokens) < len(tokens):
            raise ConfigError("two tokens have the same name", remedy="give each a name of its own")
        self._stranger = Token(secrets.token_bytes(32), Identity(name="nobody", roles=frozenset()))

    @staticmethod
    def read(path: str | Path) -> Keyring:
        """All those in a file. Raises ConfigError."""
        return Keyring(*_read(Path(path)))

    def find(self, name: str) -> Token:
        """The token of that name. If there is none: one that nobody knows, so that both end alike and take the same time."""
        return self._tokens.get(name, self._stranger)


_MAKE_ONE = "give the syncer's token file, or make one: openssl rand -hex 32 > FILE"


def _read(path: Path) -> list[Token]:
    try:
        content = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"the token file {path} cannot be read: {error.strerror}", remedy=_MAKE_ONE) from error
    try:
        if content.startswith(f"{_MARK} ".encode()):
            return [_parse(line) for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
        return [Token(content)]
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", remedy=error.remedy) from error


def _parse(line: str) -> Token:
    """One line. What it says is not repeated in an error: it may hold a secret."""
    words = line.split()
    if len(words) != 4 or words[0] != _MARK:
        raise ConfigError("a line that is no token", remedy=f"write {_MARK} NAME ROLES SECRET")
    _, name, may, secret = words
    learner, roles = -1, set()
    for part in may.split(","):
        role, fixed, number = part.partition("=")
        if role not in ROLES or role in roles or (fixed and not (role == "learner" and number.isascii() and number.isdigit())):
            raise ConfigError(f"the token {name} is for {part!r}, which is no role",
                              remedy=f"choose from {', '.join(ROLES)}, learner=ID")  # fmt: skip
        roles.add(role)
        learner = int(number) if number else learner
    return Token(secret.encode(), Identity(name=name, roles=frozenset(roles), learner=learner))
