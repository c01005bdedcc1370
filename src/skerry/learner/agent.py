"""The agent: the process that speaks for a trainer. `python -m skerry.learner.agent CHANNEL_FD SETUP_FD`, never by hand.

    trainer <-- orders.Channel --> Agent: LearnerDriver(LearnerCore, Holdings) <-- uplink.Uplink --> syncer

Rules: every decision is LearnerCore's, and LearnerDriver says what follows from it; here are the process, the channel, the
clock and the words for the user. It may be killed at any instant. When the trainer has ended it stays, connecting again if it
must, until the syncer has heard its Leave, which bears the trainer's last counters, or final_timeout is over. What goes wrong
before there is a core (a token that cannot be read, a syncer that refuses the first handshake) the trainer raises. No torch,
directly or through anything imported.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from collections import deque
from typing import Any

import msgspec

from skerry.core.layout import build_layout
from skerry.core.learner import LearnerCore
from skerry.core.messages import Amend, Delivery, Refused
from skerry.core.orders import (
    Beat,
    CopiedOut,
    CopyOut,
    Detach,
    Go,
    LearnerEvent,
    Linked,
    Reject,
    Stepped,
    StopLoop,
    TakeOver,
    TrainerEnded,
    Unlinked,
    Warn,
)
from skerry.core.policy import Policy
from skerry.drive.learner import LearnerDriver
from skerry.errors import RefusedError, SkerryError
from skerry.fabric.messages import LayoutText
from skerry.island.memory import IslandMemory
from skerry.island.orders import Attached, Channel, Greeted, Order, Raise
from skerry.learner.config import Setup
from skerry.learner.holdings import Holdings
from skerry.learner.notices import Notices
from skerry.learner.uplink import Uplink
from skerry.learner.vitals import vitals

_LAST_WORD = 2.0  # seconds that a Leave may take to go out


class Agent:
    """Between one trainer and one syncer: the driver's Trainer, and the owner of its Uplink."""

    def __init__(self, setup: Setup, channel: Channel) -> None:
        self._setup = setup
        self._channel = channel
        self._notices = Notices(f"learner {setup.config.learner}" if setup.config.learner >= 0 else "learner")
        self._uplink = Uplink(setup.config, setup.policy, setup.run_id, self, self._notices)
        self._policy = setup.policy
        self._island: tuple[LearnerDriver, Holdings] | None = None  # from the trainer's Attached on
        self._given_up = False
        self._alone = False  # the trainer has ended
        self._let_go = asyncio.Event()
        self._refusal: SkerryError | None = None  # the error that the core is being told of as Refused
        self._waiting_out: deque[CopyOut] = deque()  # the first and the last round's, for a free slot
        self._attached = asyncio.Event()
        self._finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> bool:
        """Nothing more is to be said to the syncer."""
        return self._given_up or (self._island is not None and self._island[0].over)

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
            task.add_done_callback(self._task_done)
        try:
            await self._finished
            loop.remove_reader(self._channel.socket)
            loop.remove_reader(death)
            await self._say_last_word(tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _speak(self) -> None:
        if self._policy:  # an earlier agent got far enough for the trainer to share its memory
            await self._attached.wait()
        await self._uplink.keep()

    async def _tend(self) -> None:
        """Heartbeat and vitals; what takes long is said."""
        while not self.over:
            await asyncio.sleep(self._uplink.heartbeat)
            if self._island is None:
                continue
            (driver, holdings), core = self._island, self._island[0].core
            driver.feed(time.monotonic(), Beat())
            if core.joined and not self._alone:
                self._uplink.send(vitals(holdings.memory, self._setup.trainer_pid))
                if not core.begun:
                    here, all_ = sum(version >= 0 for version in core.memory.base), len(core.memory.base)
                    self._notices.keep_saying("begin", f"waiting for the run's values ({here} of {all_} fragments are here)")

    async def _say_last_word(self, tasks: list[asyncio.Task[None]]) -> None:
        """Leave, with the counters that the trainer published last; until it was heard, or the core gives up."""
        self._alone = True
        asyncio.get_running_loop().remove_writer(self._channel.socket)
        if self._island is not None:
            driver, holdings = self._island
            driver.feed(time.monotonic(), TrainerEnded(count=holdings.memory.pulse().counters, reason="the trainer has ended"))
            heard = asyncio.create_task(self._let_go.wait())
            await asyncio.wait([heard, *tasks], return_when=asyncio.FIRST_COMPLETED)
            heard.cancel()
        self._given_up = True
        await self._uplink.close(_LAST_WORD)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._finished.done():
            self._finished.set_exception(error)

    # ------------------------------------------------------------------ the trainer's memory

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
        holdings = Holdings(memory, layout, policy, self._setup.dtypes, self._uplink.resume)
        core = LearnerCore(policy, layout, holdings.recall(self._setup.config.learner), attached.count)
        driver = LearnerDriver(core, holdings, self, self._uplink)
        self._island = driver, holdings
        driver.begin(time.monotonic(), Stepped(count=attached.count, progress=attached.progress))
        self._attached.set()
        self._join()

    def _join(self) -> None:
        if self._uplink and self._island is not None:
            self._feed(Linked())
            layout = self._island[0].core.layout
            about = {"layout": json.loads(layout.to_json()), "aliases": self._setup.aliases, "config": self._setup.description}
            self._uplink.send_body(LayoutText(hash=layout.hash), memoryview(json.dumps(about).encode()))

    # ------------------------------------------------------------------ from the trainer

    def _from_trainer(self, dead: bool = False) -> None:
        """All that has come; of several step counts only the newest matters."""
        if self._island is None and not dead:
            self._attach()
        got: list[tuple[Any, int]] = list(iter(self._channel.receive, None)) if self._island is not None else []
        newest = max((i for i, (message, _) in enumerate(got) if type(message) is Stepped), default=-1)
        for i, (message, slot) in enumerate(got):
            if type(message) is not Stepped or i == newest:
                self._feed(message, slot)
            if type(message) is CopiedOut and self._waiting_out:
                self.copy_out(self._waiting_out.popleft())
        if (dead or self._channel.closed) and not self._finished.done():
            self._finished.set_result(None)

    def _feed(self, event: LearnerEvent, came: Any = None) -> None:
        """Before there is a core nobody has joined, so nothing is meant for us."""
        if self._island is not None:
            self._island[0].feed(time.monotonic(), event, came)

    # ------------------------------------------------------------------ drive.learner.Trainer

    def copy_out(self, order: CopyOut) -> None:
        """As soon as there is a slot."""
        assert self._island is not None
        slot = self._island[1].out_slot()
        if slot is None:
            self._waiting_out.append(order)
        else:
            self._post(order, slot)

    def take_over(self, order: TakeOver, slot: int) -> None:
        """From the value's slot."""
        self._post(order, slot)

    def go(self, order: Go) -> None:
        """Begin, or go on."""
        self._notices.over("begin", "training begins")
        self._post(order)

    def stop_loop(self, order: StopLoop) -> None:
        """The budget is reached."""
        self._post(order)

    def detach(self, order: Detach) -> None:
        """It is all over."""
        self._let_go.set()
        self._post(order)

    def reject(self, action: Reject) -> None:
        """The trainer raises the error that the core was told of."""
        self._raise(self._refusal or RefusedError(action.reason, code=action.code))

    def warn(self, action: Warn) -> None:
        """Of a kind at most one line a minute."""
        if self._refusal is None:
            self._notices.keep_saying(action.text.split()[0], action.text)
        else:
            self._notices.keep_saying("link", f"{self._refusal}; {self.meanwhile()}", str(self._refusal))

    def _raise(self, error: SkerryError) -> None:
        code = error.code if isinstance(error, RefusedError) else ""
        self._post(Raise(error=type(error).__name__, message=error.message, remedy=error.remedy, code=code))

    def _post(self, order: Order, slot: int = -1) -> None:
        if self._alone:
            return
        self._channel.post(order, slot)
        self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        if self._channel.flush():
            loop.remove_writer(self._channel.socket)
        else:
            loop.add_writer(self._channel.socket, self._flush)

    # ------------------------------------------------------------------ learner.uplink.Owner

    def linked(self, policy: str, run_id: str) -> None:
        """There is a link. The trainer lays the memory out by the policy; then there is a core, and it joins. Of a policy that
        was amended while there was no link the core hears first."""
        if not self._policy:
            self._policy = policy
            self._post(Greeted(policy=policy, run_id=run_id))
        if self._island is not None and (now := msgspec.json.decode(policy, type=Policy)) != self._island[0].core.policy:
            self._feed(Amend(policy=now))
        self._join()

    def unlinked(self) -> None:
        """The link is gone."""
        self._feed(Unlinked())

    def event(self, message: Any) -> None:
        """The syncer speaks."""
        self._feed(message)

    def buffer(self, message: Delivery, nbytes: int) -> memoryview | None:
        """Where the delivery's body goes."""
        assert self._island is not None, "a delivery before we joined"
        return self._island[1].buffer(message, nbytes)

    def arrived(self, message: Delivery) -> None:
        """The delivery is whole."""
        assert self._island is not None
        self._feed(message, self._island[1].arrived(message))

    def abandon(self, message: Delivery) -> None:
        """The delivery will not be whole."""
        assert self._island is not None
        self._island[1].abandon(message)

    def wants(self, message: Any) -> bool:
        """Whether a body that waited for its turn is to be sent still."""
        return self._island is not None and self._island[0].wants(message)

    def unwelcome(self, error: SkerryError) -> None:
        """The syncer will not have us, or our configuration does not let us ask: the core says what follows. Without one the
        trainer cannot have begun, and raises it."""
        if self._island is None:
            self._given_up = True
            self._raise(error)
            return
        code = error.code if isinstance(error, RefusedError) else "config"
        self._refusal = error if code != "over" else None  # that is no error
        self._feed(Refused(code=code, reason=error.message))
        self._refusal = None

    def meanwhile(self) -> str:
        """What happens while there is no link."""
        core = self._island[0].core if self._island is not None else None
        begun = core is not None and (core.begun or core.count.steps > 0)
        return "training goes on, trying again" if begun else "waiting for it, trying again"


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
