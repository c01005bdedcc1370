"""The picture of a run: loss, timeline of the learners, contributors per round, traffic against data-parallel.

Rules: everything drawn is in the run's files; the three panels over time share their axis, so that a fault can be
followed through all of them; nothing is smoothed without saying so. Needs matplotlib (the `report` extra).
"""

from __future__ import annotations

import io
from typing import Any

from skerry.errors import ConfigError
from skerry.store.fold import Fault, RunState
from skerry.store.records import Sample, Summary

STATES = {  # of the syncer: what it is called here, and its colour
    "training": ("training", "#8fc1a9"), "joining": ("joining", "#f3d58a"), "silent": ("not heard of", "#c9c9c9"),
    "dead": ("gone", "#e9e9e9"), "left": ("gone", "#e9e9e9"),
}  # fmt: skip
FROZEN_COLOUR = "#7aa6d8"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
OTHER_COLOUR = "#dddddd"
FAULT_COLOUR = "#b2182b"
FAULTS = {  # kind: what was done, and its mark
    "kill": ("killed", "X"), "stop": ("frozen", "s"), "slow": ("slowed", "v"), "join": ("joins", "^"), "leave": ("leaves", "<"),
    "cut": ("cut off", "P"), "halfopen": ("not heard", "D"), "full": ("without disk", "p"),
}  # fmt: skip
SYNCER_ROW = -0.8  # above the learners': faults of the syncer
MEAN_OVER = 24
DPI = 110
TITLE: dict[str, Any] = {"loc": "left", "fontsize": 10}


def draw(name: str, state: RunState, summary: Summary) -> bytes:
    """A PNG; `state` of all the run's records. Raises ConfigError if matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise ConfigError("the picture needs matplotlib", remedy="pip install 'skerry[report]'") from error
    rows = max(2, len(state.learners))
    figure = Figure(figsize=(11, 9.6 + 0.5 * rows), layout=ConstrainedLayoutEngine(hspace=0.06))
    FigureCanvasAgg(figure)
    panels = figure.subplots(4, 1, height_ratios=[4, 0.6 + 0.5 * rows, 1.9, 1.1])
    loss, timeline, contributors, traffic = panels
    _loss(loss, state)
    _timeline(timeline, state)
    _contributors(contributors, state)
    _traffic(traffic, summary)
    for axes in (loss, timeline, contributors):
        axes.set_xlim(0, state.t)
        for fault in state.faults:
            axes.axvline(fault.t, color=FAULT_COLOUR, linewidth=0.8, linestyle=(0, (2, 2)), alpha=0.6, zorder=1)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    contributors.set_xlabel("seconds since the run began")
    figure.suptitle(_title(name, state, summary), fontsize=13, fontweight="bold", x=0.01, ha="left")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=DPI)
    return image.getvalue()


def _title(name: str, state: RunState, summary: Summary) -> str:
    end = f", eval loss {summary.eval_loss:.3f} nats/byte" if summary.eval_loss is not None else ""
    return f"{name}: {len(state.learners)} learners, {summary.params or 0:,} parameters, {len(state.faults)} faults{end}"


def _words(fault: Fault) -> str:
    """The fault as one would say it: "trainer 2 killed"."""
    learner, _, part = fault.note.target.partition(".")
    done, _ = FAULTS.get(fault.note.kind, (fault.note.kind, ""))
    if fault.note.learner < 0:
        return f"{fault.note.target} {done}"
    return f"{part or 'learner'} {learner} {done}"


def _by_learner(state: RunState) -> dict[int, list[Sample]]:
    found: dict[int, list[Sample]] = {}
    for sample in state.samples:
        found.setdefault(sample.learner, []).append(sample)
    return dict(sorted(found.items()))


def _loss(axes: Any, state: RunState) -> None:
    for m, samples in _by_learner(state).items():
        points = _losses(samples)
        axes.plot(*zip(*points, strict=True), color=LINES[m % len(LINES)], linewidth=0.7, alpha=0.45, label=f"learner {m}")
    evals = [(found.t, found.loss) for found in state.losses if found.loss is not None]
    if evals:
        axes.plot(*zip(*evals, strict=True), color="black", linewidth=1.8, marker="o", markersize=3.5,
                  label="global model\n(held-out text)")  # fmt: skip
        axes.annotate(f"{evals[-1][1]:.3f}", evals[-1], xytext=(-4, 8), textcoords="offset points", ha="right",
                      fontweight="bold")  # fmt: skip
    for fault in state.faults:
        axes.text(fault.t, 0.99, f" {_words(fault)}", transform=axes.get_xaxis_transform(),
                  color=FAULT_COLOUR, fontsize=8, rotation=90, va="top", ha="right")  # fmt: skip
    axes.set_title("Loss: the global model's, and each learner's on its own batches", **TITLE)
    axes.set_ylabel("nats per byte")
    axes.grid(axis="y", alpha=0.25)
    if axes.has_data():
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _losses(samples: list[Sample]) -> list[tuple[float, float]]:
    """(time, loss) of a learner's samples; no number, so that the curve breaks off, while it makes no step."""
    points, steps = [], -1
    for sample in samples:
        known = None if sample.steps == steps else sample.loss
        points.append((sample.t, float("nan") if known is None else known))
        steps = sample.steps
    return points


