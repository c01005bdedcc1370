"""The picture of a run: loss, timeline of the learners, contributors per round, traffic against data-parallel.

Rules: everything drawn is in the run's files; the three panels over time share their axis, so that a fault can be
followed through all of them; nothing is smoothed without saying so. Needs matplotlib (the `report` extra).
"""

from __future__ import annotations

import io
from typing import Any

from skerry.errors import ConfigError
from skerry.report.record import Line, RunRecord

STATE_COLOURS = {"training": "#8fc1a9", "joining": "#f3d58a", "dead": "#e8e8e8", "left": "#f7f7f7"}
OTHER_COLOUR = "#d9d9d9"
FROZEN_COLOUR = "#7aa6d8"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
FAULT_COLOUR = "#b2182b"
MARKS = {"kill": "X", "stop": "s", "slow": "v", "join": "^", "leave": "<"}
MEAN_OVER = 24
DPI = 110


def draw(record: RunRecord, summary: dict[str, Any]) -> bytes:
    """A PNG. Raises ConfigError if matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("the picture needs matplotlib", remedy="pip install 'skerry[report]'") from error
    figure = Figure(figsize=(11, 12.5), layout="constrained")
    FigureCanvasAgg(figure)
    rows = max(2, len(_ids(record)))
    panels = figure.subplots(4, 1, height_ratios=[4, 0.8 + 0.45 * rows, 2, 1.3])
    loss, timeline, contributors, traffic = panels
    _loss(loss, record)
    _timeline(timeline, record)
    _contributors(contributors, record)
    _traffic(traffic, summary)
    for axes in (loss, timeline, contributors):
        axes.set_xlim(0, record.wall_s)
        for strike in record.strikes:
            axes.axvline(strike["t"], color=FAULT_COLOUR, linewidth=0.8, linestyle=(0, (2, 2)), alpha=0.6, zorder=1)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    contributors.set_xlabel("seconds since the run began")
    figure.suptitle(_title(record, summary), fontsize=12)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI)
    return image.getvalue()


def _title(record: RunRecord, summary: dict[str, Any]) -> str:
    loss = summary["eval_loss"]
    end = f", eval loss {loss:.3f} nats/byte" if loss is not None else ""
    return (f"{record.run_dir.name}: {len(_ids(record))} learners, {summary['params'] or 0:,} parameters, "
            f"{len(record.strikes)} faults{end}")  # fmt: skip


def _ids(record: RunRecord) -> list[int]:
    return sorted({line["learner"] for line in record.learners})


def _loss(axes: Any, record: RunRecord) -> None:
    for m in _ids(record):
        points = [(x["t"], x["loss"]) for x in record.learners if x["learner"] == m and x.get("loss") is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=LINES[m % len(LINES)], linewidth=0.7, alpha=0.45,
                      label=f"learner {m}, training batches")  # fmt: skip
    evals = [(line["t"], line["loss"]) for line in record.evals]
    if evals:
        axes.plot(*zip(*evals, strict=True), color="black", linewidth=1.8, marker="o", markersize=3.5,
                  label="global model, held-out text")  # fmt: skip
        axes.annotate(f"{evals[-1][1]:.3f}", evals[-1], xytext=(-4, 8), textcoords="offset points", ha="right",
                      fontweight="bold")  # fmt: skip
    for strike in record.strikes:
        axes.text(strike["t"], 0.99, f" {strike['kind']} {strike['target']}", transform=axes.get_xaxis_transform(),
                  color=FAULT_COLOUR, fontsize=8, rotation=90, va="top", ha="right")  # fmt: skip
    axes.set_ylabel("loss (nats per byte)")
    axes.grid(axis="y", alpha=0.25)
    if axes.has_data():
        axes.legend(fontsize=8, frameon=False, ncols=2, loc="upper right")


def _timeline(axes: Any, record: RunRecord) -> None:
    """A bar per learner, coloured by its state as the syncer saw it; a tick under it for every round it was merged in."""
    ids = _ids(record)
    rows = {m: i for i, m in enumerate(ids)}
    seen: set[str] = set()
    for m in ids:
        for state, start, stop in _states([line for line in record.learners if line["learner"] == m]):
            axes.barh(rows[m], stop - start, left=start, height=0.5, color=STATE_COLOURS.get(state, OTHER_COLOUR),
                      label=None if state in seen else state, zorder=2)  # fmt: skip
            seen.add(state)
        merged = [line["t"] for line in record.rounds if m in line["included"]]
        label = None if "merged" in seen else "merged in a round"
        axes.plot(merged, [rows[m] + 0.36] * len(merged), "|", color="#555555", markersize=4, alpha=0.5, label=label, zorder=3)
        seen.add("merged")
    for kind, text, hatch in (("stop", "frozen", "////"), ("slow", "slowed", "....")):
        for m, _, start, stop in record.spans(kind):
            axes.barh(rows.get(m, 0), stop - start, left=start, height=0.5, facecolor="none", edgecolor=FROZEN_COLOUR,
                      hatch=hatch, linewidth=0, label=None if text in seen else text, zorder=4)  # fmt: skip
            seen.add(text)
    for strike in record.strikes:
        axes.plot(strike["t"], rows.get(strike["learner"], 0), MARKS[strike["kind"]], color=FAULT_COLOUR, markersize=9,
                  markeredgecolor="white", zorder=5)  # fmt: skip
        recovered = record.recovered_s(strike)
        if recovered is not None:
            axes.text(strike["t"], rows.get(strike["learner"], 0) - 0.42, f"  merged again after {recovered:.1f} s",
                      fontsize=7.5, color=FAULT_COLOUR, va="center", zorder=6)  # fmt: skip
    axes.set_yticks(range(len(ids)), [f"learner {m}" for m in ids])
    axes.set_ylim(len(ids) - 0.4, -0.7)
    axes.legend(fontsize=8, frameon=False, ncols=6, loc="upper center", bbox_to_anchor=(0.5, 1.18))


def _states(lines: list[Line]) -> list[tuple[str, float, float]]:
    """(state, from, to): each line tells of the time since the line before it."""
    spans: list[tuple[str, float, float]] = []
    before = lines[0]["t"] if lines else 0.0
    for line in lines:
        state = line["state"]
        if spans and spans[-1][0] == state:
            spans[-1] = (state, spans[-1][1], line["t"])
        else:
            spans.append((state, before, line["t"]))
        before = line["t"]
    return spans


def _contributors(axes: Any, record: RunRecord) -> None:
    times = [line["t"] for line in record.rounds]
    counts = [line["contributors"] for line in record.rounds]
    axes.plot(times, counts, ".", color="#9a9a9a", markersize=3, label="each round")
    means = [sum(counts[max(0, i - MEAN_OVER + 1) : i + 1]) / min(i + 1, MEAN_OVER) for i in range(len(counts))]
    axes.plot(times, means, color=LINES[0], linewidth=1.5, label=f"mean of the last {MEAN_OVER}")
    axes.set_ylabel("contributors\nper round")
    axes.set_ylim(0, max(counts, default=1) + 0.5)
    axes.legend(fontsize=8, frameon=False, ncols=2, loc="lower right")


def _traffic(axes: Any, summary: dict[str, Any]) -> None:
    bars = [
        ("data-parallel\n(bf16 ring all-reduce, same steps)", summary["data_parallel_bytes"] or 0, "#bbbbbb"),
        ("Skerry, learners to syncer", summary["bytes_up"] or 0, LINES[0]),
        ("Skerry, syncer to learners", summary["bytes_down"] or 0, LINES[5]),
    ]
    for row, (_, value, colour) in enumerate(bars):
        axes.barh(row, value / 1e9, color=colour, height=0.6)
        axes.text(value / 1e9, row, f" {value / 1e9:,.2f} GB", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(value for _, value, _ in bars) / 1e9 or 1)
    ours = sum(value for _, value, _ in bars[1:])
    times = f"   ({bars[0][1] / ours:.1f} times less than data-parallel)" if ours else ""
    axes.set_xlabel(f"GB on the sockets, all learners{times}")
