"""What may stand in the fields of a message that has come: ranges of numbers, lengths of texts and lists.

Rules: a field's range follows from its type; what differs from that stands in the tables here, by the field's name. So a new
message is checked by itself. Whether a number makes sense to this run (a version that exists, a clock that can be) is for
whoever knows the run. What the receiver sets is empty on the wire.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, TypeAlias

from skerry.core.messages import Count
from skerry.errors import ProtocolError
from skerry.fabric.address import Endpoint

LARGEST = (1 << 53) - 1  # of ids, generations, steps, versions, counters, sizes: what every language's numbers can hold
LONGEST_LIST = 1 << 20  # entries: fragments, features, addresses
LONGEST_NAME = 256  # characters of a name, a code, a hash
LONGEST_TEXT = 1 << 14  # of what people read
LONGEST_BYTES = 64  # of nonces and proofs

AT_LEAST = {"bases": -1, "holds": -1, "Verdict.step": -1}  # whole numbers are 0 or more; and -1, where that is the default
AT_MOST = {"lowest": 0xFFFF, "highest": 0xFFFF, "port": 0xFFFF}
BETWEEN = {"progress": (0.0, 1.0), "heartbeat": (0.01, 3600.0)}  # other floats: finite
TEXTS = {"reason": LONGEST_TEXT, "policy": 1 << 22, "text": 1 << 22}  # characters; a message has no more bytes than that
EMPTY = frozenset({"flaw", "norms"})  # set by the receiver that screened the body

Fits: TypeAlias = Callable[[Any], bool]
_FINITE = (-1.7976931348623157e308, 1.7976931348623157e308)


def checker(cls: type[Any]) -> Callable[[Any], None]:
    """A function that raises ProtocolError if a message of that class has a field which cannot be."""
    name = cls.__name__
    checks = [(field.name, fits) for field in dataclasses.fields(cls) if (fits := _of_field(cls, field)) is not None]

    def check(message: Any) -> None:
        for field, fits in checks:
            value = getattr(message, field)
            if not fits(value):
                raise ProtocolError(f"a {name} with {field} {_shown(value)}, which cannot be")

    return check


def whole(number: int) -> bool:
    """Whether it may be a body's number or length."""
    return 0 <= number <= LARGEST


def _of_field(cls: type[Any], field: dataclasses.Field[Any]) -> Fits | None:
    """What its value must keep; None: nothing beyond its type."""
    name, hint = field.name, typing.get_type_hints(cls)[field.name]
    if name in EMPTY:
        return lambda value: not value
    default = min(field.default, 0) if type(field.default) is int else 0
    low = AT_LEAST.get(f"{cls.__name__}.{name}", AT_LEAST.get(name, default))
    return _of_type(hint, name, low, AT_MOST.get(name, LARGEST))


def _of_type(hint: Any, name: str, low: int, high: int) -> Fits | None:
    arguments = typing.get_args(hint)
    if hint is int:
        return lambda value: low <= value <= high
    if hint is Count:
        return lambda count: min(count) >= 0 and max(count) <= LARGEST
    if hint is str:
        longest = TEXTS.get(name, LONGEST_NAME)
        return lambda text: len(text) <= longest
    if hint is bytes:
        return lambda data: len(data) <= LONGEST_BYTES
    if hint is float:
        least, most = BETWEEN.get(name, _FINITE)
        return lambda value: least <= value <= most  # NaN is in no range
    if hint is Endpoint:
        return lambda end: len(end.kind) <= LONGEST_NAME and len(end.host) <= LONGEST_NAME and 0 < end.port <= AT_MOST["port"]
    if type(None) in arguments:
        one = _of_type(arguments[0], name, low, high)
        assert one is not None, f"{name}: {hint} is checked by nothing"
        return lambda value: value is None or one(value)
    if typing.get_origin(hint) is tuple:
        each = _of_type(arguments[0], name, low, high)
        assert each is not None and arguments[1:] == (...,), f"{name}: {hint} is checked by nothing"
        return lambda values: len(values) <= LONGEST_LIST and all(map(each, values))
    assert hint is bool or typing.get_origin(hint) is typing.Literal, f"{name}: {hint} is checked by nothing"
    return None


def _shown(value: Any) -> str:
    """In few words."""
    if isinstance(value, str | bytes | tuple) and len(value) > 20:
        return f"of length {len(value)}"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
