"""The global model: its values, the outer momentum, the rounds' accumulators. Every driver of the core merges with it.

Rules: one thread at a time; the syncer's worker thread calls the methods in the order in which its event loop asked (Merge ->
add, Close -> close), so what is read of `theta` in between is a consistent cut. Memory: theta, momentum, one accumulator for
each round that is open, a body for each version in use; it is kept and used again. Nothing grows with the number of learners.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from skerry.codecs import Codec, get_codec
from skerry.core.layout import Layout
from skerry.core.policy import Policy
from skerry.numerics.accumulate import Accumulator, Screened, parts_of, screen
from skerry.numerics.outer import OuterNesterov

Values = NDArray[np.float32]
Body = NDArray[np.uint8]


class Merger:
    """The tensors of one run. `theta` and `momentum`: those of a snapshot, which it makes its own."""

    def __init__(self, policy: Policy, layout: Layout, theta: Values | None = None, momentum: Values | None = None) -> None:
        self.theta = np.zeros(layout.total, np.float32) if theta is None else theta
        self.momentum = np.zeros(layout.total, np.float32) if momentum is None else momentum
        self.up: Codec = get_codec(policy.codec_up)
        self.down: Codec = get_codec(policy.codec_down)
        self._rule = policy.merge
        self._outer = OuterNesterov(lr=policy.outer_lr, momentum=policy.outer_momentum)
        self._parts = [parts_of(layout, fragment) for fragment in range(policy.fragments)]
        self._places = [slice(at, at + size) for at, size in zip(layout.offsets, layout.sizes, strict=True)]
        self._longest = max(layout.sizes)
        self._rounds: dict[tuple[int, int], tuple[Accumulator, torch.Tensor]] = {}
        self._spare = [self._memory() for _ in range(policy.open_rounds)]
        self._bodies: dict[int, list[Body]] = {}

    @staticmethod
    def footprint(policy: Policy, layout: Layout, buffers: int) -> int:
        """About how many bytes a syncer of this policy and layout needs."""
        up, down = get_codec(policy.codec_up).nbytes, get_codec(policy.codec_down).nbytes
        longest = max(layout.sizes)
        return (8 * layout.total + down(layout.total) + 4 * longest * policy.open_rounds
                + buffers * up(longest) + down(longest) * policy.fragments)  # fmt: skip

    def _memory(self) -> torch.Tensor:
        """For one accumulator. From numpy, which asks for huge pages where torch does not: a quarter faster to add to."""
        return torch.from_numpy(np.zeros(self._longest, np.float32))

    def values(self, fragment: int) -> Values:
        """The fragment's part of theta."""
        return self.theta[self._places[fragment]]

    def provide(self, fragment: int, body: memoryview) -> tuple[str, Body]:
        """A first value has come, in fp32: what is wrong with it ("" if nothing is), and its encoding."""
        flaw = screen(self._parts[fragment], body, get_codec("fp32")).flaw
        return flaw, self._encode(fragment, np.frombuffer(body, np.float32))

    def adopt(self, fragment: int, body: memoryview) -> None:
        """It is the run's."""
        self.values(fragment)[:] = np.frombuffer(body, np.float32)

    def screen(self, fragment: int, body: memoryview) -> Screened:
        """First pass over a contribution."""
        return screen(self._parts[fragment], body, self.up)

    def add(self, fragment: int, step: int, body: memoryview, screened: Screened, weight: float) -> None:
        """Accumulate a contribution into its round."""
        if (fragment, step) not in self._rounds:
            memory = self._spare.pop() if self._spare else self._memory()
            self._rounds[fragment, step] = (Accumulator(self._parts[fragment], self._rule, memory), memory)
        self._rounds[fragment, step][0].add(body, self.up, screened, weight)

    def close(self, fragment: int, step: int) -> Body:
        """The outer step on what the round accumulated. Returns the new value, encoded. Raises FloatingPointError if it
        would not be finite; then the value before it stands."""
        accumulator, memory = self._rounds.pop((fragment, step))
        if not accumulator.sound:
            self._spare.append(memory)
            raise FloatingPointError("the sums of its contributions are not finite")
        theta, momentum = (torch.from_numpy(flat[self._places[fragment]]) for flat in (self.theta, self.momentum))
        for at, delta in accumulator.results():
            there = slice(at, at + delta.numel())
            self._outer.step(theta[there], momentum[there], delta)
        self._spare.append(memory)
        return self.encode(fragment)

    def cancel(self, fragment: int, step: int) -> None:
        """Forget a round; there may have been nothing in it."""
        dropped = self._rounds.pop((fragment, step), None)
        if dropped is not None:
            self._spare.append(dropped[1])

    def encode(self, fragment: int) -> Body:
        """The fragment's value as it stands, in the downward codec; give the body back with `reuse`."""
        return self._encode(fragment, self.values(fragment))

    def _encode(self, fragment: int, values: Values) -> Body:
        spare = self._bodies.get(fragment)
        body = spare.pop() if spare else np.zeros(self.down.nbytes(values.size), np.uint8)
        self.down.encode(values, body.data)
        return body

    def encode_all(self) -> list[Body]:
        """Every fragment's value."""
        return [self.encode(fragment) for fragment in range(len(self._places))]

    @property
    def spare(self) -> int:
        """Bodies that nobody reads, kept to be written again."""
        return sum(map(len, self._bodies.values()))

    def reuse(self, fragment: int, bodies: Iterable[Body]) -> None:
        """Nobody reads these bodies any more. (The one method that another thread may call.)"""
        self._bodies.setdefault(fragment, []).extend(bodies)
