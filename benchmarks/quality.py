"""`make bench-quality`: how good the model is against data-parallel, under faults, merging rules and unequal speeds.

    python -m benchmarks.quality [--only SWEEP ...] [--write]

The runs are those of benchmarks/sweeps/*.toml, made by `skerry lab sweep` into bench/lab (about five hours of one core, all in
all; a finished run is not made again). A gap is paired: the loss over that of data-parallel with the same seed, less one; means
over the seeds. --write: docs/results/quality.md and its picture, with the commit.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks._table import Row, at_least, at_most, report

import skerry
from skerry.cli.lab import sweep as lab_sweep
from skerry.config.toml import read
from skerry.lab.sweep import Sweep
from skerry.recipe.sweep import plan

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "bench" / "lab"
PAGE = HERE.parent / "docs" / "results" / "quality.md"
SWEEPS = ("baseline-lr", "quality", "faults-m8", "merging", "unequal", "unequal-async", "tiny")
HEAD = """# Quality: decoupled training against data-parallel

Written by `python -m benchmarks.quality --write` at commit {commit}; the runs are those of `benchmarks/sweeps/`. Model `nano`
(0.25M parameters) unless it says otherwise, 512 tokens a learner and step, 3,000 steps, the Python standard library's sources
as text; virtual time, real gradients (`skerry lab`). Means over the seeds; gaps are paired by seed.
"""
Runs = dict[str, dict[int, dict[str, Any]]]
"""By label and seed."""


def main() -> int:
    """The benchmark."""
    parser = argparse.ArgumentParser(description="how good the model is against data-parallel")
    parser.add_argument("--only", nargs="+", choices=SWEEPS, default=SWEEPS, help="these, and what they suffice for")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(HERE.parent)}")
    options = parser.parse_args()
    for name in options.only:
        if code := lab_sweep.main([str(HERE / "sweeps" / f"{name}.toml"), "--out", str(OUT)]):
            return code
    runs = {label: seeds for name in options.only for label, seeds in _runs(name).items()}
    rows = [row for measure, needs in MEASURES if set(needs) <= set(options.only) for row in measure(runs)]
    if options.write:
        _write(rows)
    return report("quality", rows)


def baseline(runs: Runs) -> list[Row]:
    """Is the baseline's learning rate the best of those tried, and not at an edge?"""
    rows = []
    for m in (4, 8):
        losses = {seeds[0]["config"]["recipe"]["lr"]: seeds[0]["eval_loss"] for label, seeds in runs.items()
                  if label.startswith(f"learners={m} lr=")}  # fmt: skip
        best = min(losses, key=losses.__getitem__)
        used = runs[f"data-parallel M={m}"][0]["config"]["recipe"]["lr"]
        inside = min(losses) < best < max(losses)
        tried = ", ".join(f"{lr:g}: {loss:.4f}" for lr, loss in sorted(losses.items()))
        rows.append(Row(f"data-parallel M={m}: inner lr used ({tried})", used, bar=f"= {best:g}, no edge",
                        ok=used == best and inside and len(losses) >= 4))  # fmt: skip
    return rows


def gaps(runs: Runs) -> list[Row]:
    """Measure 1."""
    rows = []
    for m, bar in ((4, 3.0), (8, 6.0)):
        plain, ours = runs[f"data-parallel M={m}"], runs[f"decoupled M={m}"]
        rows.append(Row(f"M={m}: loss of data-parallel", fmean(one["eval_loss"] for one in plain.values()), "nats/byte"))
        rows.append(Row(f"M={m}: loss of decoupled", fmean(one["eval_loss"] for one in ours.values()), "nats/byte"))
        rows += [Row(f"M={m}: above data-parallel at step {step}", _gap(ours, plain, step), "%") for step in (1000, 2000)]
        rows.append(at_most(f"M={m}: above data-parallel at step 3000", _gap(ours, plain), bar, "%"))
    return rows


def closing(rows: list[Row]) -> str:
    """In words: whether the gap closes as training goes on, that is, whether it is smaller each time."""
    words = []
    for m in (4, 8):
        gap = [float(row.value) for row in rows if row.name.startswith(f"M={m}: above data-parallel at step ")]
        falls = all(later < earlier for earlier, later in pairwise(gap))
        answer = "yes" if falls else "no, not steadily" if gap[-1] < gap[0] else "no"
        words.append(f"M = {m}: {answer} ({', '.join(f'{one:.1f}' for one in gap)} %)")
    return f"Does the gap to data-parallel close over steps 1000, 2000, 3000? {'; '.join(words)}."


def tiny(runs: Runs) -> list[Row]:
    """A larger model, one run."""
    best = min((seeds for label, seeds in runs.items() if label.startswith("tiny data")), key=lambda seeds: _loss(seeds[0], 0))
    return [Row("tiny, M=4: above data-parallel", _gap(runs["tiny decoupled"], best), "%")]


