"""How fast the syncer merges, and whether its memory depends on the number of learners: `python -m benchmarks.merge`.

Both with the syncer's own Merger and Pool, without the network, on one thread.
Speed: a model of 100M parameters, eight bf16 contributions to every fragment; all that is done with a body (both passes of
decoding, screening, RDA) and its share of the outer step, as (elements merged x 4 bytes) / time. The yardstick, measured
in between: `y.add_(x, alpha=a)` on fp32 tensors of that size. Encoding the new value for its delivery is no part of the
merge and is shown apart. Time is the process's own (all its threads), and of each round, as of the yardstick, the fastest
of the repeats: what other processes do to the caches counts for little.
Memory: processes of their own merge M contributions to every fragment, two rounds open at once, through a fixed pool of
receive buffers; peak (VmHWM) over that of one which is ready and merges nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from time import process_time

import numpy as np
import torch
from benchmarks._table import Row, at_least, report

from skerry.core.layout import Layout, TensorSpec, build_layout
from skerry.core.policy import Policy
from skerry.core.screening import weight_of
from skerry.numerics import accumulate
from skerry.numerics.merger import Body, Merger
from skerry.syncer.pool import Pool

LEARNERS = 8
REPEATS = 7
BLOCKS = (32768, 65536, 98304, 131072, 262144)
BUFFERS = 4  # of the pool in the memory measurement
POLICY = Policy()
WEIGHT = weight_of(24 * 8192, 24)


def model_layout() -> Layout:
    """A Llama-style model of 100M parameters, its embedding tied, in 24 balanced fragments."""
    width, hidden = 768, 2048
    specs = [TensorSpec(name="embedding.weight", shape=(19_500, width), direct=True),
             TensorSpec(name="norm.weight", shape=(width,))]  # fmt: skip
    shapes = {"q": (width, width), "k": (width, width), "v": (width, width), "o": (width, width), "up": (hidden, width),
              "gate": (hidden, width), "down": (width, hidden), "norm1": (width,), "norm2": (width,)}  # fmt: skip
    for layer in range(12):
        specs += [TensorSpec(name=f"layers.{layer}.{name}.weight", shape=shape) for name, shape in shapes.items()]
    return build_layout(specs, POLICY.fragments, POLICY.fragmentation)


@dataclass(frozen=True)
class Spent:
    """Seconds by what they were spent on."""

    screening: float = 0.0
    adding: float = 0.0
    stepping: float = 0.0
    encoding: float = 0.0

    @property
    def merging(self) -> float:
        return self.screening + self.adding + self.stepping

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Spent)))


class TimedMerger(Merger):
    """Merger that tells how long it has been encoding."""

    encoding = 0.0

    def encode(self, fragment: int) -> Body:
        began = process_time()
        body = super().encode(fragment)
        self.encoding += process_time() - began
        return body


def contributions(layout: Layout, merger: Merger) -> list[list[np.ndarray]]:
    """Per fragment the bodies of all learners, each in memory of its own."""
    values = np.random.default_rng(0).standard_normal(layout.total, np.float32)
    values *= 1e-3
    first, nbytes = np.empty(merger.up.nbytes(layout.total), np.uint8), merger.up.nbytes
    merger.up.encode(values, memoryview(first))
    all_of = [np.roll(first, 7_777_778 * learner) for learner in range(LEARNERS)]
    return [[body[nbytes(start) : nbytes(start + size)] for body in all_of]
            for start, size in zip(layout.offsets, layout.sizes, strict=True)]  # fmt: skip


class Speed:
    """Model, contributions and yardstick."""

    def __init__(self) -> None:
        self.layout = model_layout()
        self._merger = TimedMerger(POLICY, self.layout)
        self._bodies = contributions(self.layout, self._merger)
        self._x, self._y = torch.randn(self.layout.total), torch.zeros(self.layout.total)

    def measure(self, fragments: Sequence[int], repeats: int) -> tuple[float, Spent]:
        """Seconds: of the fastest yardstick; of the fastest round of each fragment, added up."""
        yardsticks: list[float] = []
        rounds: dict[int, list[Spent]] = {fragment: [] for fragment in fragments}
        for _ in range(repeats):
            yardsticks += [self._yardstick() for _ in range(3)]
            for fragment in fragments:
                rounds[fragment].append(self._round(fragment))
        fastest = (min(tries, key=lambda spent: spent.merging) for tries in rounds.values())
        return min(yardsticks), sum(fastest, Spent())

    def ratio(self, fragments: Sequence[int], measured: tuple[float, Spent]) -> float:
        """Merged elements a second over the yardstick's."""
        merged = LEARNERS * sum(self.layout.sizes[fragment] for fragment in fragments)
        return merged / measured[1].merging * measured[0] / self.layout.total

    def _yardstick(self) -> float:
        began = process_time()
        self._y.add_(self._x, alpha=0.5)
        return process_time() - began

    def _round(self, fragment: int) -> Spent:
        merger, spent = self._merger, Spent()
        for body in self._bodies[fragment]:
            began = process_time()
            screened = merger.screen(fragment, memoryview(body))
            between = process_time()
            merger.add(fragment, 0, memoryview(body), screened, WEIGHT)
            spent += Spent(screening=between - began, adding=process_time() - between)
        began, merger.encoding = process_time(), 0.0
        merger.reuse(fragment, [merger.close(fragment, 0)])
        stepping = process_time() - began - merger.encoding
        return spent + Spent(stepping=stepping, encoding=merger.encoding)


