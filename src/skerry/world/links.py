"""Links between a learner and the syncer in virtual time: latency, bandwidth, and the order in which bodies go through.

Rules: control messages take the latency alone; bodies go one after the other in each direction, each taking its bytes
over the bandwidth, then the latency. A link is described by "LATENCY" or "LATENCY,BANDWIDTH": "100ms,1Gbit".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from skerry.errors import ConfigError, cannot_work

_LATENCY = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_BANDWIDTH = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "tbit": 1e12}
_PART = re.compile(r"(?P<number>[0-9.]+(?:e[+-]?[0-9]+)?)\s*(?P<unit>[A-Za-z]+(?:/s)?)")
_EXAMPLE = 'write a link like "100ms,1Gbit" (units: us, ms, s; bit, kbit, Mbit, Gbit, Tbit per second)'


@dataclass(frozen=True, kw_only=True)
class Link:
    """`latency`: seconds, one way. `bandwidth`: bit/s in each direction; infinite = bodies take no time of their own.
    Raises ConfigError for a negative latency or a bandwidth that is not positive."""

    latency: float = 0.0
    bandwidth: float = float("inf")

    def __post_init__(self) -> None:
        if not 0 <= self.latency < float("inf"):
            raise cannot_work("link latency", self.latency, "give 0 or more seconds")
        if not self.bandwidth > 0:
            raise cannot_work("link bandwidth", self.bandwidth, "give more than 0 bit/s")

    @staticmethod
    def parse(text: str) -> Link:
        """Read a description; empty text is a link without latency or limit. Raises ConfigError naming the piece."""
        if not text.strip():
            return Link()
        pieces = [piece.strip() for piece in text.split(",")]
        if len(pieces) > 2:
            raise ConfigError(f"link {text!r} has {len(pieces)} parts", remedy=_EXAMPLE)
        latency = _read(text, pieces[0], _LATENCY)
        return Link(latency=latency, bandwidth=_read(text, pieces[1], _BANDWIDTH) if len(pieces) == 2 else float("inf"))

    @staticmethod
    def parse_all(text: str) -> tuple[Link, ...]:
        """Read descriptions parted by ";". Raises ConfigError naming the piece."""
        pieces = text.split(";")
        if len(pieces) > 1 and not all(map(str.strip, pieces)):
            raise ConfigError(f"link {text!r} has an empty part", remedy=_EXAMPLE)
        return tuple(map(Link.parse, pieces))

    def seconds(self, nbytes: int) -> float:
        """How long a body occupies the link."""
        return 8 * nbytes / self.bandwidth


class Pipe:
    """One direction of a link: bodies leave one after the other, and count as they leave. `free`: when all have left."""

    __slots__ = ("_bandwidth", "_taken", "free")

    def __init__(self, link: Link) -> None:
        self.free = 0.0
        self._bandwidth = link.bandwidth
        self._taken = 0

    def send(self, now: float, nbytes: int) -> float:
        """A body is to leave, after those before it; gives when it has left whole."""
        free = self.free
        self.free = free = (free if free > now else now) + 8 * nbytes / self._bandwidth
        self._taken += nbytes
        return free

    def sent(self, now: float) -> int:
        """Bytes that have left by now."""
        behind = self.free - now
        return self._taken - round(behind * self._bandwidth / 8) if behind > 0 else self._taken

    def cut(self, now: float) -> None:
        """Whatever has not left never will."""
        self._taken, self.free = self.sent(now), min(now, self.free)


def _read(text: str, piece: str, units: dict[str, float]) -> float:
    found = _PART.fullmatch(piece)
    unit = found["unit"].lower() if found else ""
    unit = unit.removesuffix("/s") if units is _BANDWIDTH else unit
    if found is None or unit not in units:
        raise ConfigError(f"link {text!r}: cannot read {piece!r}", remedy=_EXAMPLE)
    try:
        return float(found["number"]) * units[unit]
    except ValueError:
        raise ConfigError(f"link {text!r}: {found['number']!r} is no number", remedy=_EXAMPLE) from None
