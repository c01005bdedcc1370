"""FaultScript: which fault strikes whom and when. Pure: no clock, no randomness.

One script, one grammar, for real processes (the launcher's --chaos) and for virtual time:

    kill:2.trainer@30s kill:2@40s+60s stop:1@45s+20s slow:3x0.5@10s+60s join:4@60s leave:0@90s
    kill:syncer@30s stop:syncer@40s+20s cut:2@20s+5s halfopen:1@20s+30s full:syncer@50s+20s

Rules: a fault is KIND:TARGET[xFACTOR]@TIME[+DURATION]; faults stand apart by spaces or commas. TARGET is LEARNER[.PART],
or `syncer`; PART is `trainer` or `agent`, none = the whole island; of cut and halfopen it is the learner's link. Times
count from the moment the run trains; units s (or none), ms, m or min, h, d, y. The DURATION of a kill or a cut is how long
the target is not started or linked again; none = as its driver sees fit. What each kind takes is data (`_KINDS`); whatever
a kind does not take is an error that names the piece. Virtual time has no syncer's process and no disk (`check_virtual`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from skerry.config.amounts import TIMES
from skerry.errors import ConfigError

Kind = Literal["kill", "stop", "slow", "join", "leave", "cut", "halfopen", "full"]
Part = Literal["", "trainer", "agent"]
SYNCER = -1
"""Stands for the syncer where a learner's id would."""


@dataclass(frozen=True)
class _Takes:
    """What a kind of fault takes: its parts; a duration: must (True), may (None) or must not (False) be given."""

    parts: tuple[Part, ...] = ("",)
    duration: bool | None = False
    factor: bool = False
    instant: tuple[Part, ...] = ()  # parts that take no duration, whatever the others do
    syncer: bool = False  # whether it strikes the syncer, too


_KINDS: dict[Kind, _Takes] = {
    "kill": _Takes(parts=("", "trainer", "agent"), duration=None, syncer=True,
                   instant=("agent",)),  # a trainer replaces its agent
    "stop": _Takes(parts=("", "trainer", "agent"), duration=True, syncer=True),
    "slow": _Takes(parts=("", "trainer"), duration=None, factor=True),
    "join": _Takes(),
    "leave": _Takes(),
    "cut": _Takes(duration=None),
    "halfopen": _Takes(duration=True),
    "full": _Takes(parts=("", "trainer", "agent"), duration=True, syncer=True),
}  # fmt: skip
LINKS = ("cut", "halfopen")
"""Kinds that strike a learner's link."""
_NUMBER = r"[0-9.]+(?:e[+-]?[0-9]+)?"
_PIECE = re.compile(
    rf"(?P<kind>[a-z]+):(?P<learner>\d+|syncer)(\.(?P<part>[a-z]+))?(x(?P<factor>{_NUMBER}))?"
    rf"@(?P<at>{_NUMBER})(?P<unit>[a-z]*)(\+(?P<duration>{_NUMBER})(?P<dunit>[a-z]*))?"
)
_EXAMPLE = ('write faults like "kill:2.trainer@30s stop:1@45s+20s slow:3x0.5@10s join:4@60s leave:0@90s '
            'kill:syncer@50s cut:2@20s+5s"')  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault. Raises ConfigError if its kind does not take what it is given.

    `learner`: whom it strikes; SYNCER = the syncer. `at`, `duration`: seconds (duration 0: until the end, or none; of a kill or
    a cut: as short as its driver makes it). `factor`: the share of its speed a slowed one keeps.
    """

    kind: Kind
    learner: int
    part: Part = ""
    at: float
    duration: float = 0.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        takes = _KINDS.get(self.kind)
        if takes is None:
            raise self._wrong(f"kind {self.kind!r} is none of {', '.join(get_args(Kind))}")
        if self.learner < SYNCER or not 0 <= self.at < float("inf") or not 0 <= self.duration < float("inf"):
            raise self._wrong("learner, time and duration must be finite and not negative")
        if self.learner == SYNCER and not takes.syncer:
            raise self._wrong(f"{self.kind} strikes learners, not the syncer")
        parts = takes.parts if self.learner != SYNCER else ("",)
        if self.part not in parts:
            allowed = ", ".join(f"{self.whom}.{part}" if part else self.whom for part in parts)
            raise self._wrong(f"{self.kind} strikes {allowed}")
        if takes.duration is True and not self.duration:
            raise self._wrong(f"{self.kind} needs how long: {self.kind}:{self.target}@{_seconds(self.at)}+20s")
        if takes.duration is False and self.duration:
            raise self._wrong(f"{self.kind} takes no duration")
        if self.part in takes.instant and self.duration:
            raise self._wrong(f"{self.kind} of the {self.part} alone takes no duration")
        if takes.factor and not 0 < self.factor < 1:
            raise self._wrong(f"{self.kind} needs a factor above 0 and below 1: {self.kind}:{self.learner}x0.5")
        if not takes.factor and self.factor != 1:
            raise self._wrong(f"{self.kind} takes no factor")

    def _wrong(self, why: str) -> ConfigError:
        return ConfigError(f"fault {str(self)!r}: {why}", remedy=_EXAMPLE)

    @property
    def whom(self) -> str:
        """The learner's id, or `syncer`."""
        return "syncer" if self.learner == SYNCER else str(self.learner)

    @property
    def target(self) -> str:
        """Whom it strikes: `2`, `2.trainer`, `2.agent` or `syncer`."""
        return f"{self.whom}.{self.part}" if self.part else self.whom

    @property
    def ends(self) -> float:
        """When it is over: `at` plus its duration (the same as `at` if it has none)."""
        return self.at + self.duration

    def __str__(self) -> str:
        factor = f"x{_plain(self.factor)}" if self.factor != 1 else ""
        duration = f"+{_seconds(self.duration)}" if self.duration else ""
        return f"{self.kind}:{self.target}{factor}@{_seconds(self.at)}{duration}"