def speed() -> list[Row]:
    """The merge against y.add_."""
    it = Speed()
    everything = range(POLICY.fragments)
    yardstick, spent = it.measure(everything, REPEATS)
    merged = LEARNERS * it.layout.total
    each = 1e9 / merged
    return [
        Row("parameters", it.layout.total),
        Row("y.add_(x, alpha=a) on fp32 of that size", 4e-9 * it.layout.total / yardstick, "GB/s"),
        Row(f"merge, M = {LEARNERS}, bf16, one thread", 4e-9 * merged / spent.merging, "GB/s"),
        at_least("merge / add_", it.ratio(everything, (yardstick, spent)), 0.4),
        Row("decode and screen", each * spent.screening, "ns/element"),
        Row("decode and accumulate", each * spent.adding, "ns/element"),
        Row(f"outer step, an {LEARNERS}th of it", each * spent.stepping, "ns/element"),
        Row(f"not of the merge: encoding the delivery, an {LEARNERS}th of it", each * spent.encoding, "ns/element"),
        *block_sizes(it, everything[::3]),
    ]


def block_sizes(it: Speed, fragments: Sequence[int]) -> Iterator[Row]:
    """The same with other block sizes: why accumulate.BLOCK is what it is."""
    chosen = accumulate.BLOCK
    for block in BLOCKS:
        accumulate.BLOCK = block
        ratio = it.ratio(fragments, it.measure(fragments, REPEATS - 2))
        yield Row(f"merge / add_ in blocks of {block}{' (chosen)' if block == chosen else ''}", ratio)
    accumulate.BLOCK = chosen


def peak_over_idle() -> list[Row]:
    """Peak memory of merging processes over an idle one."""
    peaks, here = {}, Path(__file__).resolve().parent.parent
    for learners in (0, 8, 32):
        command = [sys.executable, "-m", "benchmarks.merge", "--peak", str(learners)]
        peaks[learners] = int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=here).stdout)
    few, many = peaks[8] - peaks[0], peaks[32] - peaks[0]
    return [
        Row("peak memory of an idle syncer", peaks[0] / 2**20, "MiB"),
        Row("over it with M = 8", few / 2**20, "MiB"),
        Row("over it with M = 32", many / 2**20, "MiB"),
        Row("over idle, M = 32 / M = 8", many / few, "", "0.9 to 1.1", abs(many / few - 1) <= 0.1),
    ]


def peak(learners: int) -> int:
    """In a process of its own: the peak resident memory (bytes) of merging so many contributions to every fragment."""
    layout = model_layout()
    merger = Merger(POLICY, layout)
    pool = Pool(BUFFERS, merger.up.nbytes(max(layout.sizes)))
    merger.theta.fill(1), merger.momentum.fill(0)
    shelf = merger.encode_all()
    some = np.empty(merger.up.nbytes(1 << 16), np.uint8)
    merger.up.encode(np.random.default_rng(0).standard_normal(1 << 16, np.float32), memoryview(some))
    for first in range(0, len(layout.fragments) if learners else 0, POLICY.open_rounds):
        fragments = range(first, min(first + POLICY.open_rounds, len(layout.fragments)))
        for _ in range(learners // 2):
            for fragment in fragments:
                receive_two(merger, pool, fragment, merger.up.nbytes(layout.sizes[fragment]), some)
        for fragment in fragments:
            last, shelf[fragment] = shelf[fragment], merger.close(fragment, 0)
            merger.reuse(fragment, [last])
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def receive_two(merger: Merger, pool: Pool, fragment: int, nbytes: int, some: np.ndarray) -> None:
    """Two contributions of some random values are received at the same time, then merged."""
    buffers = [pool.take(lambda: None) for _ in range(2)]
    for buffer in buffers:
        for at in range(0, nbytes, some.nbytes):
            stop = min(at + some.nbytes, nbytes)
            buffer[at:stop] = some[: stop - at]
    for buffer in buffers:
        body = memoryview(buffer)[:nbytes]
        merger.add(fragment, 0, body, merger.screen(fragment, body), WEIGHT)
        pool.give(buffer)


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", type=int, metavar="M", help="only print the peak memory (bytes) of merging M contributions")
    peak_of = parser.parse_args().peak
    torch.set_num_threads(1)
    if peak_of is not None:
        print(peak(peak_of))
        return 0
    return report("merge", [*peak_over_idle(), *speed()])


if __name__ == "__main__":
    raise SystemExit(main())
