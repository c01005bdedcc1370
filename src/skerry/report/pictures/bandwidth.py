"""The picture of `skerry simulate bandwidth`: time computing and traffic over the links' bandwidth."""

from __future__ import annotations

import math
from typing import Any

from skerry.report.pictures.canvas import COLOURS, SMALL, TITLE, canvas, png

DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (9, 2)), (0, (1, 4)), (0, (5, 1, 1, 1, 1, 1)), (0, (9, 2, 1, 2)))
"""Of the lines, by latency: there are no more latencies than these."""


def picture(about: str, rows: list[dict[str, Any]], demand: list[dict[str, Any]]) -> bytes:
    """Of the command's rows. Raises ConfigError without matplotlib."""
    figure, (left, right) = canvas(f"Links between sites: {about}", panels=2, size=(12, 5))
    names = [line["method"] for line in demand]
    latencies = sorted({row["latency_s"] for row in rows})
    for name, colour in zip(names, COLOURS, strict=False):
        left.plot([], [], color=colour, label=name)
        for i, latency in enumerate(latencies):
            line: dict[str, Any] = {"color": colour, "linestyle": DASHES[i]}
            own = [row for row in rows if row["method"] == name and row["latency_s"] == latency]
            over = [row["bandwidth_gbit"] for row in own]
            left.loglog(over, [100 * row["utilisation"] for row in own], **line)
            right.loglog(over, [max(row["up_gbit"], row["down_gbit"]) for row in own], **line)
            if name == "decoupled":
                left.loglog(over, [100 * row["rounds"] for row in own], linewidth=0.8, alpha=0.6, **line)
        right.axhline(max(demand[names.index(name)][key] for key in ("peak_up_gbit", "peak_down_gbit")) or math.nan,
                      color=colour, linewidth=0.8, alpha=0.6, linestyle=(0, (1, 3)))  # fmt: skip
    left.set_title("Share of time computing, and of decoupled's rounds that are carried, %", **TITLE)
    left.set_ylim(bottom=1)
    right.set_title("Traffic of a site, busier direction: average; dotted: its peak unhindered, Gbit/s", **TITLE)
    left.plot([], [], color=COLOURS[names.index("decoupled")], linewidth=0.8, alpha=0.6, label="decoupled's rounds")
    for i, latency in enumerate(latencies):
        right.plot([], [], color="#7f7f7f", linestyle=DASHES[i], label=f"{1000 * latency:g} ms")
    for axes, title in ((left, "method"), (right, "latency")):
        axes.set_xlabel("bandwidth of a site's link, Gbit/s")
        axes.legend(title=title, title_fontsize=8, **SMALL)
    return png(figure)
