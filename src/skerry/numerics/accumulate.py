"""Merge accumulators: the sums of one round of one fragment, fed one contribution after the other.

    RDA, per tensor:     A = sum w phi(v),  r = sum w ||v||,  W = sum w,   D = (r / W) phi(A),   phi(x) = x / ||x||, phi(0) = 0
    direct, per tensor:  A = sum w v,                         W = sum w,   D = A / W

Rules:
- The sums are associative: partial sums of local aggregators, merged, are the flat merge (to fp32 rounding). Memory is
  that of the fragment, whatever the number of contributions.
- A body is read twice, block by block in the cache. The first pass (`screen`) only looks: norms, which are finite just if
  every value is. So a refused body leaves no trace, and `add` never meets a flaw.
- Norms are float64 sums of squares; only runs of RUN squares are summed in fp32, at a third of the cost: relative error
  below 1e-7, for equal values, too.
- RDA's edges: a tensor of zeros (or of norm below TINY) has no direction but keeps its weight in W; if ||A|| <= NOISE * W
  the directions cancelled out and D = 0; a single contribution is given back.
- Nothing overflows: a norm above LARGEST is a flaw and weights are at most HEAVIEST, so A stays far inside fp32.

Source: Decoupled DiLoCo (arXiv 2604.21428), radial-directional averaging.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skerry.codecs import Codec
from skerry.core.layout import Layout
from skerry.core.policy import MergeRule
from skerry.core.screening import HEAVIEST

BLOCK = 98304
"""Elements worked on at a time, found by measurement (benchmarks/merge.py); a multiple of codecs.GROUP."""
RUN = 256
NOISE = 1e-6
TINY = 2.0**-60
LARGEST = 2.0**40


class Part(NamedTuple):
    """One tensor's piece of a fragment: `size` elements, averaged directly or by RDA."""

    name: str
    size: int
    direct: bool


def parts_of(layout: Layout, fragment: int) -> tuple[Part, ...]:
    """The parts of a fragment in the order in which they lie in memory and in a body."""
    tensors = layout.tensors
    return tuple(Part(tensors[p.tensor].name, p.size, tensors[p.tensor].direct) for p in layout.fragments[fragment])


@dataclass(frozen=True)
class Screened:
    """What the first pass found. `flaw`: empty, or what is wrong and in which tensor. `norms`: one per part."""

    norms: tuple[float, ...]
    flaw: str = ""


@dataclass(frozen=True)
class Partial:
    """Sums of some contributions, as a local aggregator forwards them. `values`: A, flat fp32 over the fragment;
    `radial`: r, one per part; `weight`: W."""

    values: torch.Tensor
    radial: tuple[float, ...]
    weight: float


def screen(parts: Sequence[Part], body: memoryview, codec: Codec) -> Screened:
    """First pass over a body: the norm of each part, and what is wrong with it. Any thread may call it; it needs one
    block of memory. Raises ValueError if the body's length is not that of the parts."""
    squares = [0.0] * len(parts)
    with np.errstate(all="ignore"):
        for index, _, values in _decoded(parts, body, codec, np.empty(BLOCK, np.float32)):
            squares[index] += _square(values)
    norms = tuple(map(sqrt, squares))
    for part, norm in zip(parts, norms, strict=True):
        if not norm <= LARGEST:
            return Screened(norms, f"non-finite or too large values (norm {norm:.3g}) in tensor {part.name}")
    return Screened(norms)


def _square(values: NDArray[np.float32]) -> float:
    """The square of the norm. Batched products of runs: numpy's long dot would start threads, and drift in fp32."""
    whole = values.size // RUN * RUN
    runs = values[:whole].reshape(-1, RUN)
    total = float(np.add.reduce(np.matmul(runs[:, None], runs[:, :, None]), axis=None, dtype=np.float64))
    if whole < values.size:
        rest = values[whole:].astype(np.float64)
        total += float(np.dot(rest, rest))
    return total


