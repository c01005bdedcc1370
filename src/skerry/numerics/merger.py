"""The global model: its values, the outer momentum, the rounds' accumulators. Every driver of the core merges with it.

Rules: one thread at a time; the syncer's worker thread calls the methods in the order in which its event loop asked (Merge ->
add, Close -> close). The outer step reads the present slot of its fragment and writes the spare one (slots.py), block by block;
while a block is in the cache it is looked at (is it finite?) and goes into the slot's checksum. What was present stays so until
whoever asked turns it: a version that is computed is not yet one. Memory: the slots, one accumulator for each open round, a
body for each version in use; it is kept and used again. Nothing grows with the number of learners.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from skerry.codecs import Codec, get_codec
from skerry.core.layout import Layout
from skerry.core.policy import Policy
from skerry.numerics import accumulate
from skerry.numerics.accumulate import Accumulator, Screened, parts_of, screen
from skerry.numerics.outer import OuterNesterov
from skerry.numerics.slots import Array, Checksum, Slots, checksum_of

Body = NDArray[np.uint8]


class Made(NamedTuple):
    """What a round came to: the new value, encoded, and the checksum of the slot that holds it."""

    body: Body
    checksum: int


class Merger:
    """The tensors of one run. `slots`: where its values lie; none: in memory of its own."""

    def __init__(self, policy: Policy, layout: Layout, slots: Slots | None = None) -> None:
        self.slots = Slots(layout) if slots is None else slots
        self.up: Codec = get_codec(policy.codec_up)
        self.down: Codec = get_codec(policy.codec_down)
        self._rule = policy.merge
        self._outer = OuterNesterov(lr=policy.outer_lr, momentum=policy.outer_momentum)
        self._parts = [parts_of(layout, fragment) for fragment in range(policy.fragments)]
        self._longest = max(layout.sizes)
        self._rounds: dict[tuple[int, int], tuple[Accumulator, torch.Tensor]] = {}
        self._spare = [self._memory() for _ in range(policy.open_rounds)]
        self._bodies: dict[int, list[Body]] = {}

    @staticmethod
    def footprint(policy: Policy, layout: Layout, buffers: int) -> int:
        """About how many bytes a syncer of this policy and layout needs."""
        up, down = get_codec(policy.codec_up).nbytes, get_codec(policy.codec_down).nbytes
        longest = max(layout.sizes)
        return (16 * layout.total + down(layout.total) + 4 * longest * policy.open_rounds
                + buffers * up(longest) + down(longest) * policy.fragments)  # fmt: skip

    def _memory(self) -> torch.Tensor:
        """For one accumulator. From numpy, which asks for huge pages where torch does not: a quarter faster to add to."""
        return torch.from_numpy(np.zeros(self._longest, np.float32))

    def values(self, fragment: int) -> Array:
        """The fragment's present value."""
        return self.slots.present(fragment).theta

    def provide(self, fragment: int, body: memoryview) -> tuple[str, Body]:
        """A first value has come, in fp32: what is wrong with it ("" if nothing is), and its encoding."""
        flaw = screen(self._parts[fragment], body, get_codec("fp32")).flaw
        return flaw, self._encode(fragment, np.frombuffer(body, np.float32))

    def adopt(self, fragment: int, theta: Body | Array | memoryview, momentum: Array | None = None, version: int = 0,
              step: int = 0, position: int = 0) -> None:  # fmt: skip
        """It is the run's: a first value, or one of a snapshot. In fp32."""
        slot = self.slots.spare(fragment)
        slot.theta[:] = np.frombuffer(theta, np.float32)
        slot.momentum[:] = 0 if momentum is None else momentum
        self.slots.flip(fragment, version=version, step=step, position=position, checksum=checksum_of(slot))

    def screen(self, fragment: int, body: memoryview) -> Screened:
        """First pass over a contribution."""
        return screen(self._parts[fragment], body, self.up)

    def add(self, fragment: int, step: int, body: memoryview, screened: Screened, weight: float) -> None:
        """Accumulate a contribution into its round."""
        if (fragment, step) not in self._rounds:
            memory = self._spare.pop() if self._spare else self._memory()
            self._rounds[fragment, step] = (Accumulator(self._parts[fragment], self._rule, memory), memory)
        self._rounds[fragment, step][0].add(body, self.up, screened, weight)

    def close(self, fragment: int, step: int) -> Made:
        """The outer step on what the round accumulated, into the spare slot. Raises FloatingPointError if its result would not
        be finite; then nothing is said of that slot."""
        accumulator, memory = self._rounds.pop((fragment, step))
        try:
            if not accumulator.sound:
                raise FloatingPointError("the sums of its contributions are not finite")
            checksum = self._step(fragment, accumulator)
        finally:
            self._spare.append(memory)
        return Made(self._encode(fragment, self.slots.made(fragment).theta), checksum)

    def _step(self, fragment: int, accumulator: Accumulator) -> int:
        old, new, checksum = self.slots.present(fragment), self.slots.spare(fragment), Checksum()
        theta, buffer, new_theta, new_buffer = map(torch.from_numpy, (*old, *new))
        zeros = torch.zeros(min(accumulate.BLOCK, theta.numel()))
        for at, delta in accumulator.results():
            there = slice(at, at + delta.numel())
            self._outer.step(theta[there], buffer[there], delta, new_theta[there], new_buffer[there])
            # 0 times infinity is not a number. The momentum need not be looked at: it is in theta.
            if torch.dot(new_theta[there], zeros[: delta.numel()]).item() != 0.0:
                raise FloatingPointError("the new value would not be finite")
            checksum.add(new.theta[there], new.momentum[there])
        return checksum.value

    def cancel(self, fragment: int, step: int) -> None:
        """Forget a round; there may have been nothing in it."""
        dropped = self._rounds.pop((fragment, step), None)
        if dropped is not None:
            self._spare.append(dropped[1])

    def encode(self, fragment: int) -> Body:
        """The fragment's value as it stands, in the downward codec; give the body back with `reuse`."""
        return self._encode(fragment, self.values(fragment))

    def _encode(self, fragment: int, values: Array) -> Body:
        spare = self._bodies.get(fragment)
        body = spare.pop() if spare else np.zeros(self.down.nbytes(values.size), np.uint8)
        self.down.encode(values, body.data)
        return body

    def encode_all(self) -> list[Body]:
        """Every fragment's value."""
        return [self.encode(fragment) for fragment in range(len(self._parts))]

    @property
    def spare(self) -> int:
        """Bodies that nobody reads, kept to be written again."""
        return sum(map(len, self._bodies.values()))

    def reuse(self, fragment: int, bodies: Iterable[Body]) -> None:
        """Nobody reads these bodies any more. (The one method that another thread may call.)"""
        self._bodies.setdefault(fragment, []).extend(bodies)
