"""The syncer's process: it listens, finds out the run's layout, lets the run go on, and brings it to an end.

    start    the run's directory (keeper.py), the snapshot if it is resumed, the listener, one line that joins a learner
    layout   the first learner's, or the snapshot's; Joins wait for it. From then on there is a Run (run.py)
    end      the core says RunOver, or a signal: snapshot, export, figures, and every link is closed

Exit codes: 0 the run is over (or SIGTERM: it was saved), 130 Ctrl-C (it was saved), else that of the SkerryError raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import json
import signal
import traceback
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import msgspec
import psutil
import torch

from skerry.core.layout import Layout
from skerry.core.messages import Join, Refused, Start
from skerry.core.phase import ENDED
from skerry.core.policy import Policy
from skerry.errors import ConfigError, ProtocolError, UnreachableError
from skerry.fabric.handshake import codec_features
from skerry.fabric.link import Link
from skerry.fabric.listener import Listener
from skerry.fabric.messages import LayoutText, StatusText, Vitals
from skerry.numerics.merger import Merger
from skerry.store.export import check_values, load_values
from skerry.store.figures import final_figures, status
from skerry.store.metrics import MetricsLog
from skerry.store.records import Status, encode
from skerry.store.snapshot import Origin
from skerry.syncer.clock import Clock
from skerry.syncer.config import SyncerConfig
from skerry.syncer.journal import Journal, make_log
from skerry.syncer.keeper import Keeper, writing
from skerry.syncer.meters import Meters, absence
from skerry.syncer.prometheus import Exporter
from skerry.syncer.run import Run, Surroundings
from skerry.syncer.session import Session
from skerry.syncer.worker import Worker

LEAVE_TIME = 5.0  # seconds that learners are given to leave after the end
INTERRUPTED = 130


def run_syncer(config: SyncerConfig, policy: Policy) -> int:
    """Run a syncer until its run is over or a signal ends it. Returns the exit code. Raises SkerryError."""
    faulthandler.enable()  # a crash below Python says where
    torch.set_num_threads(1)
    return asyncio.run(Server(config, policy).serve(signals=True))


class Server:
    """One syncer. `serve` is its life; the other public methods are what sessions and the listener call."""

    def __init__(self, config: SyncerConfig, policy: Policy) -> None:
        """Raises SkerryError for what a user can cause: directory, token, snapshot, --init."""
        self._config = config
        self.policy = policy
        if config.init is not None:
            check_values(config.init)
        self._keeper = Keeper(config)
        self._past = past = self._keeper.past
        if past is not None and (changed := past.core.policy.differences(policy)):
            raise ConfigError(f"a run goes on with its own policy, and of that you changed {_list(changed)}",
                              remedy=f"what may change is {_list(sorted(Policy.amendable))}")
        self.name = self._keeper.run
        self.run: Run | None = None
        self._clock = Clock(past.t if past else 0.0)
        self._traffic = past.traffic if past else (0, 0)
        self.max_learners = config.max_learners
        absent = absence(self._keeper.path / "metrics.jsonl") if past else 0.0
        self.meters = Meters(config.max_steps_s, config.max_tokens_s, self._clock.now, absent)
        log = make_log(config.log)
        with writing(self._keeper.path):
            self._journal = Journal(log, MetricsLog(self._keeper.path / "metrics.jsonl", log.warning), self._clock.now)
        self._status = Status(t=0.0, run=self.name, phase="waiting")
        self._beginning = False
        self._held: list[tuple[Session, Join]] = []  # Joins that wait for the layout
        self._code = 0
        self._failure: BaseException | None = None

    # ------------------------------------------------------------------ its life

    async def serve(self, *, signals: bool) -> int:
        """From start to end. Returns the exit code; raises SkerryError, or what failed if that was a fault of ours."""
        loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._worker = Worker(self.fail)
        self._patient = Worker(self.fail) if self._config.durability == "machine" else None
        loop.set_exception_handler(self._fault)
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._keeper.close)
            stack.callback(self._journal.close)
            stack.callback(self._close_run)
            for worker in (self._worker, self._patient):
                if worker is not None:
                    stack.callback(worker.end)
            self._listener = await self._listen()
            stack.push_async_callback(self._listener.close)
            self._exporter = exporter = self._export_metrics()
            if exporter is not None:
                stack.callback(exporter.close)
            if signals:
                for number, code in ((signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 0)):
                    loop.add_signal_handler(number, self._signalled, code)
                    stack.callback(loop.remove_signal_handler, number)
            if self._past is not None:
                await self._begin(self._past.core.layout, self._past.origin)
            self._announce()
            ticking = loop.create_task(self._every_second(exporter))
            ticking.add_done_callback(self._ticked)
            await self._stop.wait()
            if self._failure is None:
                await self._finish()
            ticking.cancel()
        if self._failure is not None:
            raise self._failure
        return self._code

    async def _listen(self) -> Listener:
        config, former = self._config, self._keeper.former_port()
        port = config.port or former
        settings: dict[str, Any] = {
            "keyring": self._keeper.keyring, "run": self.name, "host": config.host, "tls": config.tls,
            "insecure": config.insecure, "heartbeat": config.heartbeat, "policy": json.dumps(asdict(self.policy)),
            "needs": codec_features(self.policy.codec_up, self.policy.codec_down),
        }  # fmt: skip
        try:
            return await Listener.start(self, port=port, **settings)
        except UnreachableError:
            if config.port or not former:
                raise
            return await Listener.start(self, port=0, **settings)

    def _export_metrics(self) -> Exporter | None:
        port = self._config.metrics_port
        return None if port is None else Exporter(self._config.metrics_host, port)

    def _announce(self) -> None:
        address, token = self._listener.address, self._keeper.token_file
        self._keeper.announce(address)
        metrics = f"{self._config.metrics_host}:{self._exporter.port}" if self._exporter else ""
        self._journal.begin(str(address), run=self.name, resumed=self._past is not None, metrics=metrics)
        print(f"skerry join {address} --token-file {token}", flush=True)

    async def _every_second(self, exporter: Exporter | None) -> None:
        while True:
            self._look()
            if exporter is not None:
                exporter.update(self._status)
            await asyncio.sleep(1.0)

    def _look(self) -> None:
        """A record of the run and of each learner; what waits for the disk is tried again."""
        if self.run is not None:
            saved = self._keeper.saved_at
            fares = msgspec.structs.replace(
                status(self.name, self.run.core, self._clock.now(), self.traffic()),
                queue=self._worker.queued, buffers_free=self.run.plane.pool.free,
                snapshot_age=None if saved is None else round(self._clock.now() - saved, 3),
            )  # fmt: skip
            self._status = self._journal.look(fares, self.run.look())
        self._journal.flush()

    # ------------------------------------------------------------------ the end

    def over(self) -> None:
        """The core said RunOver."""
        self._stop.set()

    def _ticked(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Something broke that must not: end, and say what."""
        self._failure = self._failure or error
        self._stop.set()

    def _fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A fault of ours that concerns one connection; asyncio has ended that."""
        error = context.get("exception")
        told = "".join(traceback.format_exception(error)) if error is not None else ""
        self._journal.log.error("fault", text=context["message"], traceback=told)

    def _signalled(self, code: int) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt  # the second one: at once
        self._code = code
        self._stop.set()

    async def _finish(self) -> None:
        """Save everything; learners are let go afterwards, and keep trying if the run is not over."""
        run, keeper, journal = self.run, self._keeper, self._journal
        if run is None or not run.core.versions:
            return
        over = run.core.phase is ENDED
        if over:
            await run.told_all()
            await self._let_leave(run)
        run.stop()
        self._look()
        end = self._clock.now() if run.ended_at is None else run.ended_at
        keeper.figures(final_figures(self.name, run.core, run.samples.paces(), self.traffic(), end), journal)
        last = run.snapshot()
        await keeper.save_last(last, journal, patiently=over)
        await keeper.export(last, journal, patiently=over)

    def _close_run(self) -> None:
        if self.run is not None:
            self.run.close()

    async def _let_leave(self, run: Run) -> None:
        """Learners end their links when they have heard of the end."""
        until = asyncio.get_running_loop().time() + LEAVE_TIME
        while run.driver.lines and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.05)

    # ------------------------------------------------------------------ what the listener and sessions call

    def opened(self, link: Link) -> Session:
        """See fabric.listener.Server."""
        return Session(self, link)

    def refused(self, peer: str, code: str, reason: str) -> None:
        """See fabric.listener.Server."""
        self._journal.event("refused", f"{peer}: {reason}", code=code)

    def traffic(self) -> tuple[int, int]:
        """Bytes from and to learners since the run began."""
        ours = self._listener.traffic
        return self._traffic[0] + ours[0], self._traffic[1] + ours[1]

    def tell_status(self, link: Link) -> None:
        """An observer asked; it is told what was true within the last second."""
        link.send(StatusText(text=encode(self._status).decode()))

    def closed(self, session: Session, reason: str) -> None:
        """A link has ended."""
        self._held = [held for held in self._held if held[0] is not session]
        if session.run is not None:
            session.run.closed(session, reason)
        elif session.link.role == "learner":
            self._journal.event("refused", f"{session}: {reason}")

    def vitals_came(self, session: Session, message: Vitals) -> None:
        """How a learner's processes fare, by their own account."""
        if self.run is not None:
            self.run.samples.vitals.setdefault(session.learner, {})[session.generation] = message

    def join(self, session: Session, message: Join) -> None:
        """A learner wants a place; it waits while there is no layout."""
        if self.run is None:
            self._held.append((session, message))
        else:
            session.run = self.run
            self.run.driver.join(session, message)

    # ------------------------------------------------------------------ the beginning

    def layout_came(self, session: Session, message: LayoutText, body: bytes) -> None:
        """The first one is the run's. Raises ProtocolError if it is none."""
        if self.run is not None or self._beginning:
            return
        try:
            plain = json.loads(body)
            layout = Layout.from_json(json.dumps(plain["layout"]))
            origin = Origin(aliases={str(k): str(v) for k, v in plain["aliases"].items()}, config=plain["config"])
        except (ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
            raise ProtocolError(f"a malformed LayoutText: {error}") from error
        if layout.hash != message.hash:
            raise ProtocolError("a LayoutText whose hash is not its layout's")
        wrong = self._wrong_with(layout)
        if wrong:
            session.tell(Refused(code="layout", reason=wrong))
            return
        self._beginning = True
        self._beginner = asyncio.get_running_loop().create_task(self._begin_with(layout, origin))

    def _wrong_with(self, layout: Layout) -> str:
        wanted, have = self.policy.fragments, len(layout.fragments)
        if have != wanted:
            return f"your model is in {have} fragments, the run's policy has {wanted}"
        need, free = Merger.footprint(self.policy, layout, self._config.buffers), psutil.virtual_memory().available
        if need > free:
            return f"your model needs {need / 1e9:.1f} GB of the syncer's memory, {free / 1e9:.1f} GB are free"
        return ""

    async def _begin_with(self, layout: Layout, origin: Origin) -> None:
        try:
            await self._begin(layout, origin)
        except Exception as error:
            self.fail(error)

    async def _begin(self, layout: Layout, origin: Origin) -> None:
        """Make the run; with values from its past or --init, if there are any."""
        around = Surroundings(
            name=self.name, policy=self.policy, buffers=self._config.buffers, keeper=self._keeper, journal=self._journal,
            worker=self._worker, patient=self._patient, clock=self._clock, traffic=self.traffic, ended=self.over,
            failed=self.fail,
        )  # fmt: skip
        with writing(self._keeper.path):
            run = Run(around, layout, origin, self._past)
        init = self._config.init
        if init is not None:
            for fragment, theta in enumerate(await self._worker.submit(load_values, init, layout)):
                run.plane.merger.adopt(fragment, theta)
        if init is not None or run.core.versions:
            await run.plane.lay_out()
        self.run = run
        run.begin()
        if init is not None:
            run.driver.feed(Start())
        for session, message in self._held:
            self.join(session, message)
        self._held.clear()


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"policy.{name}" for name in names)
