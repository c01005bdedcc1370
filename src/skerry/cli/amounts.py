"""Amounts as people write them on a command line: 150k chips, 1y, several apart by commas.

Rule: whatever cannot be read is a ConfigError that names the option, its value and what is allowed.
"""

from __future__ import annotations

import math
import re

from skerry.errors import cannot_work

_TIMES = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "y": 365 * 86400.0}
_COUNTS = {"": 1, "k": 10**3, "M": 10**6}
_AMOUNT = re.compile(r"(?P<number>[+-]?[0-9.]+(?:e[+-]?[0-9]+)?)\s*(?P<unit>[A-Za-z]*)")


def counts(name: str, text: str) -> list[int]:
    """Whole numbers apart by commas, k for thousand and M for million: "150k,1.2M"."""
    return [_count(name, text, piece) for piece in listed(name, text)]


def _count(name: str, text: str, piece: str) -> int:
    allowed = 'give whole numbers, 1 or more, like "8" or "150k,1.2M" (k: thousand, M: million)'
    value = _read(name, text, piece, _COUNTS, allowed)
    if not 1 <= value < 2**53 or value != round(value):
        raise cannot_work(name, text, allowed)
    return round(value)


def seconds(name: str, text: str, *, zero: bool = True) -> float:
    """A span of time: "77s", "1y". `zero`: whether it may be 0."""
    allowed = f'give {"0 or more" if zero else "more than 0"} with its unit, like "77s" or "1y" (units: ms, s, min, h, d, y)'
    value = 0.0 if text.strip() == "0" else _read(name, text, text.strip(), _TIMES, allowed)
    if not 0 <= value < math.inf or not (zero or value):
        raise cannot_work(name, text, allowed)
    return value


def listed(name: str, text: str) -> list[str]:
    """What stands between the commas, each once."""
    pieces = list(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    if not pieces:
        raise cannot_work(name, text, "give at least one")
    return pieces


def _read(name: str, text: str, piece: str, units: dict[str, float] | dict[str, int], allowed: str) -> float:
    found = _AMOUNT.fullmatch(piece)
    if found is None or found["unit"] not in units:
        raise cannot_work(name, text, allowed)
    try:
        return float(f"{float(found['number']) * units[found['unit']]:.15g}")  # 1.2M is a whole number
    except ValueError:
        raise cannot_work(name, text, allowed) from None