def faults(runs: Runs) -> list[Row]:
    """Measure 2."""
    rows = []
    for m in (4, 8):
        plain, quiet, struck = (runs[f"{name} M={m}"] for name in ("data-parallel", "decoupled", "faults"))
        down = fmean(_down(one) for one in struck.values())
        rows.append(at_least(f"M={m}, faults: learner time that they took", 100 * down, 8.0, "%"))
        more = _gap(struck, plain) - _gap(quiet, plain, seeds=struck)
        rows.append(at_most(f"M={m}, faults: points above the gap without", more, 1.0, "points"))
    return rows


def merging(runs: Runs) -> list[Row]:
    """Measure 3."""
    return [at_most(f"M={m}: RDA above direct averaging", _gap(runs[f"decoupled M={m}"], runs[f"direct M={m}"]), 0.5, "%")
            for m in (4, 8)]  # fmt: skip


def unequal(runs: Runs) -> list[Row]:
    """Measure 4."""
    rows = []
    for world in ("half 20% slower", "one 4x slower"):
        grace, none, waits, slowest = (runs[f"{world}: {rule}"] for rule in
                                       ("K=1 grace", "K=1 no grace", "K=M", "K=M never waits"))  # fmt: skip
        times = [one["virtual_s"] for group in (grace, none, waits, slowest) for one in group.values()]
        rows.append(at_most(f"{world}: longest over shortest virtual time", max(times) / min(times), 1.01))
        rows.append(at_most(f"{world}: K=1 with grace above K=M (learners wait)", _gap(grace, waits), 0.5, "%"))
        rows.append(at_most(f"{world}: K=1 with grace above K=M (never wait)", _gap(grace, slowest), 0.5, "%"))
        rows.append(Row(f"{world}: K=1 without grace above K=1 with", _gap(none, grace), "%"))
        for name, group in (("K=M, learners wait", waits), ("K=1 with grace", grace), ("K=1 without", none)):
            rows.append(Row(f"{world}: goodput, {name}", 100 * fmean(one["goodput"] for one in group.values()), "%"))
            rows.append(Row(f"{world}: contributors, {name}", fmean(one["mean_contributors"] for one in group.values())))
        lost = [_lost(one["per_learner"][3]) for one in grace.values()]
        rows.append(at_least(f"{world}: the slowest's tokens merged, or overlap by design", 100 * (1 - max(lost)), 99.0, "%"))
    return rows


MEASURES: tuple[tuple[Callable[[Runs], list[Row]], tuple[str, ...]], ...] = (
    (baseline, ("baseline-lr", "quality")), (gaps, ("quality",)), (tiny, ("tiny",)), (faults, ("quality", "faults-m8")),
    (merging, ("quality", "merging")), (unequal, ("unequal", "unequal-async")),
)  # fmt: skip
"""And the sweeps that each needs."""


def _gap(ours: dict[int, dict[str, Any]], others: dict[int, dict[str, Any]], step: int = 0,
         seeds: dict[int, Any] | None = None) -> float:  # fmt: skip
    """Percent above the others, paired by seed, at the end or at a step (the evaluation that is nearest to it)."""
    shared = [seed for seed in ours if seed in others and (seeds is None or seed in seeds)]
    return 100 * fmean(_loss(ours[seed], step) / _loss(others[seed], step) - 1 for seed in shared)


def _loss(one: dict[str, Any], step: int) -> float:
    if not step:
        return float(one["eval_loss"])
    return float(min(one["eval_curve"], key=lambda point: abs(point[0] - step))[3])


def _down(one: dict[str, Any]) -> float:
    """Share of the learners' time in which they were down."""
    m, seconds = one["learners"], one["virtual_s"]
    return sum(float(fault["down_s"]) for fault in one["faults"] if fault["struck"]) / (m * seconds)


def _lost(learner: dict[str, Any]) -> float:
    """Share of a learner's tokens that was lost otherwise than by design."""
    return sum(count for cause, count in learner["lost_by_cause"].items() if cause != "overlap") / learner["tokens"]


def _runs(name: str) -> Runs:
    """The finished runs of a sweep."""
    path = HERE / "sweeps" / f"{name}.toml"
    found: Runs = {}
    for one in plan(Sweep.read(read(path), str(path)), Path(skerry.__file__).parent):
        result = one.finished(OUT)
        assert result is not None, f"{name}: {one.cell.label}, seed {one.cell.seed} is not there"
        found.setdefault(one.cell.label, {})[one.cell.seed] = result
    return found


def _write(rows: list[Row]) -> None:
    """The page of the results: everything on it is from the runs."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    lines = [HEAD.format(commit=commit), closing(rows), "", "| figure | value | bar | |", "| --- | --- | --- | --- |"]
    for row in rows:
        value = f"{row.value:.4g}" if isinstance(row.value, float) else str(row.value)
        lines.append(f"| {row.name} | {value} {row.unit} | {row.bar} | {'' if not row.bar else 'ok' if row.ok else 'missed'} |")
    picture = PAGE.with_suffix(".png")
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes((OUT / "quality.png").read_bytes())
    PAGE.write_text("\n".join([*lines, "", f"![Loss curves]({picture.name})", ""]))


if __name__ == "__main__":
    raise SystemExit(main())
