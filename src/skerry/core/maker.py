"""Makers: what a class makes, made in half the time. For what is made with every event; elsewhere the class itself is called.

A class that is called with keywords first makes a dictionary of them, and a tuple with names is made by a detour, too; a plain
function is not called so. A type checker sees no difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def maker(cls: Callable[P, T]) -> Callable[P, T]:
    """A function that makes what the class makes, of the same arguments. For dataclasses with slots that do nothing more when
    they are made, and for tuples with names."""
    known: dict[str, Any] = {"cls": cls, "new": object.__new__, "new_tuple": tuple.__new__}
    if is_dataclass(cls):
        assert not hasattr(cls, "__post_init__")
        names = [field.name for field in fields(cls)]
        given = [field.name if field.default is MISSING else f"{field.name}=defaults[{field.name!r}]" for field in fields(cls)]
        known["defaults"] = {field.name: field.default for field in fields(cls)}
        sets = "".join(f" made.{name} = {name}\n" for name in names)
        body = f"def make({', '.join(['*', *given] if given else [])}):\n made = new(cls)\n{sets} return made"
    else:
        names = list(cls._fields)  # type: ignore[attr-defined]
        body = f"def make({', '.join(names)}):\n return new_tuple(cls, ({', '.join(names)},))"
    exec(body, known)  # as dataclasses does
    made: Callable[P, T] = known["make"]
    return made
