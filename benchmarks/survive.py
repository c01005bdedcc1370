"""The syncer and its links may die at any instant. `python -m benchmarks.survive [--quick] [--only NAME] [--seeds N]`.

Four learners of the tiny model train for six minutes (`skerry train`, which starts its syncer again), with one seed without a
fault, and with each seed under

    kills      SIGKILL to the syncer at ten random instants
    frozen     SIGSTOP to the syncer for 20 s at four random instants
    cut        one learner's link broken, and new connections refused, for 5 s, at ten random instants
    half-open  one learner's link carries nothing for 30 s, at six random instants

Then short runs in which the benchmark waits for a phase and strikes in it: the syncer killed in `waiting` (a learner's trainer
is held, so that the run waits), in `ending` (everybody is slowed), in `final` (a learner is held, for which the last round
waits), in `ended` (an agent is held, for which the syncer waits before it exports), and in the export (the disk is full); the
syncer frozen, a link cut, a link half-open in `final`. In which phase a kill struck is what the next syncer begins with.

Bars: the worst learner's longest gap <= 3 median steps and longest hook <= 0.5 (median over the seeds); nobody begins anew,
no token lost but by overlap (every run); kill to the next published version <= 5 s in the median, <= 10 s at worst; evaluation
loss within 1% of the runs without faults (means over the seeds); every phase struck.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from benchmarks._table import Row, at_least, at_most, report
from benchmarks._watched import Outcome, Watched, send

from skerry.launch.guardian import Guardian

RUNS = Path("build/bench-survive")
LEARNERS = 4
LAST = LEARNERS - 1
SECONDS, QUICK_S = 360, 60
MARGIN_S = 10.0  # nothing strikes so shortly before the end
BASE = ["--learners", str(LEARNERS), "--policy.wait-for", str(LEARNERS), "--recipe.model", "tiny", "--recipe.context", "128",
        "--recipe.batch", "20", "--policy.final-timeout", "120"]  # fmt: skip
HELD = ["--policy.silent-after", "60"]  # whom the benchmark holds is not given up meanwhile


@dataclass(frozen=True)
class Scenario:
    """`fault`: text for --chaos with {at} and {learner}; how many of them in six minutes, and how long one takes."""

    name: str
    fault: str = ""
    strikes: int = 0
    takes: float = 0.0


SCENARIOS = [
    Scenario("no fault"),
    Scenario("kills", "kill:syncer@{at:.1f}s", 10, 5.0),
    Scenario("frozen", "stop:syncer@{at:.1f}s+20s", 4, 25.0),
    Scenario("cut", "cut:{learner}@{at:.1f}s+5s", 10, 10.0),
    Scenario("half-open", "halfopen:{learner}@{at:.1f}s+30s", 6, 35.0),
]


def script(scenario: Scenario, seed: int, seconds: float) -> str:
    """Random instants; the strikes of one kind do not overlap."""
    draws = random.Random(f"{scenario.name} {seed}")
    count = max(1, round(scenario.strikes * seconds / SECONDS)) if scenario.strikes else 0
    room = seconds - MARGIN_S - count * scenario.takes
    times = sorted(draws.uniform(1.0, max(2.0, room)) for _ in range(count))
    return " ".join(scenario.fault.format(at=at + i * scenario.takes, learner=draws.randrange(LEARNERS))
                    for i, at in enumerate(times))  # fmt: skip


def train(scenario: Scenario, seed: int, seconds: float, step_s: float, guardian: Guardian) -> Outcome:
    """A whole run."""
    options = [*BASE, "--recipe.seed", str(seed), "--policy.steps", str(round(seconds / step_s))]
    with Watched(RUNS / f"{scenario.name.replace(' ', '-')}-{seed}", options, guardian, script(scenario, seed, seconds)) as run:
        found = run.outcome(4 * seconds + 300)
    print(f"{scenario.name} #{seed}: {told(found)}", flush=True)
    return found


def told(found: Outcome) -> str:
    """A line of progress."""
    if found.code or not found.summary:
        return f"ended with {found.code}: {found.said.strip().splitlines()[-1:]}"
    back = " ".join(f"{seconds:.1f}" for seconds in found.recoveries())
    return (f"gap x{found.gap:.2f}, hook {found.hook:.2f} steps, generations {found.generations}, lost {found.lost():.0f}, "
            f"eval {found.summary['eval_loss']:.4f}" + (f", versions again after {back} s" if back else "")
            + (f", phases {found.phases}" if found.phases else ""))  # fmt: skip


# ---------------------------------------------------------------- a strike in a phase


def kill(run: Watched) -> None:
    """The syncer, and wait for the next one."""
    begins = run.events.count("begin")
    send(run.syncer(), signal.SIGKILL)
    run.until(lambda: run.events.count("begin") > begins, 60)


def freeze(run: Watched) -> None:
    """The syncer, for 20 s."""
    held = run.syncer()
    send(held, signal.SIGSTOP)
    run.sleep(20)
    send(held, signal.SIGCONT)


def cut(run: Watched) -> None:
    """The link of learner 0: whatever relay is started is killed before it listens, for 5 s."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        send(run.relay(0), signal.SIGKILL)
        run.turn()


