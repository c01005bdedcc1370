"""The picture of a sweep: loss over tokens for each configuration; a heat map beside it, if the grid has two numeric axes.

Rules: the line is the mean over the seeds, the band reaches from the lowest to the highest; nothing is smoothed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from skerry.lab.sweep import Sweep
from skerry.lab.table import Outcome, groups
from skerry.report.pictures.canvas import COLOURS, SMALL, TITLE, canvas, log_ticks, png, shades

LEGEND = 24
ROOM = 1.2
"""How far above the middle configuration's highest loss the picture reaches."""


def draw(sweep: Sweep, outcomes: Sequence[Outcome]) -> bytes:
    """A PNG. Raises ConfigError if matplotlib is not installed."""
    axes, seeds = _axes(sweep), len(sweep.seeds)
    title = f"{sweep.name}: {len(groups(outcomes))} configurations, {seeds} seed{'s' if seeds > 1 else ''} each"
    figure, panels = canvas(title, size=(15, 6), widths=(3, 2)) if axes else canvas(title, size=(10, 6))
    _curves(panels[0], outcomes)
    if axes:
        _heat(figure, panels[1], axes, outcomes)
    return png(figure)


def _axes(sweep: Sweep) -> tuple[str, str] | None:
    """The grid's two axes, if it has just two, of numbers, and there are no single runs."""
    numeric = all(isinstance(value, int | float) for values in sweep.grid.values() for value in values)
    if len(sweep.grid) != 2 or sweep.runs or not numeric:
        return None
    down, across = sweep.grid
    return down, across


def _curves(axes: Any, outcomes: Sequence[Outcome]) -> None:
    found = groups(outcomes)
    order = sorted(found, key=lambda label: fmean(one.loss for one in found[label]))  # best first, as in the table
    colours = COLOURS if len(order) <= len(COLOURS) else shades(len(order))
    highest, lowest = [], math.inf
    for place, (label, colour) in enumerate(zip(order, colours, strict=False)):
        tokens, losses = _band([one.result["eval_curve"] for one in found[label]])
        mean = losses.mean(axis=0)
        highest.append(np.nanmax(losses, initial=0.0))
        lowest = min(lowest, np.nanmin(losses, initial=math.inf))
        axes.plot(tokens / 1e6, mean, color=colour, linewidth=1.5, marker="o", markersize=2.5,
                  label=f"{label}  {mean[-1]:.3f}" if place < LEGEND else None)  # fmt: skip
        if len(losses) > 1:
            axes.fill_between(tokens / 1e6, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    band = "; mean and range over the seeds" if max(map(len, found.values())) > 1 else ""
    top = ROOM * median(highest)  # of one that diverged, the rest of the curves would be flat
    cut = "; what goes higher is cut off" if max(highest) > top else ""
    axes.set_title(f"Loss of the global model on held-out data{band}{cut}", **TITLE)
    axes.set_xlabel("million tokens processed by all learners")
    axes.set_ylabel("nats per byte")
    axes.set_yscale("log")
    if 0 < lowest < top:
        axes.set_ylim(lowest / 1.02, min(top, 1.02 * max(highest)))
        log_ticks(axes.yaxis, *axes.get_ylim())
    axes.legend(title=None if len(order) <= LEGEND else f"the best {LEGEND} of {len(order)}", title_fontsize=8, **SMALL)


def _band(curves: Sequence[Any]) -> tuple[Any, Any]:
    """The first seed's token counts, and every seed's losses there (what lies between two evaluations: on a line)."""
    tokens = np.array([point[1] for point in curves[0]], float)
    rows = []
    for curve in curves:
        losses = [math.nan if point[3] is None else point[3] for point in curve]
        rows.append(np.interp(tokens, [point[1] for point in curve], losses))
    return tokens, np.array(rows)


def _heat(figure: Any, axes: Any, names: tuple[str, str], outcomes: Sequence[Outcome]) -> None:
    values = [sorted({one.cell.values[name] for one in outcomes}) for name in names]
    losses = np.full((len(values[0]), len(values[1])), np.nan)
    for group in groups(outcomes).values():
        place = tuple(values[i].index(group[0].cell.values[name]) for i, name in enumerate(names))
        losses[place] = fmean(one.loss for one in group)
    losses[~np.isfinite(losses)] = np.nan
    image = axes.imshow(losses, cmap="viridis_r", aspect="auto", origin="lower")
    middle = np.nanmean([np.nanmin(losses), np.nanmax(losses)]) if np.isfinite(losses).any() else 0.0
    for (row, column), loss in np.ndenumerate(losses):
        text = f"{loss:.3f}" if math.isfinite(loss) else "-"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if loss > middle else "black")
    for axis, tick, one, name in zip((axes.yaxis, axes.xaxis), (axes.set_yticks, axes.set_xticks), values, names, strict=True):
        axis.set_label_text(name)
        tick(range(len(one)), [f"{value:g}" for value in one])
    axes.grid(False)
    axes.set_title("Last loss, mean over the seeds", **TITLE)
    figure.colorbar(image, ax=axes, label="nats per byte")