@dataclass(frozen=True)
class FaultScript:
    """Faults in order of time (those of one time in the order written). `str()` gives text that `parse` reads back."""

    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "faults", tuple(sorted(self.faults, key=lambda fault: fault.at)))

    @staticmethod
    def parse(text: str) -> FaultScript:
        """Read a script; empty text is an empty one. Raises ConfigError naming the piece and what is allowed."""
        return FaultScript(tuple(_fault(piece) for piece in re.split(r"[\s,]+", text.strip()) if piece))

    def __iter__(self) -> Iterator[Fault]:
        return iter(self.faults)

    def __len__(self) -> int:
        return len(self.faults)

    def __str__(self) -> str:
        return " ".join(str(fault) for fault in self.faults)

    def check_learners(self, learners: int, *, others: bool = False) -> None:
        """Raise ConfigError if a fault certainly strikes a learner that is not there, or lets one join that is: 0 to learners -
        1 start with the run, and who was killed may be back or not. `others`: whether there are faults besides these."""
        here: dict[int, bool | None] = dict.fromkeys(range(learners), None if others else True)  # None: nobody knows
        for fault in self.faults:
            if fault.learner == SYNCER:
                continue
            present, joins = here.get(fault.learner, False), fault.kind == "join"
            if present is joins:
                raise ConfigError(
                    f"fault {str(fault)!r}: there is {'a' if joins else 'no'} learner {fault.learner} by then",
                    remedy=f"strike 0 to {learners - 1} until they leave, others once they have joined",
                )
            if joins or (fault.kind == "leave" and present):
                here[fault.learner] = joins if present is not None else None
            elif fault.kind == "kill" and fault.part != "agent":
                here[fault.learner] = None

    def check_virtual(self) -> None:
        """Raise ConfigError for what virtual time cannot be struck with."""
        for fault in self.faults:
            if fault.learner == SYNCER or fault.kind == "full":
                what = "the syncer is no process" if fault.learner == SYNCER else "there is no disk"
                raise ConfigError(f"fault {str(fault)!r}: in virtual time {what}",
                                  remedy="strike learners and their links, or real processes (--chaos)")  # fmt: skip

    @property
    def linked(self) -> frozenset[int]:
        """The learners whose links are struck."""
        return frozenset(fault.learner for fault in self.faults if fault.kind in LINKS)


def _fault(piece: str) -> Fault:
    found = _PIECE.fullmatch(piece)
    if not found:
        raise ConfigError(f"fault {piece!r} is no KIND:LEARNER[.PART][xFACTOR]@TIME[+DURATION] or KIND:syncer@TIME[+DURATION]",
                          remedy=_EXAMPLE)  # fmt: skip
    part = found["part"] or ""
    if part not in get_args(Part):
        raise ConfigError(f"fault {piece!r}: part {part!r} is none of trainer, agent", remedy=_EXAMPLE)
    return Fault(
        kind=found["kind"],  # type: ignore[arg-type]  # an unknown one is refused on construction
        learner=SYNCER if found["learner"] == "syncer" else int(found["learner"]),
        part=part,  # type: ignore[arg-type]
        at=_number(piece, found["at"]) * _unit(piece, found["unit"]),
        duration=_number(piece, found["duration"]) * _unit(piece, found["dunit"]) if found["duration"] else 0.0,
        factor=_number(piece, found["factor"]) if found["factor"] else 1.0,
    )


def _number(piece: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"fault {piece!r}: {text!r} is no number", remedy=_EXAMPLE) from None


def _unit(piece: str, text: str | None) -> float:
    if text and text not in TIMES:
        raise ConfigError(f"fault {piece!r}: unit {text!r} is none of {', '.join(TIMES)}", remedy=_EXAMPLE)
    return TIMES[text] if text else 1.0


def _plain(value: float) -> str:
    return repr(value).removesuffix(".0")


def _seconds(value: float) -> str:
    return f"{_plain(value)}s"
