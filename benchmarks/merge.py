"""How fast the syncer merges, and whether its memory depends on the number of learners: `python -m benchmarks.merge`.

Speed: a model of 100M parameters, eight bf16 contributions to every fragment, one thread; everything the syncer does with a
body (both passes of decoding, screening, RDA) and its share of the outer step, as (elements merged x 4 bytes) / time. The
yardstick, measured before and after each repeat: `y.add_(x, alpha=a)` on fp32 tensors of that size.
Memory: processes of their own that hold the model and its momentum and merge rounds of M contributions, two fragments open
at once, through a fixed pool of receive buffers; the peak (VmHWM) over that of one which holds the model and merges nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import torch
from benchmarks._table import Row, at_least, report

from skerry.codecs import get_codec
from skerry.core.layout import Layout, TensorSpec, build_layout
from skerry.numerics import accumulate
from skerry.numerics.accumulate import Accumulator, Part, parts_of, screen, weight_of
from skerry.numerics.outer import OuterNesterov

LEARNERS = 8
REPEATS = 7
BLOCKS = (32768, 65536, 98304, 131072, 262144)
POOL = 4  # receive buffers in the memory measurement
OPEN = 2  # rounds open at once there
CODEC = get_codec("bf16")
OUTER = OuterNesterov(lr=0.8, momentum=0.4)
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
    return build_layout(specs, 24, "balanced")


def zeros(elements: int) -> torch.Tensor:
    """Flat fp32 as the syncer should allocate it: numpy asks for huge pages where the system offers them, torch does not."""
    values = np.empty(elements, np.float32)
    values.fill(0)
    return torch.from_numpy(values)


@dataclass
class Spent:
    """Seconds by what they were spent on."""

    screening: float = 0.0
    adding: float = 0.0
    stepping: float = 0.0

    @property
    def total(self) -> float:
        return self.screening + self.adding + self.stepping


class Store:
    """What every syncer holds: the model, its momentum, one accumulator's memory."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.theta, self.momentum = zeros(layout.total), zeros(layout.total)
        self.memory = zeros(max(layout.sizes))
        self.spent = Spent()

    def merge(self, fragment: int, bodies: Sequence[memoryview]) -> None:
        """One round of one fragment."""
        parts = parts_of(self.layout, fragment)
        began = process_time()
        accumulator = Accumulator(parts, "rda", self.memory)
        self.spent.adding += process_time() - began
        for body in bodies:
            began = process_time()
            screened = screen(parts, body, CODEC)
            between = process_time()
            accumulator.add(body, CODEC, screened, WEIGHT)
            self.spent.screening += between - began
            self.spent.adding += process_time() - between
        began = process_time()
        self.step(fragment, accumulator)
        self.spent.stepping += process_time() - began

    def step(self, fragment: int, accumulator: Accumulator) -> None:
        """The outer step, block by block as the merged gradient is made."""
        for at, delta in accumulator.results():
            start = self.layout.offsets[fragment] + at
            stop = start + delta.numel()
            OUTER.step(self.theta[start:stop], self.momentum[start:stop], delta)


def contributions(layout: Layout) -> list[list[memoryview]]:
    """Per fragment the bodies of all learners, each in memory of its own."""
    values = np.random.default_rng(0).standard_normal(layout.total, np.float32)
    values *= 1e-3
    first = np.empty(CODEC.nbytes(layout.total), np.uint8)
    CODEC.encode(values, memoryview(first))
    all_of = [memoryview(np.roll(first, 7_777_778 * learner)) for learner in range(LEARNERS)]
    return [
        [body[CODEC.nbytes(start) : CODEC.nbytes(start + size)] for body in all_of]
        for start, size in zip(layout.offsets, layout.sizes, strict=True)
    ]


