"""`make bench-reality`: what the simulator says, against real processes on this machine.

    python -m benchmarks.reality

1. A run of the demo's configuration without faults. Its joins and mean step times go into `simulate rounds`; rounds,
   contributors and bytes that the run counted must come out.
2. `simulate bandwidth` (closed form) against `simulate rounds` (events through the core).
3. Two learners under faults that cost at least 30% of their time. Goodput is predicted from the script, and from the step
   time and the time to start a learner that a run without faults measured.
Wants a machine with nothing else to do.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from statistics import fmean

from benchmarks._table import Row, at_least, at_most, report

from skerry.config.toml import read
from skerry.core.layout import Layout, build_layout
from skerry.core.policy import Policy
from skerry.core.presets import preset
from skerry.numerics.parameters import Parameters
from skerry.recipe.model import Decoder
from skerry.recipe.sizes import SIZES
from skerry.simulate.bandwidth import Job, method
from skerry.simulate.rounds import RoundsResult, simulate_rounds
from skerry.store.metrics import read as read_records
from skerry.store.metrics import read_figures, read_run
from skerry.store.records import Started, Summary
from skerry.world.faults import FaultScript
from skerry.world.links import Link
from skerry.world.world import World

DEMO = Path(__file__).resolve().parent.parent / "examples" / "demo.toml"
CHAOS = "stop:0@3s+12s kill:1.trainer@5s+8s stop:1@24s+9s kill:0@26s+6s"
CHAOS_STEPS = 800
TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Measured(World):
    """A world whose learners step as fast as those of a real run did. `means`: seconds a step, by learner."""

    means: tuple[float, ...]

    def step_times(self, learner: int) -> Iterator[float]:
        """The same for ever."""
        return repeat(self.means[learner])


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a real run measured. By learner, those that joined first first: `joins` (seconds after the first), `means` (seconds
    a step). `start_s`: from a process' start to its join, on average."""

    figures: Summary
    joins: tuple[float, ...]
    means: tuple[float, ...]
    start_s: float


def main() -> int:
    """The benchmark."""
    rows = [*rounds(), *closed_form(), *chaos()]
    return report("reality", rows)


def rounds() -> list[Row]:
    """Part 1."""
    policy = preset("decoupled", **{k: v for k, v in read(DEMO)["policy"].items() if k != "preset"})
    with tempfile.TemporaryDirectory() as folder:
        seen = look(train(Path(folder) / "run", "--chaos", ""))
    others = " ".join(f"join:{place}@{at:.3f}s" for place, at in enumerate(seen.joins) if place)
    said = simulate(policy, Measured(learners=1, faults=others, means=seen.means))
    real = seen.figures
    return [
        Row("demo's configuration: mean step", 1e3 * fmean(seen.means), "ms"),
        *(near(f"{name}: said {getattr(said.figures, name):,.6g}, counted {getattr(real, name):,.6g}; off by",
               getattr(said.figures, name) / getattr(real, name), 5.0)
          for name in ("rounds", "mean_contributors", "bytes_up", "bytes_down")),
    ]  # fmt: skip


def closed_form() -> list[Row]:
    """Part 2: the difference between two lengths of a run is what goes on between its beginning and its end."""
    rows, params, learners = [], 240_000_000, 4
    job = Job(params=params, step_s=1.0, sites=learners)
    for name, link in (("decoupled", "100ms,1Gbit"), ("streaming", "100ms,200Mbit"), ("diloco", "50ms,2Gbit")):
        policy = preset(name, steps=3 * 96)
        form = method(policy, job)
        short, long = (simulate_rounds(policy.replace(steps=steps), World(learners=learners, link=link), params=params)
                       for steps in (3 * 96, 9 * 96))  # fmt: skip
        steps = 6 * 96
        for way, each in (("up", form.traffic.up), ("down", form.traffic.down)):
            simulated = (getattr(long.figures, f"bytes_{way}") - getattr(short.figures, f"bytes_{way}")) / learners / steps
            rows.append(near(f"{name}: bytes {way} a step, closed form against events; off by",
                             each / form.traffic.steps / simulated, 2.0))  # fmt: skip
        utilisation = steps * job.step_s / (long.virtual_s - short.virtual_s)
        rows.append(near(f"{name} over {link}: share of time computing; off by",
                         form.steady(Link.parse(link)).utilisation / utilisation, 2.0))  # fmt: skip
    return rows


def chaos() -> list[Row]:
    """Part 3."""
    common = ("--learners", "2", "--policy.steps", str(CHAOS_STEPS), "--launch.no-evaluate")
    with tempfile.TemporaryDirectory() as folder:
        quiet = look(train(Path(folder) / "quiet", "--chaos", "", *common))
        struck = read_figures(train(Path(folder) / "struck", "--chaos", CHAOS, *common))
    began = max(quiet.joins)  # faults count from when all train
    faults = [replace(fault, at=fault.at + began, duration=fault.duration + (quiet.start_s if fault.kind == "kill" else 0.0))
              for fault in FaultScript.parse(CHAOS)]  # fmt: skip
    world = Measured(learners=2, faults=str(FaultScript(tuple(faults))), means=quiet.means)
    said = simulate(preset("decoupled", steps=CHAOS_STEPS), world)
    real = struck.goodput or 0.0
    return [
        at_least("two learners under faults: time that they cost", 100 * (1 - real), 30.0, "%"),
        Row("goodput measured", 100 * real, "%"),
        Row("goodput predicted", 100 * said.figures.goodput, "%"),
        at_most("off by", 100 * abs(said.figures.goodput - real), 5.0, "points"),
    ]  # fmt: skip


def near(name: str, ratio: float, percent: float) -> Row:
    """A row for two figures that should be equal."""
    return at_most(name, 100 * abs(ratio - 1), percent, "%")


def simulate(policy: Policy, world: World) -> RoundsResult:
    """With the tensors of the demo's model, whose fragments are not of one size."""
    return simulate_rounds(policy, world, layout=layout(policy), tokens=TOKENS)


def layout(policy: Policy) -> Layout:
    """That of `tiny`."""
    model = Decoder(SIZES["tiny"], context=64)
    return build_layout(Parameters(model).specs, policy.fragments, policy.fragmentation, policy.direct)


def train(folder: Path, *options: str) -> Path:
    """A real run of the demo's configuration. Gives its directory."""
    command = [sys.executable, "-m", "skerry.cli", "train", "--config", str(DEMO), "--syncer.run-dir", str(folder), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


def look(run_dir: Path) -> Seen:
    """Joins and step times of a run without faults."""
    state, figures = read_run(run_dir, keep=None), read_figures(run_dir)
    joined = {event.learner: event.t for event in state.events if event.event == "join"}
    over = next(event.t for event in state.events if event.event == "budget_reached")
    steps = {one.learner: one.steps for one in figures.per_learner}
    order = sorted(joined, key=joined.__getitem__)
    started = {note.learner: note.unix - (state.began or 0.0) for note in read_records(run_dir / "faults.jsonl")
               if isinstance(note, Started)}  # fmt: skip
    first = joined[order[0]]
    return Seen(
        figures=figures, joins=tuple(joined[learner] - first for learner in order),
        means=tuple((over - joined[learner]) / steps[learner] for learner in order),
        start_s=fmean(joined[learner] - started[learner] for learner in order),
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
