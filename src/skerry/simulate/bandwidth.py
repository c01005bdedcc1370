"""What training asks of the links between sites, in closed form: traffic, the share of time computing, the bandwidth needed.

    DataParallel    ring all-reduce of the gradient at every step
    Synchronous     every H steps each fragment goes up and comes back; learners wait for it at t_p + tau (DiLoCo, Streaming)
    Decoupled       the same without waiting; what the link does not carry is skipped

Rules: one learner a site, all equal and in step, fragments of equal size, merging takes no time. A link carries `bandwidth`
in each direction at once, its bodies one after the other, and each arrives `latency` later (world/links.py). What the
protocol does decides every formula; they stand in docs/simulate.md under the same names.
Source: Decoupled DiLoCo (arXiv 2604.21428), Streaming DiLoCo (2501.18512), DiLoCo (2311.08105); ring all-reduce: Patarasuk
and Yuan, J. Parallel Distrib. Comput. 69 (2009).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from skerry.codecs import get_codec
from skerry.config.checks import positive, share, whole
from skerry.core.policy import Policy
from skerry.errors import cannot_work
from skerry.world.links import Link

Limit = Literal["computing", "bandwidth", "latency"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained, and where. Raises ConfigError where a value cannot work."""

    params: int  # trainable parameters of the model
    step_s: float  # seconds of an inner step's computing
    sites: int = 8  # M: with a learner each
    bits: float | None = None  # what if contributions and values took so many bits a parameter? none: the policy's codecs
    gradient_bits: float = 16.0  # of a gradient in data-parallel's all-reduce
    backward: float = 0.0  # share of a step beside which data-parallel's all-reduce runs; the rest of it is waited for

    def __post_init__(self) -> None:
        whole(self, "params", "sites")
        positive(self, "step_s", "gradient_bits", *(["bits"] if self.bits is not None else []))
        share(self, "backward")

    def nbytes(self, elements: int, codec: str) -> float:
        """Of so many elements on their way."""
        return get_codec(codec).nbytes(elements) if self.bits is None else elements * self.bits / 8


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of one learner while nothing holds it up, in each direction."""

    steps: int  # in so many steps ...
    up: float  # ... it sends so much
    down: float
    peak_up: float  # falls due in the fullest step
    peak_down: float


@dataclass(frozen=True, kw_only=True)
class Steady:
    """One learner over one link, in the long run."""

    utilisation: float  # share of time computing
    rounds: float  # share of the rounds that fall due and are carried; less than 1 without waiting only
    lag: int  # steps from hand-over to take-over
    up: float  # bit/s, on average
    down: float
    limit: Limit  # what keeps the two shares from being 1; computing: nothing does


class Method(Protocol):
    """One way to train."""

    traffic: Traffic

    def steady(self, link: Link) -> Steady:
        """Over that link."""
        ...

    def needed(self, latency: float, utilisation: float) -> float:
        """The least bandwidth, bit/s, with which that share of time computes and every round is carried. Infinite if none
        does."""
        ...


def method(policy: Policy | None, job: Job) -> Method:
    """How that policy trains; None is data-parallel."""
    if policy is None:
        return DataParallel(job)
    return Synchronous(policy, job) if policy.synchronous else Decoupled(policy, job)


class DataParallel:
    """A ring all-reduce at every step, waited for but for what runs beside the backward pass."""

    def __init__(self, job: Job) -> None:
        size = 2 * (job.sites - 1) / job.sites * job.params * job.gradient_bits / 8
        self.traffic = Traffic(steps=1, up=size, down=size, peak_up=size, peak_down=size)
        self._hops = 2 * (job.sites - 1)
        self._step, self._hidden = job.step_s, job.backward * job.step_s

    def steady(self, link: Link) -> Steady:
        sending, travelling = 8 * self.traffic.up / link.bandwidth, self._hops * link.latency
        seconds = self._step + max(0.0, sending + travelling - self._hidden)
        return Steady(utilisation=self._step / seconds, rounds=1.0, lag=0, **_rates(self.traffic, seconds),
                      limit=_limit(seconds > self._step, sending, travelling))  # fmt: skip

    def needed(self, latency: float, utilisation: float) -> float:
        may = self._hidden + _idle(self._step, utilisation) - self._hops * latency
        return _bandwidth(self.traffic.up, may)


class _Fragments:
    """What both kinds of DiLoCo have in common: H, P, tau, and the bytes of a fragment."""

    def __init__(self, policy: Policy, job: Job) -> None:
        self.policy, self.step = policy, job.step_s
        size = math.ceil(job.params / policy.fragments)
        self.up, self.down = job.nbytes(size, policy.codec_up), job.nbytes(size, policy.codec_down)
        self.at_once = math.ceil(policy.fragments / policy.interval)  # fragments due at the fullest step
        self.traffic = Traffic(steps=policy.interval, up=job.nbytes(job.params, policy.codec_up),
                               down=job.nbytes(job.params, policy.codec_down),
                               peak_up=self.at_once * self.up, peak_down=self.at_once * self.down)  # fmt: skip

    @property
    def trip(self) -> float:
        """Bytes that go one after the other until all that is due at a step is back: first up, then down, the others of the
        same step behind it."""
        return self.up + self.down + (self.at_once - 1) * max(self.up, self.down)

    def carrying(self, bandwidth: float) -> float:
        """Seconds in which the link carries what H steps ask of it."""
        return 8 * max(self.traffic.up, self.traffic.down) / bandwidth


class Synchronous(_Fragments):
    """Hands over at t_p and waits at t_p + tau."""

    def __init__(self, policy: Policy, job: Job) -> None:
        super().__init__(policy, job)
        self.waits = _waits(policy)

    def steady(self, link: Link) -> Steady:
        computing, tau = self.policy.interval * self.step, self.policy.overlap
        sending, travelling = 8 * self.trip / link.bandwidth, 2 * link.latency
        waiting = self.waits * max(0.0, sending + travelling - tau * self.step)
        seconds = max(computing + waiting, self.carrying(link.bandwidth))
        limit = _limit(seconds > computing, max(sending, (seconds > computing + waiting) * math.inf), travelling)
        return Steady(utilisation=computing / seconds, rounds=1.0, lag=tau, **_rates(self.traffic, seconds), limit=limit)

    def needed(self, latency: float, utilisation: float) -> float:
        computing = self.policy.interval * self.step
        may = self.policy.overlap * self.step + _idle(computing, utilisation) / self.waits - 2 * latency
        return max(_bandwidth(self.trip, may), self.carrying(1.0) * utilisation / computing)


class Decoupled(_Fragments):
    """Asked by the syncer, hands over at its next boundary, and computes all the time."""

    def steady(self, link: Link) -> Steady:
        sending, travelling = 8 * self.up / link.bandwidth, 2 * link.latency
        interval = self.policy.interval * self.step
        lag = self._boundaries(8 * self.trip / link.bandwidth + travelling)
        # a round lasts from one boundary to another: the contribution, the next ask. Only open_rounds are open at a time.
        round_s = self.step * self._boundaries(self.at_once * sending + travelling)
        opened = self.policy.open_rounds * interval / self.policy.fragments / round_s
        carried = interval / max(interval, self.carrying(link.bandwidth))
        rounds = min(opened, carried)
        limit = _limit(rounds < 1, math.inf if rounds == carried else sending, travelling)
        return Steady(utilisation=1.0, rounds=rounds, lag=lag, **_rates(self.traffic, interval / rounds), limit=limit)

    def _boundaries(self, seconds: float) -> int:
        """Steps from a boundary to the first one at which something that takes so long is there."""
        return max(1, math.ceil(seconds / self.step))

    def needed(self, latency: float, utilisation: float) -> float:
        """The same for every utilisation: it is always 1, and the rounds are what needs the link."""
        policy, step = self.policy, self.step
        open_for = math.floor(policy.open_rounds * policy.interval / policy.fragments) * step - 2 * latency
        back_in = (policy.interval - 1) * step - 2 * latency
        return max(self.carrying(1.0) / (policy.interval * step), _bandwidth(self.at_once * self.up, open_for),
                   _bandwidth(self.trip, back_in))  # fmt: skip


def _waits(policy: Policy) -> float:
    """Waits in H steps. A fragment that is handed over before the wait for another is over is on its way meanwhile: so
    these are the hand-overs, each the first after the boundary at which the one before it was waited for."""
    interval = policy.interval
    due = sorted({policy.offset(p) for p in range(policy.fragments)})
    seen: dict[int, tuple[int, int]] = {}  # by step modulo H: the step, and how many waits had been
    step, count = due[0], 0
    while step % interval not in seen:
        seen[step % interval] = step, count
        earliest = step + policy.overlap + 1
        step = min(offset + interval * math.ceil((earliest - offset) / interval) for offset in due)
        count += 1
    since, before = seen[step % interval]
    return (count - before) * interval / (step - since)


def _idle(computing: float, utilisation: float) -> float:
    """Seconds that may be waited beside so many of computing."""
    if not 0 < utilisation <= 1:
        raise cannot_work("utilisation", utilisation, "give a share of the time, above 0 and at most 1")
    return computing * (1 / utilisation - 1)


def _bandwidth(nbytes: float, seconds: float) -> float:
    """bit/s that bring them through in that time; infinite where no time is left."""
    if nbytes == 0 and seconds >= 0:
        return 0.0
    return 8 * nbytes / seconds if seconds > 0 else math.inf


def _rates(traffic: Traffic, seconds: float) -> dict[str, float]:
    return {"up": 8 * traffic.up / seconds, "down": 8 * traffic.down / seconds}


def _limit(held_up: bool, sending: float, travelling: float) -> Limit:
    if not held_up:
        return "computing"
    return "bandwidth" if sending >= travelling else "latency"
