"""TOML in and out for any tree of dataclasses: strict on the way in, whole on the way out.

Rules: a table is a dataclass, a key one of its fields; an unknown key is an error that names it and what is allowed there;
a value of the wrong type is an error that names the key. What a file does not name stays as it was. Values that are None
are left out of what is written (TOML has no null).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from skerry.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
_WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: 'text in "quotes"', Path: 'a path in "quotes"'}


def read(path: Path) -> dict[str, Any]:
    """The file's tables and keys. Raises ConfigError if it cannot be read or is no TOML."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", remedy="name a TOML file that is there") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}", remedy="correct that place") from error


def plain(config: Any) -> dict[str, Any]:
    """The tree as tables, arrays, strings, numbers and booleans; simple values before tables, as TOML wants them."""
    values = {field.name: _plain(getattr(config, field.name)) for field in fields(config)}
    values = {name: value for name, value in values.items() if value is not None}
    return dict(sorted(values.items(), key=lambda item: isinstance(item[1], dict)))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return plain(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def filled(base: T, tables: Mapping[str, Any], source: Callable[[str], str], prefix: str = "") -> T:
    """`base` with what `tables` names changed, validated anew. `source` names the place of a key's value in errors.

    Raises ConfigError for unknown keys and wrong types, and whatever the dataclasses raise.
    """
    known, hints = [field.name for field in fields(base)], get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in tables.items():
        name = f"{prefix}{key}"
        if key not in known:
            where = f"[{prefix.rstrip('.')}]" if prefix else "the top level"
            raise ConfigError(f"{source(name)}: unknown key {name} = {value!r}",
                              remedy=f"allowed in {where} are {', '.join(known)}")  # fmt: skip
        present = getattr(base, key)
        part: Any = present if is_dataclass(present) else _optional_part(hints[key])
        if part is not None:
            if not isinstance(value, dict):
                raise ConfigError(f"{source(name)}: {name} is a table", remedy=f"write [{name}]")
            changes[key] = filled(part, value, source, f"{name}.")
        else:
            changes[key] = _converted(value, hints[key], f"{source(name)}: {name}")
    return replace(base, **changes)


def _optional_part(hint: Any) -> Any:
    """For a part that may be none: what a table for it starts from; None for any other field."""
    kind = next((kind for kind in get_args(hint) if is_dataclass(kind)), None)
    return kind() if isinstance(kind, type) else None


def _converted(value: Any, hint: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, hint, dec_hook=_path)
    except msgspec.ValidationError as error:
        if get_origin(hint) is Literal:
            raise ConfigError(f"{where} = {value!r} is none that there is",
                              remedy=f"choose one of {', '.join(map(repr, get_args(hint)))}") from error  # fmt: skip
        raise ConfigError(f"{where} = {value!r} has the wrong type", remedy=f"give {_wanted(hint)}") from error


def _wanted(hint: Any) -> str:
    """A type in a reader's words."""
    parts = [part for part in get_args(hint) if part not in (type(None), Ellipsis)]
    if get_origin(hint) in (tuple, list):
        return f"a list, each of it {_wanted(parts[0])}"
    return " or ".join(map(_wanted, parts)) or _WANTED.get(hint, "another")


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError  # so msgspec wants to be told that a type is none that it is helped with
