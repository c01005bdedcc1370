"""The picture of `skerry simulate scavenging`: time to the budget over the extra compute."""

from __future__ import annotations

from typing import Any

from skerry.report.pictures.canvas import COLOURS, SMALL, TITLE, canvas, png


def picture(about: str, rows: list[dict[str, Any]]) -> bytes:
    """Of the command's rows. Raises ConfigError without matplotlib."""
    figure, (axes,) = canvas("Extra learners that come for parts of the time", size=(8, 5))
    rows = sorted(rows, key=lambda row: row["share"])
    shares = [100 * row["share"] for row in rows]
    for name, colour in zip(("decoupled", "data_parallel"), COLOURS, strict=False):
        axes.plot(shares, [row[name] for row in rows], "o-", color=colour, label=name.replace("_", "-"))
        said = [(100 * row["share"], row[f"published_{name}"]) for row in rows if row.get(f"published_{name}")]
        if said:
            axes.plot(*zip(*said, strict=True), "x", color=colour, markersize=10, label=f"{name.replace('_', '-')}, published")
    axes.axhline(1, color="#7f7f7f", linewidth=0.8)
    axes.set_title(about, **TITLE)
    axes.set_xlabel("extra compute on offer, % of theirs")
    axes.set_ylabel("time to the budget, relative to none")
    axes.set_ylim(bottom=0)
    axes.legend(**SMALL)
    return png(figure)
