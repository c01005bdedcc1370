"""Where a run may be found: addresses, those a learner tries in turn, and how long to wait before the next attempt."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from skerry.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Address:
    """Host name or IP address, and port."""

    host: str
    port: int

    @staticmethod
    def parse(text: str) -> Address:
        """From "host:port" or "[IPv6]:port". Raises ConfigError."""
        host, colon, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise _bad(text)
        if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise _bad(text)
        return Address(host, int(port))

    @staticmethod
    def parse_list(text: str) -> tuple[Address, ...]:
        """One or more, separated by commas. Raises ConfigError."""
        return tuple(Address.parse(part) for part in text.split(","))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost counts as reachable from elsewhere."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def everywhere(self) -> bool:
        """Whether it stands for all of a machine's addresses: one can listen there, but not connect to it from elsewhere."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return not self.host


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address and what is there. A kind that the reader does not know is none of its business."""

    kind: str  # "syncer"
    host: str
    port: int


class Addresses:
    """Where a learner looks for its run: as `configured`, and where its syncer told it last. Tried in turn, those that are
    configured first; after a link the one that was good comes first. `fixed`: what the syncer told is not tried."""

    def __init__(self, configured: str, *, fixed: bool = False) -> None:
        self._fixed = fixed
        self.configured = Address.parse_list(configured)
        self._known = list(dict.fromkeys(self.configured))
        self._turn = 0

    def next(self) -> Address:
        """The one to try now."""
        address = self._known[self._turn % len(self._known)]
        self._turn += 1
        return address

    def good(self, address: Address, told: Iterable[Endpoint]) -> None:
        """A link was made there, and these were told on it."""
        heard = [Address(each.host, each.port) for each in told if each.kind == "syncer" and not self._fixed]
        self._known = list(dict.fromkeys([*self.configured, address, *heard]))
        self._turn = self._known.index(address)


def backoff(rng: random.Random, *, first: float = 0.1, cap: float = 10.0) -> Iterator[float]:
    """Seconds to wait before each further attempt: doubling up to `cap`, each drawn from its upper half, so that learners
    that lost the same syncer do not come back all at once."""
    bound = first
    while True:
        yield rng.uniform(bound / 2, bound)
        bound = min(bound * 2, cap)


def _bad(text: str) -> ConfigError:
    return ConfigError(f"{text!r} is no address", remedy="write host:port, with an IPv6 address [::1]:port")
