"""The pictures of `skerry simulate goodput`: shares over the size of the fleet, reckoned or fitted to given ones."""

from __future__ import annotations

import math
from typing import Any

from skerry.report.pictures.canvas import SMALL, TITLE, canvas, png, shades

MOST_TICKS = 8
FIXED: dict[str, dict[str, Any]] = {
    "rigid": {"color": "#d55e00", "marker": "s", "markersize": 3.5, "linestyle": "--", "capsize": 2},
    "elastic": {"color": "#e69f00", "linewidth": 7, "alpha": 0.4},
}


def way(row: dict[str, Any]) -> str:
    """What a row is called: by its kind, or how many learners."""
    return f"M = {row['learners']}" if row["kind"] == "decoupled" else row["kind"]


def picture(about: str, rows: list[dict[str, Any]]) -> bytes:
    figure, panels = canvas("Goodput and uptime of a fleet whose chips fail", panels=2, size=(12, 5))
    for axes, value, ci in zip(panels, ("goodput", "uptime"), ("ci", "uptime_ci"), strict=True):
        for name, style in _styles(rows).items():
            own = list({row["chips"]: row for row in rows if way(row) == name}.values())
            own.sort(key=lambda row: row["chips"])
            axes.errorbar([row["chips"] for row in own], [100 * row[value] for row in own],
                          yerr=[100 * (row[ci] or 0) for row in own], label=name, **style)  # fmt: skip
        _chips_across(axes, rows)
    panels[0].set_title(f"Goodput, %: {about}", fontsize=8, loc="left")
    panels[1].set_title("Uptime, %: some learner trains", **TITLE)
    panels[0].legend(**SMALL)
    return png(figure)


def _styles(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How each job is drawn: decoupled ones by shade, from few learners to many; elastic wide and pale, since it is M = 1."""
    names = list(dict.fromkeys(map(way, sorted(rows, key=lambda row: (row["kind"] == "decoupled", row["learners"])))))
    many = [name for name in names if name not in FIXED]
    own = {name: {"color": shade, "marker": "o", "markersize": 3.5, "capsize": 2}
           for name, shade in zip(many, shades(len(many)), strict=True)}  # fmt: skip
    return {name: FIXED.get(name) or own[name] for name in names}


def _chips_across(axes: Any, rows: list[dict[str, Any]]) -> None:
    sizes = sorted({row["chips"] for row in rows})
    apart = sizes[:: math.ceil(len(sizes) / MOST_TICKS)]
    axes.set_xscale("log")
    axes.set_xticks(apart, [f"{size / 1e6:.4g}M" if size >= 1e6 else f"{size / 1e3:.4g}k" for size in apart])
    axes.minorticks_off()
    axes.set_xlabel("chips")
    axes.set_ylim(0, 102)


def fit_picture(rows: list[dict[str, Any]]) -> bytes:
    figure, (axes,) = canvas("Goodput: given (crosses) and fitted (lines)", size=(8, 5))
    for name, style in _styles(rows).items():
        own = sorted((row for row in rows if way(row) == name), key=lambda row: row["chips"])
        colour = style["color"]
        chips = [row["chips"] for row in own]
        axes.plot(chips, [100 * row["goodput"] for row in own], "o-", markersize=3, color=colour, label=name)
        axes.plot(chips, [100 * row["given"] for row in own], "x", markersize=9, color=colour)
    _chips_across(axes, rows)
    axes.set_ylabel("goodput, %")
    axes.legend(**SMALL)
    return png(figure)
