"""Where a syncer listens, and how long to wait before trying it again."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
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

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost counts as reachable from elsewhere."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def backoff(rng: random.Random, *, first: float = 0.1, cap: float = 10.0) -> Iterator[float]:
    """Seconds to wait before each further attempt: doubling up to `cap`, each drawn from its upper half, so that learners
    that lost the same syncer do not come back all at once."""
    bound = first
    while True:
        yield rng.uniform(bound / 2, bound)
        bound = min(bound * 2, cap)


def _bad(text: str) -> ConfigError:
    return ConfigError(f"{text!r} is no address", remedy="write host:port, with an IPv6 address [::1]:port")