def mute(run: Watched) -> None:
    """The link of learner 0, for 30 s."""
    held = run.relay(0)
    send(held, signal.SIGSTOP)
    run.sleep(30)
    send(held, signal.SIGCONT)


Strike = Callable[[Watched], None]


def in_waiting(run: Watched, strike: Strike) -> None:
    """The last learner's trainer is held as soon as it is there, so that the run waits for it."""
    run.until(lambda: run.trainer(LAST) is not None)
    held = run.trainer(LAST)
    send(held, signal.SIGSTOP)
    run.until(lambda: run.events.count("join") >= LEARNERS - 1)
    run.sleep(2)
    strike(run)
    send(held, signal.SIGCONT)


def in_ending(run: Watched, strike: Strike) -> None:
    """Everybody runs a tenth of the time from shortly before the end on, so that open rounds take their time."""
    run.until(lambda: run.near_the_end(2))
    while run.alive and run.state.phase == "running":
        for learner in range(LEARNERS):
            send(run.trainer(learner), signal.SIGSTOP)
        run.sleep(0.45)
        for learner in range(LEARNERS):
            send(run.trainer(learner), signal.SIGCONT)
        run.sleep(0.05)
    strike(run)


def in_final(run: Watched, strike: Strike) -> None:
    """The last learner's island is held shortly before the end: the last round waits for it."""
    run.until(lambda: run.near_the_end(4))
    held = run.island(LAST)
    for process in held:
        send(process, signal.SIGSTOP)
    run.until(lambda: run.state.phase in ("final", "ended"), 60)
    strike(run)
    for process in held:
        send(process, signal.SIGCONT)


def in_ended(run: Watched, strike: Strike) -> None:
    """An agent is held as soon as the run is over: the syncer waits for its link to end, up to 5 s, before it exports. Whether
    it was in time shows in the phases."""
    run.until(lambda: run.near_the_end(2))
    run.until(lambda: run.state.phase == "final", 60)
    held = run.agent(LAST)
    while run.alive and run.state.phase == "final":  # it answers the last round, and is held between two looks
        send(held, signal.SIGSTOP)
        run.sleep(0.2)
        send(held, signal.SIGCONT)
        run.sleep(0.02)
    strike(run)
    send(held, signal.SIGCONT)


def in_export(run: Watched, strike: Strike) -> None:
    """The disk is full for the syncer from the last round on: it tries to save and export until it is killed."""
    run.until(lambda: run.near_the_end(2))
    held = run.syncer()
    if held is not None:
        with suppress(psutil.Error):
            held.rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    run.sleep(8)  # its records stay with it meanwhile, so nothing shows how far it is
    strike(run)
    if held is not None:
        with suppress(psutil.Error):
            held.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


PHASES: list[tuple[str, str, Callable[[Watched, Strike], None], Strike, str]] = [
    ("waiting", "killed in waiting", in_waiting, kill, ""),
    ("ending", "killed in ending", in_ending, kill, ""),
    ("final", "killed in final", in_final, kill, ""),
    ("ended", "killed in ended", in_ended, kill, ""),
    ("export", "killed in export", in_export, kill, ""),
    ("", "frozen in final", in_final, freeze, ""),
    ("", "cut in final", in_final, cut, "cut:0@0.5s"),
    ("", "half-open in final", in_final, mute, "cut:0@0.5s"),
]


def phase_run(name: str, reach: Callable[[Watched, Strike], None], strike: Strike, chaos: str, seed: int, step_s: float,
              guardian: Guardian) -> Outcome:  # fmt: skip
    """A short run that is struck where it should be. `chaos`: puts a relay before the learner whose link is struck."""
    steps = str(max(40, round(12 / step_s)))
    options = [*BASE, *HELD, "--recipe.seed", str(seed), "--policy.steps", steps, "--launch.no-evaluate"]
    if reach is in_ending:  # open rounds want everybody's word, and so take their time
        options += ["--policy.quorum", str(LEARNERS)]
    with Watched(RUNS / f"{name.replace(' ', '-')}-{seed}", options, guardian, chaos) as run:
        run.step_s = step_s
        seen: list[str] = []

        def strikes(run: Watched) -> None:
            seen.append(run.state.phase if run.alive else "nothing: it was over")
            strike(run)

        reach(run, strikes)
        found = run.outcome(240)
    what = told(found)
    if found.summary and not found.code:
        what = f"generations {found.generations}, lost {found.lost():.0f}, phases {found.phases}"
    print(f"{name} #{seed}: struck in {' '.join(seen)}; {what}", flush=True)
    return found


