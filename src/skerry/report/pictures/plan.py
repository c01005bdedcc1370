"""The picture of a plan: cost against time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skerry.report.pictures.canvas import COLOURS, SMALL, TITLE, canvas, png
from skerry.simulate.advice import front
from skerry.simulate.plan import METHODS, Choice

FAR = 3.0  # times the longest and the dearest choice that could be sensible


def picture(choices: Sequence[Choice], chosen: Choice) -> bytes:
    """A point for each choice. What is so far off that the rest would shrink to a corner is a note in the legend."""
    figure, (axes,) = canvas("Plan: cost against time", size=(9, 6))
    best = front(choices, chosen)
    days, cost = FAR * max(choice.days for choice in best), FAR * max(choice.cost for choice in best)
    shown = [choice for choice in choices if choice.days <= days and choice.cost <= cost]
    for name, mark, size, colour in zip(METHODS, "osd^", (22, 60, 110, 30), COLOURS, strict=False):
        some = [choice for choice in shown if choice.method == name]
        far = [choice.days for choice in choices if choice.method == name and choice not in shown]
        label = name + (f" ({len(far)} beyond the picture: {min(far):,.0f} to {max(far):,.0f} days)" if far else "")
        axes.scatter([choice.days for choice in some], [choice.cost for choice in some], s=size, marker=mark, facecolors="none",
                     edgecolors=colour, linewidths=1.2, label=label)  # fmt: skip
    axes.step([choice.days for choice in best], [choice.cost for choice in best], where="post", color="#555555", linewidth=0.9,
              label="none is both faster and cheaper", zorder=0)  # fmt: skip
    label = f"the plan: {chosen.names}, M = {chosen.learners}"
    axes.plot(chosen.days, chosen.cost, "*", color="black", markersize=14, label=label, zorder=0)
    axes.set_title("A point for each set of sites, learners per site and method", **TITLE)
    axes.set_xlabel("days")
    axes.set_ylabel("cost")
    _scales(axes, shown)
    axes.legend(**SMALL)
    return png(figure)


def _scales(axes: Any, shown: Sequence[Choice]) -> None:
    """Logarithms with plain numbers at their ticks; no scale of cost where nothing costs anything."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    costs = [choice.cost for choice in shown]
    axes.set_xscale("log")
    if min(costs) > 0:
        axes.set_yscale("log")
    elif max(costs) == 0:
        axes.set_ylim(-1, 1)
        axes.set_yticks([0.0])
        axes.set_ylabel("cost (the fleet has no prices)")
    else:
        axes.set_ylim(bottom=-0.03 * max(costs))  # so that the marks of what costs nothing are whole
    for axis in [axes.xaxis] if min(costs) <= 0 else [axes.xaxis, axes.yaxis]:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.12g}"))
        axis.set_minor_formatter(NullFormatter())
