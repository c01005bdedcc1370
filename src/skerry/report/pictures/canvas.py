"""Pictures of what was reckoned: one look for all, as bytes of a PNG. Needs matplotlib (the `report` extra)."""

from __future__ import annotations

import io
from typing import Any

from skerry.errors import ConfigError

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")  # as in the report
DPI = 110
TITLE: dict[str, Any] = {"loc": "left", "fontsize": 10}
SMALL: dict[str, Any] = {"fontsize": 8, "frameon": False}


def canvas(title: str, panels: int = 1, size: tuple[float, float] = (10, 5),
           widths: tuple[float, ...] = ()) -> tuple[Any, list[Any]]:  # fmt: skip
    """An empty figure and its panels, side by side, all of one width unless `widths` has each one's. Raises
    ConfigError if matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("the picture needs matplotlib", remedy="pip install 'skerry[report]'") from error
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    widths = widths or (1,) * panels
    axes = list(figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25)
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    return figure, axes


def shades(count: int) -> list[Any]:
    """So many colours in an order of their own, from dark to light: for what differs by a number."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * i / max(1, count - 1)) for i in range(count)]


def log_ticks(axis: Any, low: float, high: float, most: int = 7, form: str = "{:.2f}") -> None:
    """At most so many labels on a logarithmic axis that is short, where powers of ten are too few and all else too many."""
    ticks = [low * (high / low) ** (i / (most - 1)) for i in range(most)] if low < high else [low]
    axis.set_ticks(ticks, [form.format(tick) for tick in ticks])
    axis.set_ticks([], minor=True)


def png(figure: Any) -> bytes:
    """The finished picture."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI)
    return image.getvalue()
