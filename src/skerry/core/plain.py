"""A core's state as plain JSON-able values, and back. Exact: what `dump` gives, `load` makes equal again.

Rule: what a class annotates in its body is its state; every other attribute follows from that, or is somebody else's. Integers
of any size survive: those beyond 64 bits travel as text, for formats that know no longer ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

Make = Callable[[Any], Any]
_LONG = 1 << 63


def dump(thing: object) -> dict[str, Any]:
    """The state of an object."""
    kind: Any = type(thing)
    return {name: plain(getattr(thing, name)) for name in fields(kind)}


def load(thing: object, state: dict[str, Any]) -> None:
    """Give an object the state that `dump` gave of another one."""
    kind: Any = type(thing)
    for name, make in fields(kind).items():
        setattr(thing, name, make(state[name]))


def plain(value: Any) -> Any:
    """Dictionaries become lists of pairs, in their order; sets are sorted."""
    kind = type(value)
    if kind is int:
        return value if -_LONG <= value < _LONG else str(value)
    if value is None or kind in (float, bool, str):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return [[plain(key), plain(item)] for key, item in value.items()]
    if isinstance(value, set):
        return sorted(plain(item) for item in value)
    return dump(value)


@cache
def fields(kind: Any) -> dict[str, Make]:
    """The names of a class' state, and what makes each of plain values."""
    return {name: _maker(hint) for name, hint in get_type_hints(kind).items()}


def _maker(hint: Any) -> Make:
    origin, args = get_origin(hint), get_args(hint)
    if origin is UnionType:  # only with None
        (inner,) = (_maker(arg) for arg in args if arg is not NoneType)
        return lambda value: None if value is None else inner(value)
    if origin is dict:
        key, item = map(_maker, args)
        return lambda pairs: {key(k): item(v) for k, v in pairs}
    if origin in (list, set):
        each = _maker(args[0])
        return lambda values: origin(each(value) for value in values)
    if origin is tuple and args[1:] == (Ellipsis,):
        each = _maker(args[0])
        return lambda values: tuple(each(value) for value in values)
    if origin is tuple:
        makers = [_maker(arg) for arg in args]
        return lambda values: tuple(make(value) for make, value in zip(makers, values, strict=True))
    if is_dataclass(hint):
        kind = cast(Callable[..., Any], hint)
        return lambda state: kind(**{name: make(state[name]) for name, make in fields(kind).items()})
    if isinstance(hint, type) and issubclass(hint, tuple):  # a NamedTuple
        makers = list(fields(hint).values())
        return lambda values: hint(*(make(value) for make, value in zip(makers, values, strict=True)))
    if isinstance(hint, type) and issubclass(hint, Enum | int | float):
        return hint
    return lambda value: value
