"""What an agent holds of the fragments: values that came down, hand-overs that go up, and what survives its death.

Rules:
- A delivered value is rounded to its parameters' dtypes before anything else, and base becomes exactly that: what the
  trainer writes, reads back and differs from is the same number.
- Before an order that changes parameters is posted, what it will change is committed to shared memory; after it was
  carried out, base first follows the slot, then one commit makes it true. A new agent finds the slots that the trainer
  marked as applied and does the same (`recover`), so no instant of death loses or doubles a take-over.
- A hand-over's bytes are kept until its fate is known, its copy in fp32 only where `rebase` needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from skerry.codecs import get_codec
from skerry.core.layout import Layout
from skerry.core.learner import LearnerCore
from skerry.core.memory import LearnerMemory
from skerry.core.messages import Applied, Contribution, Count, Delivery, Drop, Encode, TakeOver, TakeOverRule
from skerry.core.policy import Policy
from skerry.errors import ProtocolError
from skerry.island.memory import IslandMemory

_BLOCK = 1 << 16  # elements worked on at a time; a multiple of codecs.GROUP
_RULES: tuple[TakeOverRule, ...] = ("overwrite", "rebase", "blend", "carry")
_NONE = Count(-1, -1, -1)


class Posted(NamedTuple):
    """An order to take over, as committed before the trainer hears of it."""

    slot: int
    generation: int
    fragment: int
    version: int
    step: int
    rule: int
    until: Count


@dataclass
class Hand:
    """A hand-over, and the counters when it was copied out."""

    until: Count
    body: memoryview
    copy: NDArray[np.float32] | None  # of the parameters, for rebase


class Holdings:
    """The agent's side of an island's memory. `dtypes`: of each tensor by name, as in torch."""

    def __init__(self, memory: IslandMemory, layout: Layout, policy: Policy, dtypes: dict[str, str]) -> None:
        self.memory = memory
        self._layout = layout
        self._keeps_copies = policy.on_included == "rebase"
        self._up = get_codec(policy.codec_up)
        self._down = get_codec(policy.codec_down)
        self._short = {name: _short_float(dtype) for name, dtype in dtypes.items()}
        self._free_values = list(range(memory.slots))
        self._free_outs = list(range(memory.slots))
        self._filling: tuple[int, memoryview] | None = None  # slot and memory of the body on its way in
        self._values: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (fragment, version) -> slot, step; not yet posted
        self._posted: dict[int, Posted] = {}  # by slot
        self._hands: dict[int, Hand] = {}  # by fragment
        self._committed: list[int] = []

    # ------------------------------------------------------------------ what survives

    def recall(self, learner: int) -> LearnerMemory:
        """What an earlier agent committed; a fresh memory if there was none. `learner`: the id to ask for then."""
        words = self.memory.committed()
        fragments = len(self._layout.sizes)
        if not words:
            return LearnerMemory.empty(fragments, learner)
        head, base, rest = words[:6], words[6 : 6 + fragments], words[6 + fragments :]
        settled = [Count(*rest[3 * p : 3 * p + 3]) for p in range(fragments)]
        rest = rest[3 * fragments :]
        for at in range(0, len(rest), 9):
            posted = Posted(*rest[at : at + 6], Count(*rest[at + 6 : at + 9]))
            self._posted[posted.slot] = posted
        return LearnerMemory(*head[:3], Count(*head[3:]), list(base), settled)

    def recover(self, core: LearnerCore) -> None:
        """Complete the take-overs that the trainer carried out while there was no agent to hear of it; the others were
        never begun and never will be."""
        for slot, posted in self._posted.items():
            count = self.memory.applied(slot)
            if count is not None and posted.generation == core.memory.generation:
                self.memory.base(posted.fragment)[:] = self.memory.value(slot, posted.fragment)
                until = None if posted.until == _NONE else posted.until
                event = Applied(fragment=posted.fragment, version=posted.version, count=count)
                core.take(event, _RULES[posted.rule], until, posted.step)
        self._posted.clear()
        self.commit(core.memory)

    def commit(self, memory: LearnerMemory) -> None:
        """Make the learner's memory and the posted orders outlive this process."""
        words = [memory.learner, memory.generation, memory.shift, *memory.origin, *memory.base]
        for count in memory.settled:
            words += count
        for posted in self._posted.values():
            words += (*posted[:6], *posted.until)
        if words != self._committed:
            self.memory.commit(words)
            self._committed = words

    # ------------------------------------------------------------------ down

    def buffer(self, message: Delivery, nbytes: int) -> memoryview | None:
        """Memory for a delivery's body; None if all of it is taken. Raises ProtocolError: no fragment, or another size."""
        if not 0 <= message.fragment < len(self._layout.sizes):
            raise ProtocolError(f"a delivery of fragment {message.fragment}, which does not exist")
        size = self._layout.sizes[message.fragment]
        if nbytes != self._down.nbytes(size):
            raise ProtocolError(f"a delivery of {nbytes} bytes for fragment {message.fragment} of {size} elements")
        if not self._free_values:
            return None
        slot = self._free_values.pop()
        if self._down.name == "fp32":
            buffer = memoryview(self.memory.value(slot, message.fragment)).cast("B")
        else:
            buffer = memoryview(bytearray(nbytes))
        self._filling = slot, buffer
        return buffer

    def abandon(self) -> None:
        """The body on its way in will not be complete."""
        if self._filling is not None:
            self._free_values.append(self._filling[0])
            self._filling = None

    def arrived(self, message: Delivery) -> None:
        """The body is complete."""
        assert self._filling is not None
        (slot, buffer), self._filling = self._filling, None
        value = self.memory.value(slot, message.fragment)
        if self._down.name != "fp32":
            self._down.decode(buffer, value)
        self._round(message.fragment, value)
        self._values.setdefault((message.fragment, message.version), []).append((slot, message.step))

    def drop(self, action: Drop) -> None:
        """A value is not needed."""
        self._free_values.append(self._take(action.fragment, action.version)[0])

    def _take(self, fragment: int, version: int) -> tuple[int, int]:
        """Slot and step of a value. Of two that came over different links the first: if they differ at all, it is of a
        generation that is closed, and whoever speaks of it speaks of it first."""
        slots = self._values[fragment, version]
        first = slots.pop(0)
        if not slots:
            del self._values[fragment, version]
        return first

    def prepare(self, action: TakeOver, memory: LearnerMemory) -> int:
        """Make ready what the order needs, commit it, and return the value's slot: the order may be posted."""
        p = action.fragment
        slot, step = self._take(p, action.version)
        hand = self._hands.pop(p, None)
        value, until = self.memory.value(slot, p), _NONE
        if action.rule == "rebase":
            assert hand is not None and hand.copy is not None
            until = hand.until
            np.subtract(value, hand.copy, out=self.memory.change(slot, p))
        elif action.rule == "carry":
            np.subtract(value, self.memory.base(p), out=self.memory.change(slot, p))
        self.memory.clear_applied(slot)
        self._posted[slot] = Posted(slot, memory.generation, p, action.version, step, _RULES.index(action.rule), until)
        self.commit(memory)
        return slot

    def taken_over(self, event: Applied, slot: int) -> None:
        """The trainer has taken the value over: base follows. The slot is free with the next `release`."""
        self.memory.base(event.fragment)[:] = self.memory.value(slot, event.fragment)
        del self._posted[slot]

    def release(self, slot: int) -> None:
        """What `taken_over` changed is committed: the slot is free."""
        self._free_values.append(slot)

    def _round(self, fragment: int, value: NDArray[np.float32]) -> None:
        at = 0
        for piece in self._layout.fragments[fragment]:
            short = self._short[self._layout.tensors[piece.tensor].name]
            if short is not None:
                part = value[at : at + piece.size]
                with np.errstate(all="ignore"):  # beyond the dtype's range: Inf, which the syncer will refuse by name
                    part[:] = part.astype(short)
            at += piece.size

    # ------------------------------------------------------------------ up

    def out_slot(self) -> int | None:
        """A slot to copy parameters out to; None if all are taken."""
        return self._free_outs.pop() if self._free_outs else None

    def free_out(self, slot: int) -> None:
        """What was copied out is encoded, or not needed."""
        self._free_outs.append(slot)

    def seed(self, fragment: int, slot: int) -> memoryview:
        """The body of ProvideInitial: parameters in fp32."""
        return memoryview(self.memory.out(slot, fragment).tobytes())

    def hand_over(self, action: Encode, slot: int) -> None:
        """Make the body of a contribution of what was copied out, and keep it until its fate is known."""
        p = action.fragment
        theta, base = self.memory.out(slot, p), self.memory.base(p)
        body = memoryview(np.empty(self._up.nbytes(theta.size), np.uint8))
        scratch = np.empty(min(_BLOCK, theta.size), np.float32)
        for start in range(0, theta.size, _BLOCK):
            stop = min(start + _BLOCK, theta.size)
            change = np.subtract(base[start:stop], theta[start:stop], out=scratch[: stop - start])
            self._up.encode(change, body[self._up.nbytes(start) : self._up.nbytes(stop)])
        self._hands[p] = Hand(action.until, body, theta.copy() if self._keeps_copies else None)

    def body(self, message: Contribution) -> memoryview | None:
        """The body of a hand-over that is still open."""
        hand = self._hands.get(message.fragment)
        return hand.body if hand is not None and hand.until == message.until else None

    def keep_only(self, prepared: dict[int, Count]) -> None:
        """Forget all other hand-overs."""
        self._hands = {p: hand for p, hand in self._hands.items() if prepared.get(p) == hand.until}


def _short_float(name: str) -> np.dtype | None:
    """numpy's dtype for a torch dtype that is shorter than fp32; None if fp32 fits in it exactly."""
    if name in ("float32", "float64"):
        return None
    return np.dtype(np.float16 if name == "float16" else getattr(ml_dtypes, name))
