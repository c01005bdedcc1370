"""The worlds can fail: faults planted in the code, one for each rule of log, values, restart and screening, are found by them.

What the storms find (tests/core/test_mutations.py) is not planted here again: these are rules that a death of the syncer, the
loss of the log's tail, a full disk or values far too large bring to light.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from skerry.core import attendance, screening, syncer
from skerry.core.messages import Published, Report
from skerry.core.phase import ENDED, WAITING
from skerry.drive import outbox, restart
from skerry.drive.syncer import SyncerDriver
from skerry.syncer import clock
from worlds.plan import Plan, failure

Change = Callable[[pytest.MonkeyPatch], None]
MOST = 1000
"""Worlds within which each is to be found."""


def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Change:
    """`name` of `owner` becomes what `make` makes of it."""
    return lambda patch: patch.setattr(owner, name, make(getattr(owner, name)))


def at_once(put: Any) -> Any:
    return lambda self, position, deed: deed()


def last_first(release: Any) -> Any:
    def released(self: Any) -> None:
        if not self._releasing and self._log is not None:
            ready = [each for each in self._waiting if each[0] <= self._log.committed]
            for each in reversed(ready):
                self._waiting.remove(each)
                each[1]()

    return released


def kept_at_once(close: Any) -> Any:
    """The header flips when the value is there, whether the close is committed or not."""

    def closed(self: Any, action: Any) -> None:
        put, self._outbox.put = self._outbox.put, at_once(None).__get__(self._outbox)
        made = self._plane.close

        def hasty(close: Any, then: Any) -> None:
            def then_at_once(failure: str) -> None:
                self._outbox.put = lambda _, deed: deed()
                try:
                    then(failure)
                finally:
                    self._outbox.put = put

            made(close, then_at_once)

        self._outbox.put = put
        self._plane.close = hasty
        try:
            close(self, action)
        finally:
            del self._plane.close

    return closed


def never_kept(close: Any) -> Any:
    """A version is published, and its header has not flipped."""

    def closed(self: Any, action: Any) -> None:
        def made(failure: str) -> None:
            assert not failure
            self.feed(Published(fragment=action.fragment, version=action.version))

        self._plane.close(action, made)

    return closed


def phase_forgotten(restarted: Any) -> Any:
    def begun_anew(self: Any, now: float, event: Any) -> None:
        restarted(self, now, event)
        if self.phase is not ENDED:
            self.phase = WAITING
            for round_ in list(self.rounds.open.values()):
                self.rounds._decide(now, round_, merge=False)

    return begun_anew


def newer_generation(resumes: Any) -> Any:
    return lambda self, event: resumes(self, event) and event.epoch in (0, self.epoch)


def any_epoch(resumes: Any) -> Any:
    def resumed(self: Any, event: Any) -> Any:
        member = self.members.get(event.learner)
        return member is not None and event.generation == member.generation > 0 and not member.account.retired

    return resumed


def nobody_awaited(all_gone: Any) -> Any:
    def gone(self: Any, now: float) -> None:
        all_gone(self, now)
        for member in self.members:
            self.members.wait_for(member, False)

    return gone


def forgets_others(forget: Any) -> Any:
    """Of what a learner said in a pause the last report alone is kept."""

    def forgot(self: Any, newer: Report) -> None:
        for at, (event, _) in enumerate(self._inbox):
            if getattr(event, "learner", None) == newer.learner and hasattr(event, "until"):
                del self._inbox[at]
                return
        forget(self, newer)

    return forgot


def old_line_counts(handle: Any) -> Any:
    """The end of a line is told though its learner is back."""

    def handled(self: Any, event: Any, line: Any) -> None:
        if type(event).__name__ == "Gone":
            self._joined[event.learner] = line
        handle(self, event, line)

    return handled


PLANTED: dict[str, Change] = {
    # log
    "nothing leaves before what it follows from is committed": replaced(outbox.Outbox, "put", at_once),
    "what leaves keeps its order": replaced(outbox.Outbox, "release", last_first),
    "the run's time stands still while nothing can be written": replaced(clock.Clock, "stop", lambda _: lambda self: None),
    "in a pause only reports are forgotten": replaced(SyncerDriver, "_forget_report", forgets_others),
    # values
    "no header flips before its close is committed": replaced(SyncerDriver, "_close", kept_at_once),
    "a version is in the store before it is published": replaced(SyncerDriver, "_close", never_kept),
    # restart
    "what the store holds and the log lacks is published": replaced(restart, "unheard", lambda _: lambda core, stored: []),
    "the phase stays": replaced(syncer.SyncerCore, "_restarted", phase_forgotten),
    "learners come back as the same generation": replaced(syncer.SyncerCore, "_resumes", newer_generation),
    "who stands on what was lost is a new generation": replaced(syncer.SyncerCore, "_resumes", any_epoch),
    "who was live is awaited": replaced(attendance.Attendance, "_all_gone", nobody_awaited),
    "who is back is not gone": replaced(SyncerDriver, "_handle", old_line_counts),
    # screening
    "what is usual is part of the state": replaced(screening.Screening, "restored", lambda restored: lambda self: (
        [pieces.clear() for fragment in self.norms for pieces in fragment], restored(self))[1]),
    "what is unlike all is refused": replaced(screening.Screening, "flaw", lambda _: lambda *_: ""),
    "who was refused too often is asked for nothing": replaced(attendance.Attendance, "_quarantine", lambda _: lambda *_: None),
}  # fmt: skip


def found(rule: str, seeds: Iterable[int] = range(MOST)) -> int | None:
    """The first seed whose world fails with the fault planted, and not without."""
    for seed in seeds:
        plan = Plan.of(seed)
        with pytest.MonkeyPatch.context() as patch:
            PLANTED[rule](patch)
            fails = failure(plan)
        if fails and not failure(plan):
            return seed
    return None
