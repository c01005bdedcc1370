"""What a sweep asks for: a file of seeds, a base, a grid and single runs, and the runs they come to.

    name = "outer"          seeds = [0, 1]          [base] method = "decoupled"     policy.steps = 1000
    [grid] "policy.outer_lr" = [0.6, 0.8]           [[runs]] label = "late"         policy.grace = 0.0

Rules: every one of `runs` (or the base alone, if there is none) x every combination of the grid x every seed is a run. A
key stands in one of grid and runs, and goes over the base. What keys and values mean is not known here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from skerry.config.tree import Values, flat, one_name
from skerry.errors import ConfigError

_KEYS = ("name", "seeds", "base", "grid", "runs")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run that is asked for. `label`: the same for every seed. `varied`: what sets it apart from the base."""

    label: str
    seed: int
    values: Values
    varied: Values


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep's file, read. Raises ConfigError naming `source` where it cannot be one."""

    source: str
    name: str
    seeds: tuple[int, ...] = (0,)
    base: Values = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    runs: dict[str, Values] = field(default_factory=dict)

    @staticmethod
    def read(tables: dict[str, Any], source: str, short: Mapping[str, str] | None = None) -> Sweep:
        """From what the TOML file says. `short`: other names of keys, and the keys."""
        for key, value in tables.items():
            if key not in _KEYS:
                raise ConfigError(f"{source}: unknown key {key} = {value!r}", remedy=f"allowed are {', '.join(_KEYS)}")
        names = short or {}
        base, grid = (one_name(flat(_table(tables, part, source)), names, f"{source}: [{part}]") for part in ("base", "grid"))
        return Sweep(source=source, name=tables.get("name", ""), seeds=_seeds(tables.get("seeds", [0]), source),
                     base=base, grid=grid, runs=_runs(tables.get("runs", []), names, source))  # fmt: skip

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ConfigError(f"{self.source}: name = {self.name!r} cannot be a file's", remedy='give one like name = "outer"')
        for key, values in self.grid.items():
            if not isinstance(values, list) or not values:
                raise ConfigError(f"{self.source}: [grid] {key} = {values!r}", remedy="give a list of one value or more")
            if any(value in values[:i] for i, value in enumerate(values)):
                raise ConfigError(f"{self.source}: [grid] {key} = {values!r} has a value twice", remedy="name each once")
        for label, own in self.runs.items():
            for key in own.keys() & self.grid.keys():
                raise ConfigError(f"{self.source}: {key} is in [grid] and in run {label!r}", remedy="leave it out of one")
        parts: list[Values] = [self.base, self.grid, *self.runs.values()]
        for part in parts:
            if "seed" in part:
                raise ConfigError(f"{self.source}: seed = {part['seed']!r} is not for a part of a sweep",
                                  remedy="write seeds = [0, 1] at the top")  # fmt: skip

    def cells(self) -> Iterator[Cell]:
        """Every run, in the order of the file; the seeds of one configuration together."""
        for label, own in (self.runs or {"": {}}).items():
            for combination in product(*self.grid.values()):
                varied = {**own, **dict(zip(self.grid, combination, strict=True))}
                words = [label, *(f"{self.short(key)}={_word(varied[key])}" for key in self.grid)]
                for seed in self.seeds:
                    yield Cell(label=" ".join(filter(None, words)) or self.name, seed=seed,
                               values={**self.base, **varied}, varied=varied)  # fmt: skip

    def short(self, key: str) -> str:
        """The last part of the grid's key, where that is enough to know it."""
        last = Counter(key.rpartition(".")[2] for key in self.grid)
        return key.rpartition(".")[2] if last[key.rpartition(".")[2]] == 1 else key


def _table(tables: dict[str, Any], key: str, source: str) -> dict[str, Any]:
    value = tables.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: {key} = {value!r} is no table", remedy=f"write [{key}]")
    return value


def _seeds(value: Any, source: str) -> tuple[int, ...]:
    whole = isinstance(value, list) and value and all(type(seed) is int and seed >= 0 for seed in value)
    if not whole or len(set(value)) != len(value):
        raise ConfigError(f"{source}: seeds = {value!r}", remedy="give a list of different whole numbers, like [0, 1, 2]")
    return tuple(value)


def _runs(value: Any, short: Mapping[str, str], source: str) -> dict[str, Values]:
    runs: dict[str, Values] = {}
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ConfigError(f"{source}: runs = {value!r} are no tables", remedy="write [[runs]] for each")
    for one in value:
        values = flat(one)
        label = values.pop("label", None)
        if not isinstance(label, str) or not label.strip() or label in runs:
            raise ConfigError(f"{source}: [[runs]] label = {label!r}", remedy="give each run a label, and another one to each")
        runs[label] = one_name(values, short, f"{source}: run {label!r}")
    return runs


def _word(value: Any) -> str:
    return ",".join(map(_word, value)) if isinstance(value, list) else str(value)
