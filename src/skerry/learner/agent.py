"""The agent: the process that speaks for a trainer. `python -m skerry.learner.agent CHANNEL_FD SETUP_FD`, never by hand.

    trainer <-- orders.Channel --> events -> LearnerCore -> actions <-- uplink.Uplink --> syncer

Rules: every decision is LearnerCore's; here they are carried out. What the core remembers is committed before anything
that follows from it leaves this process, so it may be killed at any instant. It ends when the trainer does, with a Leave
that bears the trainer's last counters. An unwilling syncer ends it only before training has begun; later, and while the
syncer cannot be reached, training goes on and so do the attempts. No torch, directly or through anything imported.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from skerry.core.layout import build_layout
from skerry.core.learner import LearnerCore
from skerry.core.messages import (
    Abstain,
    Applied,
    Cancel,
    Contribution,
    CopiedOut,
    CopyOut,
    Delivery,
    Drop,
    Encode,
    Go,
    LearnerAction,
    LearnerEvent,
    LoopLeft,
    ProvideInitial,
    Received,
    Report,
    RunOver,
    Stepped,
    StopLoop,
    TakenOver,
    TakeOver,
    Verdict,
    Warn,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.errors import RefusedError, SkerryError
from skerry.island.memory import IslandMemory
from skerry.island.orders import Attached, Channel, Detach, Failed, Greeted, Order
from skerry.learner.config import Setup
from skerry.learner.holdings import Holdings
from skerry.learner.notices import Notices
from skerry.learner.uplink import Uplink
from skerry.learner.vitals import vitals

_LAST_WORD = 2.0  # seconds that a Leave may take to go out


class Agent:
    """Between one trainer and one syncer. Owner of its Uplink."""

    def __init__(self, setup: Setup, channel: Channel) -> None:
        self.over = False  # nothing more is to be said to the syncer
        self._setup = setup
        self._channel = channel
        self._notices = Notices(f"learner {setup.config.learner}" if setup.config.learner >= 0 else "learner")
        self._uplink = Uplink(setup.config, setup.policy, setup.run_id, self, self._notices)
        self._policy = setup.policy
        self._core: LearnerCore | None = None  # these two from the trainer's Attached on
        self._holdings: Holdings | None = None
        self._training = False  # the trainer has begun
        self._stopped = False  # it makes no further steps
        self._copied = -1  # the out slot of the CopiedOut in hand
        self._waiting_out: deque[CopyOut] = deque()  # the first and the last round's, for a free slot
        self._attached = asyncio.Event()
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._do: dict[type, Callable[[Any], None]] = {
            CopyOut: self._copy_out, TakeOver: self._take_over, Go: self._go, StopLoop: self._post, Drop: self._drop,
            Encode: self._prepare, Contribution: self._contribute, ProvideInitial: self._seed, Warn: self._warn,
            RunOver: self._end,
            Report: self._uplink.send, Abstain: self._uplink.send, Received: self._uplink.send, TakenOver: self._uplink.send,
        }  # fmt: skip

    async def run(self) -> None:
        """Until the trainer is gone. Raises what went wrong in here: another agent will do better."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._fail(context.get("exception") or RuntimeError(context["message"])))
        loop.add_reader(self._channel.socket, self._from_trainer)
        try:
            death = os.pidfd_open(self._setup.trainer_pid)  # its forked children may hold the channel open
        except ProcessLookupError:
            return
        loop.add_reader(death, self._from_trainer, True)
        tasks = [asyncio.create_task(self._speak()), asyncio.create_task(self._tend())]
        for task in tasks:
            task.add_done_callback(lambda t: t.cancelled() or t.exception() is None or self._fail(t.exception()))
        try:
            await self._finished
            loop.remove_reader(self._channel.socket)
            loop.remove_reader(death)
            await self._say_last_word()
        finally:
            for task in tasks:
                task.cancel()

    async def _speak(self) -> None:
        if self._policy:  # an earlier agent got far enough for the trainer to share its memory
            await self._attached.wait()
        await self._uplink.keep()

    # ------------------------------------------------------------------ the trainer's memory, and the link

    def linked(self, policy: str, run_id: str) -> None:
        """There is a link. The trainer lays the memory out by the policy; then there is a core, and it joins."""
        if not self._policy:
            self._policy = policy
            self._post(Greeted(policy=policy, run_id=run_id))
        self._join()

    def unlinked(self) -> None:
        """The link is gone."""
        if self._core is not None:
            self._carry_out(self._core.link_lost())

    def _attach(self) -> None:
        """The trainer has shared its memory: go on where an earlier agent was, or begin."""
        got = self._channel.receive_file()
        if got is None:
            return
        attached, file = got
        assert isinstance(attached, Attached) and file >= 0
        policy = msgspec.json.decode(self._policy, type=Policy)
        layout = build_layout(self._setup.tensors, policy.fragments, policy.fragmentation, policy.direct)
        memory = IslandMemory(file, layout, policy.slots, whole=True)
        memory.check()
        self._holdings = Holdings(memory, layout, policy, self._setup.dtypes)
        recalled = self._holdings.recall(self._setup.config.learner)
        self._core = LearnerCore(policy, layout, recalled, attached.count, memory.progress)
        self._training = attached.count.steps > 0
        self._holdings.recover(self._core)
        if self._core.begun and not attached.count.steps:  # an earlier agent may have died before it said so
            self._go(Go(steps=0))
        self._attached.set()
        self._join()

    def _join(self) -> None:
        if self._uplink and self._core is not None:
            about = {"layout": json.loads(self._core.layout.to_json()), "aliases": self._setup.aliases,
                     "config": self._setup.description}  # fmt: skip
            self._uplink.join(self._core.join(), json.dumps(about).encode())

    # ------------------------------------------------------------------ from the trainer

    def _from_trainer(self, dead: bool = False) -> None:
        """All that has come; of several step counts only the newest matters."""
        if self._core is None and not dead:
            self._attach()
        got = list(iter(self._channel.receive, None)) if self._core is not None else []
        newest = max((i for i, (message, _) in enumerate(got) if type(message) is Stepped), default=-1)
        for i, (message, slot) in enumerate(got):
            if type(message) is Stepped and i != newest:
                continue
            if type(message) is CopiedOut:
                self._copied_out(message, slot)
            elif type(message) is Applied:
                self._applied(message, slot)
            else:
                self._training = True
                self._stopped = self._stopped or type(message) is LoopLeft
                self._feed(message)
        if (dead or self._channel.closed) and not self._finished.done():
            self._finished.set_result(None)

    def _copied_out(self, event: CopiedOut, slot: int) -> None:
        self._copied = slot
        self._feed(event)
        self._copied = -1
        self._holdings.free_out(slot)
        if self._waiting_out:
            self._copy_out(self._waiting_out.popleft())

    def _applied(self, event: Applied, slot: int) -> None:
        self._holdings.taken_over(event, slot)
        self._feed(event)
        self._holdings.release(slot)
        self._uplink.resume()

    # ------------------------------------------------------------------ from the syncer

    def event(self, message: Any) -> None:
        """A message; before there is a core nobody has joined, so none is meant for us."""
        if self._core is None:
            return
        self._feed(message)
        if isinstance(message, Welcome):  # a trainer may live through several generations: its own count goes on
            earlier = message.first_step - self._core.memory.origin.steps
            self._holdings.memory.welcome(message.learner, message.generation, earlier)
        if isinstance(message, Verdict | Cancel | Welcome):
            self._holdings.keep_only(self._core.prepared())

    def buffer(self, message: Delivery, nbytes: int) -> memoryview | None:
        """Where the delivery's body goes."""
        return self._holdings.buffer(message, nbytes)

    def arrived(self, message: Delivery) -> None:
        """The delivery is whole."""
        self._holdings.arrived(message)
        self._feed(message)

    def abandon(self) -> None:
        """The delivery will not be whole."""
        self._holdings.abandon()

    def unwelcome(self, error: SkerryError) -> bool:
        """Before training has begun the trainer is told, and raises the error; a run that is over is no error."""
        if isinstance(error, RefusedError) and error.code == "over":
            self._notices.say("the run is over")
            self._end(RunOver())
        elif self._begun:
            return True
        else:
            self.over = True
            code = error.code if isinstance(error, RefusedError) else ""
            self._post(Failed(error=type(error).__name__, message=error.message, remedy=error.remedy, code=code))
        return False

    def meanwhile(self) -> str:
        """What happens while there is no link."""
        return "training goes on, trying again" if self._begun else "waiting for it, trying again"

    @property
    def _begun(self) -> bool:
        return self._training or (self._core is not None and self._core.begun)

    # ------------------------------------------------------------------ the core, and what it orders

    def _feed(self, event: LearnerEvent) -> None:
        core = self._core
        actions = core.handle(event)
        self._holdings.commit(core.memory)
        self._holdings.memory.set_progress(core.progress)
        self._carry_out(actions)

    def _carry_out(self, actions: list[LearnerAction]) -> None:
        for action in actions:
            self._do[type(action)](action)

    def _copy_out(self, order: CopyOut) -> None:
        slot = self._holdings.out_slot()
        if slot is None:
            self._waiting_out.append(order)
        else:
            self._post(order, slot)

    def _take_over(self, order: TakeOver) -> None:
        self._post(order, self._holdings.prepare(order, self._core.memory))

    def _go(self, order: Go) -> None:
        self._notices.over("begin", "training begins")
        self._post(order)

    def _drop(self, action: Drop) -> None:
        self._holdings.drop(action)
        self._uplink.resume()

    def _prepare(self, action: Encode) -> None:
        self._holdings.hand_over(action, self._copied)

    def _contribute(self, message: Contribution) -> None:
        """New, or open still when a link came back. What cannot be sent now is sent after the next Welcome."""
        holdings = self._holdings
        body = holdings.body(message)
        if self._uplink.welcomed and body is not None:
            self._uplink.send_body(message, body, lambda: holdings.body(message) is not None)

    def _seed(self, message: ProvideInitial) -> None:
        if self._uplink.welcomed:
            self._uplink.send_body(message, self._holdings.seed(message.fragment, self._copied))

    def _warn(self, action: Warn) -> None:
        self._notices.keep_saying("warning", action.text)

    def _end(self, action: RunOver) -> None:
        self.over = True
        self._post(Detach())

    def _post(self, order: Order, slot: int = -1) -> None:
        self._channel.post(order, slot)
        self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        if self._channel.flush():
            loop.remove_writer(self._channel.socket)
        else:
            loop.add_writer(self._channel.socket, self._flush)

    # ------------------------------------------------------------------ now and then, and at the end

    async def _tend(self) -> None:
        """Heartbeat and vitals; what takes long is said; the end is not waited for without a syncer."""
        while not self.over:
            await asyncio.sleep(self._uplink.heartbeat)
            core = self._core
            if core is None:
                continue
            if self._uplink.welcomed:
                self._uplink.send(core.report())
                self._uplink.send(vitals(self._holdings.memory, self._setup.trainer_pid))
                if not core.begun:
                    here, all_ = sum(version >= 0 for version in core.memory.base), len(core.memory.base)
                    self._notices.keep_saying("begin", f"waiting for the run's values ({here} of {all_} fragments are here)")
            elif self._stopped and time.monotonic() - self._uplink.lost_at > core.policy.final_timeout:
                self._notices.say("the syncer cannot be reached for the last round; leaving without it")
                self._end(RunOver())

    async def _say_last_word(self) -> None:
        """Leave, with the counters that the trainer published last."""
        if self._uplink.welcomed and not self.over:
            self._uplink.send(self._core.leave(self._holdings.memory.pulse().count, "the trainer has ended"))
        self.over = True
        await self._uplink.close(_LAST_WORD)

    def _fail(self, error: BaseException) -> None:
        if not self._finished.done():
            self._finished.set_exception(error)


def main() -> None:
    """The process' body. As a batch process it does not take the core from the trainer, which wakes it inside the hook."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    channel_file, setup_file = int(sys.argv[1]), int(sys.argv[2])
    with open(setup_file, "rb") as file:
        file.seek(0)
        setup = Setup.from_bytes(file.read())
    channel = Channel(socket.socket(fileno=channel_file))

    async def live() -> None:
        await Agent(setup, channel).run()

    asyncio.run(live())


if __name__ == "__main__":
    main()
