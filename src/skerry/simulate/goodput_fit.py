"""Fits the model's free times (mean return, shrink stall, grow stall) to given goodputs: least squares.

By Levenberg and Marquardt over the logarithms of the times, slopes by differences. Every reckoning meets the same draws, so
the sum of squares is nearly smooth in the times. A time that starts at 0 stays 0; one that no given figure depends on stays
as it is and is said to be undetermined.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from skerry.config.amounts import count
from skerry.errors import ConfigError
from skerry.simulate.goodput import Job, Kind
from skerry.simulate.returns import Array

TIMES = ("mean_return", "shrink", "grow")
COLUMNS = ("chips", "learners", "kind", "goodput")
MOST_STEPS = 20
_SLOPE = 0.05  # of the logarithms: small steps would show the draws' roughness instead
_LIMIT = 1.0  # a step changes no time by more than a factor e
Reckoner = Callable[[Sequence[Job]], Sequence[float]]
"""The goodput of each job, with the same draws each time."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A given figure."""

    chips: int
    learners: int
    kind: Kind
    goodput: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What came of it. `goodputs`: of the targets, in their order."""

    job: Job  # with the fitted times
    goodputs: tuple[float, ...]
    undetermined: tuple[str, ...]
    steps: int

    @property
    def times(self) -> dict[str, float]:
        """The fitted times in seconds."""
        return _times(self.job)


def fit(targets: Sequence[Target], start: Job, reckoner: Reckoner) -> Fit:
    """Start from the times of `start`, which also has everything that is not fitted. Raises ConfigError."""
    free = [name for name, value in _times(start).items() if value > 0]
    if not targets or not free:
        raise ConfigError("there is nothing to fit", remedy="give figures, and at least one time above 0 to start from")
    given = np.array([target.goodput for target in targets])

    def residuals(*points: Array) -> Array:
        """A row a point, a column a target."""
        jobs = [_at(_with(start, free, point), target) for point in points for target in targets]
        found: Array = np.array(reckoner(jobs)).reshape(len(points), -1) - given
        return found

    point = np.log([_times(start)[name] for name in free])
    now, damping, steps = residuals(point)[0], 1e-2, 0
    determined = np.zeros(len(free), bool)
    while steps < MOST_STEPS and damping < 1e4:
        steps += 1
        slopes = (residuals(*(point + _SLOPE * np.eye(len(free)))) - now).T / _SLOPE
        determined |= np.abs(slopes).max(axis=0) > 1e-9
        better = None
        while better is None and damping < 1e4:
            squares = slopes.T @ slopes
            step = -np.linalg.solve(squares + damping * np.diag(np.diag(squares)) + 1e-12 * np.eye(len(free)), slopes.T @ now)
            step = np.clip(step, -_LIMIT, _LIMIT)
            then = residuals(point + step)[0]
            if then @ then < now @ now:
                better = then
                damping /= 5
            else:
                damping *= 5
        if better is None:
            break
        gain, point, now = 1 - (better @ better) / (now @ now), point + step, better
        if gain < 1e-4 or math.sqrt(now @ now / len(now)) < 1e-6:
            break
    return Fit(job=_with(start, free, point), goodputs=tuple((now + given).tolist()), steps=steps,
               undetermined=tuple(name for name, sure in zip(free, determined, strict=True) if not sure))  # fmt: skip


def _times(job: Job) -> dict[str, float]:
    return dict(zip(TIMES, (job.returns.mean, job.shrink, job.grow), strict=True))


def _with(start: Job, free: Sequence[str], point: Array) -> Job:
    times = _times(start) | dict(zip(free, np.exp(point).tolist(), strict=True))
    return replace(start, returns=replace(start.returns, mean=times["mean_return"]), shrink=times["shrink"], grow=times["grow"])


def _at(job: Job, target: Target) -> Job:
    return replace(job, chips=target.chips, learners=target.learners, kind=target.kind)


def targets(path: Path) -> list[Target]:
    """The given figures. Raises ConfigError naming the line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", remedy="name a CSV file with --fit") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text: {error}", remedy="name a CSV file with --fit") from error
    reader = csv.DictReader(io.StringIO(text))
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ConfigError(f"{path}: no column {missing[0]!r}", remedy=f"its first line has to name {', '.join(COLUMNS)}")
    found = [_target(line, f"{path}, line {reader.line_num}: ") for line in reader]
    if not found:
        raise ConfigError(f"{path} holds no figures", remedy="give a line for each below the names")
    return found


def _target(line: dict[str, Any], where: str) -> Target:
    values = {name: (line[name] or "").strip() for name in COLUMNS}
    try:
        goodput = float(values["goodput"])
    except ValueError:
        goodput = -1.0
    if not 0 < goodput <= 1:
        raise ConfigError(f"{where}goodput = {values['goodput']!r} cannot work",
                          remedy="give a share above 0, at most 1, like 0.88")  # fmt: skip
    chips, learners = (count(f"{where}{name}", values[name]) for name in ("chips", "learners"))
    try:
        job = Job(chips=chips, learners=learners, kind=values["kind"])  # type: ignore[arg-type]
    except ConfigError as error:
        raise ConfigError(f"{where}{error.message}", remedy=error.remedy) from error
    return Target(chips=job.chips, learners=job.learners, kind=job.kind, goodput=goodput)
