"""What a learner may claim to have done: its tokens and steps against the machine's clock, whatever it says.

Rules: for each learner, over all its generations and links, steps and tokens are charged as the core would credit them: what
its counters grow by, and by how much it leads the run's clock. All of it together is at most a rate times the time since the
syncer first heard of it, and a moment's worth (MOMENT). Time without a link counts like any other, and so does time in which
there was no syncer: an honest learner that reports a day's work at once passes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from skerry.core.members import Member
from skerry.core.messages import Count
from skerry.errors import ProtocolError

MOMENT = 5.0  # seconds


def absence(path: Path) -> float:
    """Seconds since the file was written last; 0 if it is not there."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except OSError:
        return 0.0


class _Meter:
    """One learner's."""

    __slots__ = ("clock", "done", "generation", "since", "steps", "tokens")

    def __init__(self, since: float, generation: int, done: Count, clock: int) -> None:
        self.since = since
        self.generation, self.done, self.clock = generation, done, clock  # as far as it has been charged
        self.steps = self.tokens = 0  # charged


class Meters:
    """All learners'. `clock`: seconds; `absent`: seconds for which there was no syncer before this one."""

    def __init__(self, max_steps_s: float, max_tokens_s: float, clock: Callable[[], float], absent: float = 0.0) -> None:
        self._rates = max_steps_s, max_tokens_s
        self._clock = clock
        self._began, self._absent = clock(), absent
        self._meters: dict[int, _Meter] = {}

    def charge(self, member: Member, step: int, clock: int, *counts: Count) -> None:
        """The member's clock and counters, as its present generation tells them; the run is at `step`. Raises ProtocolError if
        nobody could have come so far."""
        meter = self._meters.get(member.id)
        if meter is None:
            meter = self._meters[member.id] = self._of(member)
        if meter.generation != member.generation:
            meter.generation, meter.done = member.generation, Count()
        done = meter.done
        so_far = Count(max(count.steps for count in (done, *counts)), max(count.tokens for count in (done, *counts)))
        steps = max(so_far.steps - done.steps, clock - max(meter.clock, step))
        tokens = so_far.tokens - done.tokens
        if steps <= 0 and not tokens:
            return
        steps, span = max(steps, 0), self._clock() - meter.since + MOMENT
        for name, charged, rate in (("max_steps_s", meter.steps + steps, self._rates[0]),
                                    ("max_tokens_s", meter.tokens + tokens, self._rates[1])):  # fmt: skip
            if charged > rate * span:
                raise ProtocolError(f"{charged:,} {name[4:-2]} in {span:,.0f} s: more than syncer.{name} = {rate:g} allows")
        meter.steps += steps
        meter.tokens += tokens
        meter.clock = max(meter.clock, clock)
        meter.done = so_far

    def _of(self, member: Member) -> _Meter:
        """From what the core knows of it: a learner from before this syncer's start may have worked on meanwhile."""
        known = member.first_join < self._began
        since = self._began - self._absent if known else self._clock()
        return _Meter(since, member.generation, member.account.count, member.clock)
