"""python -m worlds: ten thousand runs with every fault at once, or one of them again, or with a fault planted in the code.

Ends with 1 if anything did not hold, if some kind of fault never struck, or if a planted one was not found.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial

from worlds.blows import ORDINARY, ROUGH
from worlds.plan import Plan, failure, shrunk
from worlds.planted import PLANTED, found

CHUNK = 25
SHRUNK = 3
"""So many failures are shrunk; the others are named."""


def some(seeds: Iterable[int]) -> tuple[Counter[str], list[tuple[int, str]]]:
    """These worlds: what happened in them, and what failed."""
    counts: Counter[str] = Counter()
    failed = []
    for seed in seeds:
        try:
            counts += Plan.of(seed).carry_out().counts
        except Exception as error:
            failed.append((seed, f"{type(error).__name__}: {error}".split("\n")[0]))
    return counts, failed


def many(first: int, seeds: int, processes: int) -> int:
    """All of them. Returns the exit code."""
    began, counts, failed = time.monotonic(), Counter[str](), []
    chunks = [range(at, min(at + CHUNK, first + seeds)) for at in range(first, first + seeds, CHUNK)]
    with multiprocessing.Pool(processes) as pool:
        for done, wrong in pool.imap_unordered(some, chunks):
            counts += done
            failed += wrong
            for seed, what in wrong:
                print(f"failed: {what[:160]}\n  python -m worlds --seed {seed} --trace", flush=True)
    took = time.monotonic() - began
    print(f"{seeds} worlds, {seeds / took:.0f} a second; {len(failed)} failed\n")
    kinds = [f"fault: {kind}" for kind in ROUGH if kind not in ORDINARY]
    for name in [*kinds, *sorted(name for name in counts if name not in kinds)]:
        print(f"{counts[name]:9} {name}")
    for seed, _ in failed[:SHRUNK]:
        show_shrunk(seed)
    return 1 if failed or not all(counts[kind] for kind in kinds) else 0


def one(seed: int, trace: bool) -> int:
    """One world again; what is left of it when it fails."""
    if trace:
        Plan.of(seed).carry_out(trace=True)
    elif failure(Plan.of(seed)):
        show_shrunk(seed)
        return 1
    print(f"world {seed} holds")
    return 0


def show_shrunk(seed: int) -> None:
    """What is left of a failing world when the blows are left out that it does not need."""
    plan = shrunk(Plan.of(seed))
    print(f"\nworld {seed}: {failure(plan)}\n{plan.learners} learners, {plan.policy}")
    print(f"level {'machine' if plan.machine else 'process'}, {'gentle' if plan.gentle else 'rough'}")
    for name, stage in zip(("from the beginning", "as it ends", "when it is over"), plan.stages, strict=True):
        print(f"{name}: {', '.join(kind for kind, _ in stage) or 'nothing'}")


def planted(processes: int) -> int:
    """Every planted fault."""
    code = 0
    with multiprocessing.Pool(processes) as pool:
        for rule, seed in zip(PLANTED, pool.imap(partial(found), PLANTED), strict=True):
            print(f"{'NOT FOUND' if seed is None else f'world {seed:3}'}  {rule}", flush=True)
            code |= seed is None
    return code


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m worlds", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many worlds")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed")
    parser.add_argument("--seed", type=int, help="this one alone; if it fails, what is left of it when it is shrunk")
    parser.add_argument("--trace", action="store_true", help="with --seed: every blow, event and action")
    parser.add_argument("--planted", action="store_true", help="faults planted in the code, each of which must be found")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.planted:
        return planted(options.processes)
    if options.seed is not None:
        return one(options.seed, options.trace)
    return many(options.first, options.seeds, options.processes)


if __name__ == "__main__":
    sys.exit(main())
