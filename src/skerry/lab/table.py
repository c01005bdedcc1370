"""What came of a sweep as a table for people and as CSV for programs.

Rules: a row of the table is a configuration (all its seeds), best first; a row of the CSV is a run, in the sweep's order;
what went wrong in a run stands in its row.
A loss that is no number counts as infinite: a configuration that diverged under one seed is worst, not left out.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from skerry.config.tree import flat
from skerry.lab.sweep import Cell

_HEAD = ("configuration", "seeds", "eval loss", "+-", "to best", "goodput", "contributors")
MOST_LOST = 0.5
"""Share of the tokens."""
BY_DESIGN = "overlap"
"""What is overwritten by the global model counts as lost, but not as trouble."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run that is asked for and what came of it: the JSON of `skerry lab`."""

    cell: Cell
    key: str
    result: dict[str, Any]

    @property
    def loss(self) -> float:
        """The last evaluation."""
        value = self.result["eval_loss"]
        return math.inf if value is None else float(value)


def groups(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """By configuration, in the sweep's order."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.cell.label, []).append(outcome)
    return found


def trouble(result: Mapping[str, Any]) -> str:
    """Why a run is not worth what its loss says: nothing was merged, or most of it lost; empty if neither."""
    tokens = result["tokens"]
    lost = {cause: count / tokens["processed"] for cause, count in tokens["lost"].items() if count and cause != BY_DESIGN}
    if result["rounds"] and sum(lost.values()) <= MOST_LOST:
        return ""
    said = "" if result["rounds"] else "no round was merged; "
    causes = ", ".join(f"{100 * share:.0f} % {cause}" for cause, share in sorted(lost.items(), key=lambda one: -one[1]))
    return f"{said}tokens lost: {causes or 'none'}"


def table(outcomes: Sequence[Outcome]) -> str:
    """One line a configuration. +- is the standard deviation over the seeds, `to best` the distance from the first line."""
    means = {label: fmean(one.loss for one in group) for label, group in groups(outcomes).items()}
    best = min(means.values(), default=math.nan)
    rows = [_HEAD]
    for label, group in sorted(groups(outcomes).items(), key=lambda item: means[item[0]]):
        spread = f"{stdev(one.loss for one in group):.4f}" if len(group) > 1 and math.isfinite(means[label]) else "-"
        rows.append((label, str(len(group)), _loss(means[label]), spread, _loss(means[label] - best),
                     _mean(group, "goodput", "{:.3f}"), _mean(group, "mean_contributors", "{:.2f}")))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(text.rjust(width) if i else text.ljust(width)
                       for i, (text, width) in enumerate(zip(row, widths, strict=True))) for row in rows]  # fmt: skip
    wrong = [f"! {one.cell.label}, seed {one.cell.seed}: {said}" for one in outcomes if (said := trouble(one.result))]
    return "\n".join([*lines, *wrong])


def rows_csv(outcomes: Sequence[Outcome]) -> str:
    """One line a run: what it is, what varied, and every figure."""
    rows = []
    for outcome in outcomes:
        figures = {name: value for name, value in flat(outcome.result).items()
                   if not name.startswith("config.") and not isinstance(value, list | dict)}  # fmt: skip
        rows.append({"label": outcome.cell.label, "seed": outcome.cell.seed, **outcome.cell.varied, **figures,
                     "key": outcome.key})  # fmt: skip
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*(name for name in columns if name != "key"), "key"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _loss(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "diverged"


def _mean(group: Sequence[Outcome], name: str, form: str) -> str:
    values = [one.result[name] for one in group if one.result[name] is not None]
    return form.format(fmean(values)) if values else "-"
