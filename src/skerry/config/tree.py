"""One tree of frozen dataclasses for a configuration, and how its views are laid over each other.

    Job(policy=Policy(steps=500))                     Python
    [policy]  steps = 500                             TOML (toml.py)
    {"policy.steps": 500}                             values by dotted key: what flags and KEY=VALUE come to

Rules: later layers go over earlier ones, key by key, before anything is checked; then the tree is filled and checked once.
A key has one name: `SHORT` has others for it, and both in one layer are an error. A kind of tree says where its values
start from and what follows from them; nothing else changes a value.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias, TypeVar

import tomli_w

from skerry.config.toml import filled, plain
from skerry.errors import ConfigError, StorageError

Tables: TypeAlias = dict[str, Any]
"""Nested: {"policy": {"steps": 500}}."""
Values: TypeAlias = dict[str, Any]
"""By dotted key: {"policy.steps": 500}."""
Layer: TypeAlias = tuple[str, Mapping[str, Any]]
"""Where values come from (for errors), and the values, as tables or by dotted key."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What a configuration derives from to be loaded."""

    SHORT: ClassVar[Mapping[str, str]] = {}
    """Other names of keys, and the keys."""
    BEGIN: ClassVar[tuple[str, ...]] = ()
    """Keys that only `begin` reads."""

    @classmethod
    def begin(cls, given: Values) -> Self:
        """What the given values go over."""
        return cls()

    def settled(self, given: Values) -> Self:
        """With what follows from the given values."""
        return self

    def tables(self) -> Tables:
        """All of it, to be loaded again."""
        return plain(self)

    def write(self, path: Path, head: str = "") -> None:
        """As TOML. `head`: comments above it. Raises StorageError."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(head + tomli_w.dumps(self.tables()))
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror}", remedy="free space there, or name another folder") \
                from error  # fmt: skip


T = TypeVar("T", bound=Tree)


def load(kind: type[T], *layers: Layer) -> T:
    """The tree of these layers. Raises ConfigError naming the layer, the key and its value."""
    given: Values = {}
    sources: dict[str, str] = {}
    for source, tables in layers:
        values = one_name(flat(tables), kind.SHORT, source)
        given.update(values)
        sources.update(dict.fromkeys(values, source))

    def source_of(key: str) -> str:
        return next((source for name, source in sources.items() if f"{name}.".startswith(f"{key}.")), "")

    rest = {key: value for key, value in given.items() if key not in kind.BEGIN}
    return filled(kind.begin(given), nested(rest), source_of).settled(given)


def flat(tables: Mapping[str, Any], prefix: str = "") -> Values:
    """Tables as dotted keys. An empty table is a value."""
    values: Values = {}
    for key, value in tables.items():
        inner = isinstance(value, Mapping) and value
        values.update(flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value})
    return values


def nested(values: Values) -> Tables:
    """Dotted keys as tables. Raises ConfigError where a key is a value and a table at once."""
    tables: Tables = {}
    for name, value in values.items():
        *parts, last = name.split(".")
        inner = tables
        for part in parts:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{name}: {part} is a value already", remedy="give one of the two")
        if isinstance(inner.get(last), dict) and value != {}:
            raise ConfigError(f"{name} = {value!r}, but it is a table", remedy="give one of the two")
        inner.setdefault(last, {} if value == {} else value)
    return tables


def one_name(values: Values, short: Mapping[str, str], source: str) -> Values:
    """Each key under its one name."""
    for key in values.keys() & short.keys():
        if short[key] in values:
            raise ConfigError(f"{source}: {key} = {values[key]!r} and {short[key]} = {values[short[key]]!r} are one key",
                              remedy="give it once")  # fmt: skip
    return {short.get(key, key): value for key, value in values.items()}


def assigned(texts: Iterable[str]) -> Values:
    """Of "policy.steps=500" ...: each value as TOML has it, or text as it stands."""
    values: Values = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals):
            raise ConfigError(f"--set {text!r} is not KEY=VALUE", remedy="write it like --set policy.outer_lr=0.6")
        try:
            values[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            values[name] = value
    return values
