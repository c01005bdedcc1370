"""What each link carried over time, in samples of a run in virtual time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skerry.world.run import VirtualRun

SAMPLES = 120  # over a run, and up to twice as many


@dataclass(frozen=True)
class Traffic:
    """`times`: the samples' ends, in seconds, the first begins at 0. `sent`: bytes of bodies that left within each sample, by
    [sample, link, direction]; links as in `learners`, directions up and down."""

    times: tuple[float, ...]
    learners: tuple[int, ...]
    sent: NDArray[np.int64]

    @property
    def gbit(self) -> NDArray[np.float64]:
        """The same as mean rates over the samples, in Gbit/s."""
        return 8e-9 * self.sent / np.diff(self.times, prepend=0.0)[:, None, None]

    def busiest_first(self) -> list[int]:
        """The links' places in `sent`, those with most bytes first."""
        order: list[int] = np.argsort(-self.sent.sum(axis=(0, 2)), kind="stable").tolist()
        return order


class Meter:
    """Reads what has left from time to time: SAMPLES times or up to twice as often, whatever the run takes. `every`: seconds
    between the first ones."""

    def __init__(self, live: VirtualRun, every: float) -> None:
        self._live, self._every = live, every
        self._times: list[float] = []
        self._read: list[NDArray[np.int64]] = []  # what had left by then, by [link, direction]
        live.queue.after(self._every, self._again)

    def _again(self) -> None:
        self._look()
        if len(self._times) == 2 * SAMPLES:
            del self._times[::2], self._read[::2]
            self._every *= 2
        self._live.queue.after(self._every, self._again)

    def _look(self) -> None:
        now = self._live.queue.now
        self._times.append(now)
        self._read.append(np.array([(up.sent(now), down.sent(now)) for up, down in self._live.hub.pipes.values()], np.int64))

    def end(self) -> Traffic:
        """All of it. A last sample that would be short is part of the one before: its rate would say little."""
        if self._times and self._live.queue.now - self._times[-1] < self._every / 2:
            del self._times[-1], self._read[-1]
        self._look()
        links = tuple(self._live.hub.pipes)
        read = np.zeros((len(self._times) + 1, len(links), 2), np.int64)
        for place, at in enumerate(self._read, 1):
            read[place, : len(at)] = at  # links come in the order of their learners' first lives
        return Traffic(tuple(self._times), links, np.diff(read, axis=0))