def _timeline(axes: Any, state: RunState) -> None:
    """A bar per learner, coloured by its state as the syncer saw it; a tick under it for every round it was merged in."""
    by_learner = _by_learner(state)
    rows = {m: i for i, m in enumerate(by_learner)}
    seen: set[str] = set()
    for m, samples in by_learner.items():
        for seen_as, start, stop in _states(samples):
            name, colour = STATES.get(seen_as, (seen_as, OTHER_COLOUR))
            axes.barh(rows[m], stop - start, left=start, height=0.46, color=colour,
                      label=None if name in seen else name, zorder=2)  # fmt: skip
            seen.add(name)
        merged = [found.t for found in state.closed if m in found.included]
        axes.plot(merged, [rows[m] + 0.34] * len(merged), "|", color="#555555", markersize=4, alpha=0.5, zorder=3)
    for kind, text, hatch in (("stop", "frozen", "////"), ("slow", "slowed", "....")):
        for fault, stop in state.lasting(kind):
            axes.barh(rows.get(fault.note.learner, SYNCER_ROW), stop - fault.t, left=fault.t, height=0.46, facecolor="none",
                      edgecolor=FROZEN_COLOUR, hatch=hatch, linewidth=0, label=None if text in seen else text,
                      zorder=4)  # fmt: skip
            seen.add(text)
    for fault in state.faults:
        row = rows.get(fault.note.learner, SYNCER_ROW)
        axes.plot(fault.t, row, FAULTS.get(fault.note.kind, ("", "o"))[1], color=FAULT_COLOUR, markersize=9,
                  markeredgecolor="white", zorder=5)  # fmt: skip
        if fault.recovered_s is not None:
            what = "merged again" if fault.note.learner >= 0 else "the next version"
            axes.text(fault.t, row - 0.38, f"  {what} {fault.recovered_s:.1f} s later",
                      fontsize=7.5, color=FAULT_COLOUR, va="center", zorder=6)  # fmt: skip
    axes.set_yticks(range(len(rows)), [f"learner {m}" for m in rows])
    above = any(fault.note.learner not in rows for fault in state.faults)
    axes.set_ylim(len(rows) - 0.45, SYNCER_ROW - 0.55 if above else -0.55)
    axes.set_title("Learners: as the syncer saw them; a line under the bar for every round they were merged in", **TITLE)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _states(samples: list[Sample]) -> list[tuple[str, float, float]]:
    """(state, from, to): each sample tells of the time since the one before it."""
    spans: list[tuple[str, float, float]] = []
    before = samples[0].t if samples else 0.0
    for sample in samples:
        if spans and spans[-1][0] == sample.state:
            spans[-1] = (sample.state, spans[-1][1], sample.t)
        else:
            spans.append((sample.state, before, sample.t))
        before = sample.t
    return spans


def _contributors(axes: Any, state: RunState) -> None:
    times = [found.t for found in state.closed]
    counts = [found.contributors for found in state.closed]
    axes.set_title("Contributors: learners merged in each round", **TITLE)
    axes.plot(times, counts, ".", color="#9a9a9a", markersize=3, label="each round")
    means = [sum(counts[max(0, i - MEAN_OVER + 1) : i + 1]) / min(i + 1, MEAN_OVER) for i in range(len(counts))]
    axes.plot(times, means, color=LINES[0], linewidth=1.5, label=f"mean of {MEAN_OVER}")
    axes.set_ylim(0, max(counts, default=1) + 0.5)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _traffic(axes: Any, summary: Summary) -> None:
    bars = [
        ("data-parallel", summary.data_parallel_bytes or 0, "#bbbbbb"),
        ("Skerry: up", summary.bytes_up or 0, LINES[0]),
        ("Skerry: down", summary.bytes_down or 0, LINES[5]),
    ]
    for row, (_, value, colour) in enumerate(bars):
        axes.barh(row, value / 1e9, color=colour, height=0.6)
        axes.text(value / 1e9, row, f" {value / 1e9:,.2f} GB", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(value for _, value, _ in bars) / 1e9 or 1)
    ours = sum(value for _, value, _ in bars[1:])
    times = f": {bars[0][1] / ours:.1f} times less" if ours and bars[0][1] else ""
    axes.set_title(f"Bytes between the learners, against a bf16 ring all-reduce at each of the same steps{times}", **TITLE)
    axes.set_xlabel("GB")
