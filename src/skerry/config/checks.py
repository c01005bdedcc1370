"""What a value may be: the checks that many dataclasses share. Each looks at fields of `of`, by name, and raises ConfigError
for the first that cannot work; `where` goes before its name."""

from __future__ import annotations

import math
from typing import Any, get_args

from skerry.errors import cannot_work


def whole(of: object, *names: str, least: int = 1, where: str = "") -> None:
    """Whole numbers, `least` or more."""
    for name in names:
        value = getattr(of, name)
        if not isinstance(value, int) or value < least:
            raise cannot_work(f"{where}{name}", value, f"give a whole number, {least} or more")


def positive(of: object, *names: str, where: str = "") -> None:
    """Finite numbers above 0."""
    for name in names:
        if not 0 < getattr(of, name) < math.inf:
            raise cannot_work(f"{where}{name}", getattr(of, name), "give a number above 0")


def not_negative(of: object, *names: str, where: str = "") -> None:
    """Finite numbers, 0 or more."""
    for name in names:
        if not 0 <= getattr(of, name) < math.inf:
            raise cannot_work(f"{where}{name}", getattr(of, name), "give 0 or more")


def share(of: object, *names: str, where: str = "", zero: bool = True) -> None:
    """Numbers from 0 (or, without `zero`, above it) to 1."""
    for name in names:
        if not 0 <= getattr(of, name) <= 1 or not (zero or getattr(of, name)):
            raise cannot_work(f"{where}{name}", getattr(of, name), "give a share, 0 to 1" if zero else
                              "give a share, above 0 and at most 1")  # fmt: skip


def one_of(of: object, name: str, kind: Any, where: str = "") -> None:
    """Choices of a Literal type."""
    if getattr(of, name) not in get_args(kind):
        raise cannot_work(f"{where}{name}", getattr(of, name), f"choose one of {', '.join(get_args(kind))}")
