"""The picture of `skerry simulate rounds`. Needs matplotlib (the `report` extra)."""

from __future__ import annotations

from typing import Any

import numpy as np

from skerry.report.pictures.canvas import COLOURS, SMALL, TITLE, canvas, png
from skerry.simulate.rounds import RoundsResult
from skerry.world.world import World

SHARES = (
    ("trained, and it counted", COLOURS[2]),
    ("trained, and it was lost", COLOURS[1]),
    ("stood for others", COLOURS[4]),
    ("stood for its first model", COLOURS[5]),
    ("away, or after its last step", "#d0d0d0"),
)


def picture(results: dict[str, RoundsResult], world: World) -> bytes:
    """Where the learners' time went, who contributed, and the traffic over time. Raises ConfigError without matplotlib."""
    figure, (time, contributors, links, busiest) = canvas("Rounds of unequal learners", panels=4, size=(15, 5),
                                                          widths=(1, 0.9, 1.4, 1.4))  # fmt: skip
    _shares(time, results)
    contributors.bar(list(results), [result.figures.mean_contributors for result in results.values()], color=COLOURS[0])
    contributors.set_title("Contributors to a round, mean", **TITLE)
    _traffic(links, {name: result.traffic.gbit.sum(axis=(1, 2)) for name, result in results.items()}, results)
    links.set_title("Traffic of all links, up and down, Gbit/s", **TITLE)
    _busiest(busiest, results, world)
    for panel in (time, contributors):
        panel.grid(visible=False, axis="x")
    return png(figure)


def _shares(panel: Any, results: dict[str, RoundsResult]) -> None:
    bottom = np.zeros(len(results))
    parts = [(result.figures.goodput, result.lost_share, result.wait_share - result.load_share, result.load_share)
             for result in results.values()]  # fmt: skip
    heights = np.array([(*part, max(0.0, 1 - sum(part))) for part in parts]).T * 100
    for (label, colour), height in zip(SHARES, heights, strict=True):
        if height.max() >= 0.5:
            panel.bar(list(results), height, bottom=bottom, color=colour, label=label)
        bottom = bottom + height
    panel.set_title("Share of the learners' time, %", **TITLE)
    panel.set_ylim(0, 100)
    panel.legend(**SMALL, loc="upper center", bbox_to_anchor=(0.5, -0.07))


def _busiest(panel: Any, results: dict[str, RoundsResult], world: World) -> None:
    """The link and direction with most bytes of each rule, and what that link can carry."""
    rates, bounds = {}, set()
    for name, result in results.items():
        traffic = result.traffic
        link, way = np.unravel_index(np.argmax(traffic.sent.sum(axis=0)), traffic.sent.shape[1:])
        learner = traffic.learners[link]
        rates[f"{name}: learner {learner}, {('up', 'down')[way]}"] = traffic.gbit[:, link, way]
        bounds.add(world.link_of(learner).bandwidth / 1e9)
    _traffic(panel, rates, results)
    for bound in bounds - {np.inf}:
        panel.axhline(bound, color="black", linestyle=":", linewidth=1)
        panel.annotate(
            f"the link's {bound:g}", (0.99, bound), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8
        )
    panel.set_title("The busiest link and direction, Gbit/s", **TITLE)


def _traffic(panel: Any, rates: dict[str, Any], results: dict[str, RoundsResult]) -> None:
    """Lines over time, thinner ones on thicker ones. What stands out at start and end is cut off and told in words, so that the
    rest can be seen."""
    top = max(1.6 * float(np.quantile(rate, 0.9)) for rate in rates.values())
    for place, ((name, rate), result) in enumerate(zip(rates.items(), results.values(), strict=True)):
        peak = float(rate.max())
        label = name + (f" (up to {peak:.3g})" if peak > top > 0 else "")
        panel.stairs(
            rate, [0.0, *result.traffic.times], color=COLOURS[place], linewidth=2.4 - 0.8 * place, label=label, baseline=None
        )
    panel.set_xlabel("seconds")
    panel.set_ylim(0, top or None)
    panel.legend(**SMALL, loc="upper center", bbox_to_anchor=(0.5, -0.12))