def speed() -> list[Row]:
    """The merge against y.add_."""
    layout = model_layout()
    store, bodies = Store(layout), contributions(layout)
    x, y = torch.randn(layout.total), torch.zeros(layout.total)

    def yardstick() -> float:
        began = process_time()
        y.add_(x, alpha=0.5)
        return process_time() - began

    def share(fragments: Sequence[int]) -> tuple[float, float, Spent]:
        """Of the yardstick's rate; the yardstick's seconds per element; what the merge was spent on."""
        store.spent = Spent()
        seconds = [yardstick() for _ in range(3)]
        for fragment in fragments:
            store.merge(fragment, bodies[fragment])
        seconds += [yardstick() for _ in range(3)]
        merged = LEARNERS * sum(layout.sizes[fragment] for fragment in fragments)
        each = median(seconds) / layout.total
        return each * merged / store.spent.total, each, store.spent

    everything = range(len(layout.fragments))
    share(everything)
    runs = [share(everything) for _ in range(REPEATS)]
    merged = LEARNERS * layout.total
    spent = [(s.total, s.screening, s.adding, s.stepping) for _, _, s in runs]
    total, screening, adding, stepping = (1e9 * median(column) / merged for column in zip(*spent, strict=True))
    rows = [
        Row("parameters", layout.total),
        Row("y.add_(x, alpha=a) on fp32 of that size", 4e-9 / median(each for _, each, _ in runs), "GB/s"),
        Row(f"merge, M = {LEARNERS}, bf16, one thread", 4 / total, "GB/s"),
        at_least("merge / add_ (median of repeats)", median(ratio for ratio, _, _ in runs), 0.4),
        Row("merge / add_, lowest and highest repeat", f"{min(r[0] for r in runs):.3f} to {max(r[0] for r in runs):.3f}"),
        Row("decode and screen", screening, "ns/element"),
        Row("decode and accumulate", adding, "ns/element"),
        Row(f"result and outer step, a {LEARNERS}th of it", stepping, "ns/element"),
    ]
    return rows + list(block_sizes(share, everything[::3]))


def block_sizes(share, fragments: Sequence[int]) -> Iterator[Row]:
    """The same with other block sizes: why accumulate.BLOCK is what it is."""
    chosen = accumulate.BLOCK
    ratios: dict[int, list[float]] = {block: [] for block in BLOCKS}
    for _ in range(3):
        for block in BLOCKS:
            accumulate.BLOCK = block
            ratios[block].append(share(fragments)[0])
    accumulate.BLOCK = chosen
    for block in BLOCKS:
        yield Row(f"merge / add_ in blocks of {block}{' (chosen)' if block == chosen else ''}", median(ratios[block]))


def peak_over_idle() -> list[Row]:
    """Peak memory of merging processes over an idle one."""
    peaks = {}
    for learners in (0, 8, 32):
        command = [sys.executable, "-m", "benchmarks.merge", "--peak", str(learners)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parent.parent)
        peaks[learners] = int(done.stdout)
    few, many = peaks[8] - peaks[0], peaks[32] - peaks[0]
    return [
        Row("peak memory of an idle syncer", peaks[0] / 2**20, "MiB"),
        Row("over it with M = 8", few / 2**20, "MiB"),
        Row("over it with M = 32", many / 2**20, "MiB"),
        Row("over idle, M = 32 / M = 8", many / few, "", "0.9 to 1.1", abs(many / few - 1) <= 0.1),
    ]


def peak(learners: int) -> int:
    """In a process of its own: hold the model, merge rounds of so many contributions; the peak resident memory in bytes."""
    layout = model_layout()
    store = Store(layout)
    accumulators = [zeros(max(layout.sizes)) for _ in range(OPEN)] if learners else []
    pool = [memoryview(np.zeros(CODEC.nbytes(max(layout.sizes)), np.uint8)) for _ in range(POOL)] if learners else []
    pattern = np.empty(CODEC.nbytes(1 << 16), np.uint8)
    CODEC.encode(np.random.default_rng(0).standard_normal(1 << 16, np.float32), memoryview(pattern))
    for first in range(0, len(layout.fragments) if learners else 0, OPEN):
        fragments = range(first, min(first + OPEN, len(layout.fragments)))
        parts = {fragment: parts_of(layout, fragment) for fragment in fragments}
        rounds = {f: Accumulator(parts[f], "rda", lent) for f, lent in zip(fragments, accumulators, strict=True)}
        for arrival in range(learners * len(fragments)):
            fragment = fragments[arrival % len(fragments)]
            receive_and_add(pool[arrival % POOL], pattern, parts[fragment], rounds[fragment])
        for fragment in fragments:
            store.step(fragment, rounds[fragment])
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def receive_and_add(buffer: memoryview, pattern: np.ndarray, parts: Sequence[Part], accumulator: Accumulator) -> None:
    """A contribution of some random values arrives in a buffer of the pool and is merged."""
    body = buffer[: CODEC.nbytes(sum(part.size for part in parts))]
    for at in range(0, body.nbytes, pattern.nbytes):
        part = body[at : at + pattern.nbytes]
        part[:] = pattern[: part.nbytes].data
    screened = screen(parts, body, CODEC)
    accumulator.add(body, CODEC, screened, WEIGHT)


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
