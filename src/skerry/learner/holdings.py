"""What an agent holds of the fragments, in the memory that it shares with its trainer: drive.learner.Holdings of slots.

Rules:
- A value is the number of its slot, a copy the number of its out slot; a slot is the agent's again once it is freed.
- Before an order that changes parameters is posted, what it will change is committed to shared memory; the trainer marks the
  slot when it has carried it out. So no instant of death loses or doubles a take-over (drive/learner.py says how).
- A hand-over's bytes are kept until its fate is known, its copy in fp32 only where `rebase` needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from skerry.core.layout import Layout
from skerry.core.memory import LearnerMemory
from skerry.core.messages import Count, Delivery
from skerry.core.orders import TakeOver
from skerry.core.policy import Policy
from skerry.drive.learner import Redo
from skerry.errors import ProtocolError
from skerry.exchange import RULES, Exchange, Values, change
from skerry.island.memory import REDO_WORDS, IslandMemory

_NONE = Count(-1, -1, -1)
_HEAD = 7  # words before the fragments'


class Holdings:
    """The agent's side of an island's memory. `dtypes`: of each tensor by name, as in torch. `room`: called when there is
    memory for a delivery again."""

    def __init__(self, memory: IslandMemory, layout: Layout, policy: Policy, dtypes: Mapping[str, str],
                 room: Callable[[], None]) -> None:  # fmt: skip
        self.memory = memory
        self._layout = layout
        self._exchange = Exchange(policy, layout, dtypes)
        self._keeps_copies = policy.on_included == "rebase"
        self._room = room
        self._free_values = list(range(memory.slots))
        self._free_outs = list(range(memory.slots))
        self._filling: dict[tuple[int, int], tuple[int, memoryview]] = {}  # slot and memory of the bodies on their way in
        self._committed: list[int] = []
        self._progress = memory.progress

    # ------------------------------------------------------------------ what survives

    def recall(self, learner: int) -> LearnerMemory:
        """What an earlier agent committed; a fresh memory if there was none. `learner`: the id to ask for then."""
        words, fragments = self.memory.committed(), len(self._layout.sizes)
        if not words:
            return LearnerMemory.empty(fragments, learner)
        head, base, rest = words[:_HEAD], words[_HEAD : _HEAD + fragments], words[_HEAD + fragments :]
        settled = [Count(*rest[3 * p : 3 * p + 3]) for p in range(fragments)]
        return LearnerMemory(head[0], head[1], head[2], Count(*head[3:6]), list(base), settled, head[6])

    def redos(self) -> list[Redo]:
        """As an earlier agent committed them."""
        words = self.memory.committed()[_HEAD + 4 * len(self._layout.sizes) :]
        return [_redo(words[at : at + REDO_WORDS]) for at in range(0, len(words), REDO_WORDS)]

    def applied(self, redo: Redo) -> Count | None:
        """At which counters the trainer carried that order out; None if it never did."""
        return self.memory.applied(redo.value)

    def commit(self, memory: LearnerMemory, redos: Mapping[int, Redo]) -> None:
        """Make the learner's memory and its orders outlive this process."""
        words = [memory.learner, memory.generation, memory.shift, *memory.origin, memory.epoch, *memory.base]
        for count in memory.settled:
            words += count
        for order, slot, generation in redos.values():
            words += (slot, generation, order.fragment, order.version, order.step, RULES.index(order.rule), order.included,
                      *(order.until or _NONE))  # fmt: skip
        if words != self._committed:
            self.memory.commit(words)
            self._committed = words

    def show(self, progress: float, falls: bool) -> None:
        """Let the trainer see how far the run is."""
        if progress > self._progress or falls:
            self.memory.set_progress(progress)
            self._progress = progress

    def introduce(self, learner: int, generation: int, first_step: int) -> None:
        """Tell the trainer who it is."""
        self.memory.welcome(learner, generation, first_step)

    # ------------------------------------------------------------------ down

    def buffer(self, message: Delivery, nbytes: int) -> memoryview | None:
        """Memory for a delivery's body; None if all of it is taken. Raises ProtocolError: no fragment, or another size."""
        if not 0 <= message.fragment < len(self._layout.sizes):
            raise ProtocolError(f"a delivery of fragment {message.fragment}, which does not exist")
        size, down = self._layout.sizes[message.fragment], self._exchange.down
        if (message.fragment, message.version) in self._filling:
            raise ProtocolError(f"a delivery of fragment {message.fragment} that is on its way already")
        if nbytes != down.nbytes(size):
            raise ProtocolError(f"a delivery of {nbytes} bytes for fragment {message.fragment} of {size} elements")
        if not self._free_values:
            return None
        slot = self._free_values.pop()
        if down.name == "fp32":
            buffer = self.memory.value(slot, message.fragment).data.cast("B")
        else:
            buffer = memoryview(bytearray(nbytes))
        self._filling[message.fragment, message.version] = slot, buffer
        return buffer

    def abandon(self, message: Delivery) -> None:
        """Its body, which was on its way in, will not be complete."""
        slot, _ = self._filling.pop((message.fragment, message.version))
        self._free_values.append(slot)

    def arrived(self, message: Delivery) -> int:
        """The body is complete: its slot."""
        slot, buffer = self._filling.pop((message.fragment, message.version))
        value = self.memory.value(slot, message.fragment)
        if self._exchange.down.name == "fp32":  # it was received in its place
            self._exchange.round(message.fragment, value)
        else:
            self._exchange.decode(message.fragment, buffer, value)
        return slot

    def prepare(self, order: TakeOver, slot: int, kept: Values | None) -> int:
        """Make ready what the order needs; gives the value's slot."""
        memory, p = self.memory, order.fragment
        change(order.rule, memory.value(slot, p), memory.base(p), kept, out=memory.change(slot, p))
        memory.clear_applied(slot)
        return slot

    def follow(self, fragment: int, slot: int) -> None:
        """The trainer has taken the value over: base follows."""
        self.memory.base(fragment)[:] = self.memory.value(slot, fragment)

    def free(self, slot: int) -> None:
        """The value is needed no more."""
        self._free_values.append(slot)
        self._room()

    # ------------------------------------------------------------------ up

    def out_slot(self) -> int | None:
        """A slot to copy parameters out to; None if all are taken."""
        return self._free_outs.pop() if self._free_outs else None

    def free_copy(self, slot: int) -> None:
        """What was copied out is encoded, or not needed."""
        self._free_outs.append(slot)

    def initial(self, fragment: int, slot: int) -> memoryview:
        """The body of ProvideInitial: parameters in fp32."""
        return memoryview(self.memory.out(slot, fragment).tobytes())

    def encode(self, fragment: int, slot: int) -> tuple[memoryview, Values | None]:
        """The body of a contribution of what was copied out, and the copy if rebase will need it."""
        copy = self.memory.out(slot, fragment)
        body = self._exchange.hand_over(self.memory.base(fragment), copy)
        return body.data, copy.copy() if self._keeps_copies else None


def _redo(words: tuple[int, ...]) -> Redo:
    slot, generation, fragment, version, step, rule, included, *until = words
    counters = None if tuple(until) == _NONE else Count(*until)
    order = TakeOver(fragment=fragment, version=version, rule=RULES[rule], included=bool(included), step=step, until=counters)
    return Redo(order, slot, generation)
