"""Amounts as people write them on a command line: 150k chips, 12B parameters, 1y, several apart by commas or spaces.

Rule: whatever cannot be read is a ConfigError that names the option, its value and what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from skerry.errors import cannot_work

TIMES = {"ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "y": 365 * 86400.0}
"""The units of times, in seconds, wherever people write one."""
_COUNTS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_AMOUNT = re.compile(r"(?P<number>[+-]?[0-9.]+(?:e[+-]?[0-9]+)?)\s*(?P<unit>[A-Za-z]*)")


def count(name: str, text: str) -> int:
    """A whole number, 1 or more: "8", "1.2M"."""
    allowed = 'give a whole number, 1 or more, like "8" or "1.2M" (k: thousand, M: million, B: 1e9, T: 1e12)'
    value = _read(name, text, text.strip(), _COUNTS, allowed)
    if not 1 <= value < 1e18 or value != round(value):
        raise cannot_work(name, text, allowed)
    return round(value)


def number(name: str, text: str) -> float:
    """Any: "0.5", "1.2M"."""
    allowed = 'give a number like "0.5" or "1.2M" (k: thousand, M: million, B: 1e9, T: 1e12)'
    return _read(name, text, text.strip(), _COUNTS, allowed)


def seconds(name: str, text: str, *, zero: bool = True, bare: bool = False) -> float:
    """A span of time: "77s", "1y". `zero`: whether it may be 0; `bare`: whether a number alone is seconds."""
    units, least = ", ".join(TIMES), "0 or more" if zero else "more than 0"
    allowed = f'give {least} with its unit, like "77s" or "1y" (units: {units})'
    value = 0.0 if text.strip() == "0" else _read(name, text, text.strip(), {"": 1.0, **TIMES} if bare else TIMES, allowed)
    if not 0 <= value < math.inf or not (zero or value):
        raise cannot_work(name, text, allowed)
    return value


def listed(name: str, texts: Sequence[str]) -> list[str]:
    """What stands between spaces and commas, each once."""
    pieces = list(dict.fromkeys(filter(None, (piece.strip() for text in texts for piece in text.split(",")))))
    if not pieces:
        raise cannot_work(name, " ".join(texts), "give at least one")
    return pieces


def _read(name: str, text: str, piece: str, units: dict[str, float] | dict[str, int], allowed: str) -> float:
    found = _AMOUNT.fullmatch(piece)
    if found is None or found["unit"] not in units:
        raise cannot_work(name, text, allowed)
    try:
        return float(f"{float(found['number']) * units[found['unit']]:.15g}")  # 1.2M is a whole number
    except ValueError:
        raise cannot_work(name, text, allowed) from None
