"""TOML in and out for any tree of dataclasses: strict on the way in, whole on the way out.

Rules: a table is a dataclass, a key one of its fields; an unknown key is an error that names it and what is allowed there;
a value of the wrong type is an error that names the key. What a file does not name stays as it was. Values that are None
are left out of what is written (TOML has no null).
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import tomli_w

from skerry.errors import ConfigError, StorageError

T = TypeVar("T")
_WANTED = {bool: "true or false", int: "a whole number", float: "a number", str: 'text in "quotes"', Path: 'a path in "quotes"'}


def read(path: Path) -> dict[str, Any]:
    """The file's tables and keys. Raises ConfigError if it cannot be read or is no TOML."""
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", remedy="name a TOML file that is there") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}", remedy="correct that place") from error


def write(path: Path, config: Any, head: str = "") -> None:
    """The whole tree, as `filled` reads it back. `head`: comments above it. Raises StorageError."""
    try:
        path.write_text(head + tomli_w.dumps(plain(config)))
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}", remedy="free space there, or name another folder") \
            from error  # fmt: skip


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


def filled(base: T, tables: dict[str, Any], source: str, prefix: str = "") -> T:
    """`base` (a dataclass) with what `tables` names changed, validated anew. `source` names the file in errors.

    Raises ConfigError for unknown keys and wrong types, and whatever the dataclasses raise.
    """
    known = {field.name: field for field in fields(base)}  # type: ignore[arg-type]
    hints = get_type_hints(type(base))
    changes: dict[str, Any] = {}
    for key, value in tables.items():
        if key not in known:
            where = f"[{prefix.rstrip('.')}]" if prefix else "the top level"
            raise ConfigError(f"{source}: unknown key {prefix}{key} = {value!r}",
                              remedy=f"allowed in {where} are {', '.join(known)}")  # fmt: skip
        present = getattr(base, key)
        part = present if is_dataclass(present) else _optional_part(hints[key])
        if part is not None:
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {prefix}{key} is a table", remedy=f"write [{prefix}{key}]")
            changes[key] = filled(part, value, source, f"{prefix}{key}.")
        else:
            changes[key] = _converted(value, hints[key], f"{source}: {prefix}{key}")
    return replace(base, **changes)  # type: ignore[type-var]


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


def default(field: Field[Any]) -> Any:
    """A field's default value; MISSING if it has none."""
    return field.default_factory() if field.default_factory is not MISSING else field.default