def _decoded(parts: Sequence[Part], body: memoryview, codec: Codec, scratch: NDArray[np.float32],
             ) -> Iterator[tuple[int, int, NDArray[np.float32]]]:  # fmt: skip
    """Decode a body block by block: (index of the part, where in the fragment, values; good until the next block)."""
    total = sum(part.size for part in parts)
    if body.nbytes != codec.nbytes(total):
        raise ValueError(f"a body of {body.nbytes} bytes for {total} elements in {codec.name}")
    index, end = 0, parts[0].size
    for start in range(0, total, BLOCK):
        stop = min(start + BLOCK, total)
        codec.decode(body[codec.nbytes(start) : codec.nbytes(stop)], scratch[: stop - start])
        at = start
        while at < stop:
            if at == end:
                index += 1
                end += parts[index].size
            cut = min(stop, end)
            yield index, at, scratch[at - start : cut - start]
            at = cut


class Accumulator:
    """The sums of one round of one fragment. Not for two threads at once."""

    def __init__(self, parts: Sequence[Part], rule: MergeRule, memory: torch.Tensor | None = None) -> None:
        """`memory`: flat fp32 for A, at least as long as the fragment: a syncer lends the same to one round after another."""
        self._parts = tuple(parts)
        self._directly = tuple(part.direct or rule == "direct" for part in parts)
        total = sum(part.size for part in parts)
        self._sums = torch.from_numpy(np.empty(total, np.float32)) if memory is None else memory[:total]
        assert self._sums.dtype == torch.float32 and self._sums.shape == (total,)
        self._scratch = np.empty(BLOCK, np.float32)
        self.reset()

    def reset(self) -> None:
        """Begin anew with nothing."""
        self._empty = True  # the sums' memory holds anything: the first contribution is written, not added
        self._radial = [0.0] * len(self._parts)
        self._weight = 0.0

    def add(self, body: memoryview, codec: Codec, screened: Screened, weight: float) -> None:
        """Add a contribution (bulk body in that codec) that was screened and found good. `weight`: the Merge's."""
        assert not screened.flaw and 0 <= weight <= HEAVIEST
        factors = [weight if direct else weight / norm if norm > TINY else 0.0
                   for direct, norm in zip(self._directly, screened.norms, strict=True)]  # fmt: skip
        for index, at, values in _decoded(self._parts, body, codec, self._scratch):
            sums = self._sums[at : at + values.size]
            if self._empty:
                torch.mul(torch.from_numpy(values), factors[index], out=sums)
            else:
                sums.add_(torch.from_numpy(values), alpha=factors[index])
        self._empty = False
        for index, norm in enumerate(screened.norms):
            self._radial[index] += weight * norm
        self._weight += weight

    @property
    def sound(self) -> bool:
        """Whether the outer gradient will be finite: RDA's length and direction are as finite as these sums."""
        return all(map(isfinite, (self._weight, *self._radial)))

    def partial(self) -> Partial:
        """The sums as they stand. `values` is this accumulator's own memory: good until the next call."""
        return Partial(self._filled(), tuple(self._radial), self._weight)

    def merge(self, other: Partial) -> None:
        """Add the sums of another accumulator for the same parts and rule."""
        self._filled().add_(other.values)
        self._radial = [mine + its for mine, its in zip(self._radial, other.radial, strict=True)]
        self._weight += other.weight

    def results(self) -> Iterator[tuple[int, torch.Tensor]]:
        """D, the merged outer gradient, in blocks: (where in the fragment, flat fp32 values; yours until the next block,
        so the outer step is made on it while it is in the cache). Without any weight D is zero."""
        scratch, whole, start = torch.from_numpy(self._scratch), self._filled(), 0
        for index, part in enumerate(self._parts):
            sums = whole[start : start + part.size]
            factor = self._factor(index, sums)
            for at in range(0, part.size, BLOCK):
                block = sums[at : at + BLOCK]
                yield start + at, torch.mul(block, factor, out=scratch[: block.numel()])
            start += part.size

    def _filled(self) -> torch.Tensor:
        """The sums, zeros if nothing was added."""
        if self._empty:
            self._sums.zero_()
            self._empty = False
        return self._sums

    def _factor(self, index: int, sums: torch.Tensor) -> float:
        """What makes D of A for one part."""
        if not self._weight:
            return 0.0
        if self._directly[index]:
            return 1 / self._weight
        length = sqrt(_square(sums.numpy()))
        if length <= NOISE * self._weight:
            return 0.0
        return self._radial[index] / self._weight / length