# ---------------------------------------------------------------- the table


def rows(name: str, found: list[Outcome], whole: list[Outcome]) -> list[Row]:
    """A scenario's bars. `whole`: the runs without a fault."""
    ended = [one for one in found if not one.code and one.summary]
    made = [at_most(f"{name}: runs that did not end well", len(found) - len(ended), 0)]
    if not ended:
        return made
    gaps, hooks = [one.gap for one in ended], [one.hook for one in ended]
    made += [
        at_most(f"{name}: longest gap / median step {shown(gaps)}", statistics.median(gaps), 3),
        at_most(f"{name}: longest hook / median step {shown(hooks)}", statistics.median(hooks), 0.5),
        at_most(f"{name}: lost but by overlap", max(one.lost() for one in ended), 0, "tokens"),
        at_most(f"{name}: runs whose tokens do not add up", sum(not one.exact for one in ended), 0),
        at_most(f"{name}: generations", max(one.generations for one in ended), 1),
    ]
    if name != "no fault" and whole:
        mean = statistics.fmean(float(one.summary["eval_loss"]) for one in ended)
        base = statistics.fmean(float(one.summary["eval_loss"]) for one in whole)
        text = f"{name}: eval loss {mean:.4f}, without a fault {base:.4f}: apart"
        made.append(at_most(text, 100 * abs(mean / base - 1), 1, "%"))
    return made


def shown(values: list[float]) -> str:
    """All of them."""
    return "(" + " ".join(f"{value:.2f}" for value in values) + ")"


def kill_rows(found: list[Outcome]) -> list[Row]:
    """How soon there are versions again."""
    times = [seconds for one in found for seconds in one.recoveries()]
    if not times:
        return [Row("kill to the next published version", "none was seen", "s", "<= 5", False)]
    return [at_most(f"kill to the next published version, median of {len(times)}", statistics.median(times), 5, "s"),
            at_most("kill to the next published version, worst", max(times), 10, "s")]  # fmt: skip


def phase_rows(found: dict[str, list[Outcome]], kills: list[Outcome]) -> list[Row]:
    """Every phase was struck, and what it left."""
    struck = {"running": sum(one.phases.count("running") for one in kills)}
    made = []
    for phase, name, *_ in PHASES:
        outcomes = found.get(name)
        if outcomes is None:
            continue
        if phase:
            wanted = "ended" if phase == "export" else phase
            struck[phase] = sum(one.phases.count(wanted) for one in outcomes)
        good = [one for one in outcomes if not one.code and one.summary and one.exact and one.exported]
        made.append(at_most(f"{name}: runs that did not end well", len(outcomes) - len(good), 0))
        if good:
            made.append(at_most(f"{name}: lost but by overlap", max(one.lost() for one in good), 0, "tokens"))
            made.append(at_most(f"{name}: generations", max(one.generations for one in good), 1))
    return [*(at_least(f"kills that struck in {phase}", count, 1) for phase, count in struck.items()), *made]


def main() -> int:
    """Seed by seed, all scenarios; then the phases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, runs of a minute, for development")
    parser.add_argument("--only", action="append", help="a scenario by its name, or `phases`; may be given several times")
    parser.add_argument("--seeds", type=int, help="how many seeds (3; quick 1)")
    options = parser.parse_args()
    seeds, seconds = options.seeds or (1 if options.quick else 3), QUICK_S if options.quick else SECONDS
    guardian = Guardian()
    step_s = train(Scenario("calibration"), 0, 10, 0.2, guardian).step_s
    wanted = [one for one in SCENARIOS if not options.only or one.name in options.only]
    phases = [one for one in PHASES if not options.only or "phases" in options.only or one[1] in options.only]
    found: dict[str, list[Outcome]] = {}
    for seed in range(seeds):
        for one in wanted:
            found.setdefault(one.name, []).append(train(one, seed, seconds, step_s, guardian))
        for _, name, reach, strike, chaos in phases:
            found.setdefault(name, []).append(phase_run(name, reach, strike, chaos, seed, step_s, guardian))
    guardian.dismiss()
    whole = [one for one in found.get("no fault", []) if one.summary]
    table = [row for one in wanted for row in rows(one.name, found[one.name], whole)]
    kills = found.get("kills", [])
    return report("survive", [*table, *(kill_rows(kills) if kills else []), *phase_rows(found, kills)])


if __name__ == "__main__":
    raise SystemExit(main())
