"""The policy: every knob of the algorithm, validated on construction. The lineage's presets are in presets.py.

Source: Decoupled DiLoCo (arXiv 2604.21428), Streaming DiLoCo (2501.18512), DiLoCo (2311.08105); the meanings settled
for Skerry are in docs/algorithm.md. Times are seconds, counts are inner steps unless a comment says otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, get_args

from skerry.core.layout import Fragmentation
from skerry.errors import ConfigError, cannot_work

MergeRule = Literal["rda", "direct"]
IncludedRule = Literal["overwrite", "rebase", "blend"]
ExcludedRule = Literal["overwrite", "carry"]
CodecName = Literal["fp32", "bf16"]

ALL = 0
"""The quorum that means "all live learners"."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How learners and syncer work together. Raises ConfigError where a value, or two together, cannot work."""

    # Which fragment when
    fragments: int = 24  # P: parts in which the model is exchanged
    fragmentation: Fragmentation = "balanced"  # which tensors form one: equal sizes, every P-th layer, or whole layers
    interval: int = 24  # H: inner steps between two rounds of one fragment
    overlap: int = 2  # tau: steps from hand-over to take-over; the most rounds open at once (at least one)
    # Who is in a round
    synchronous: bool = False  # learners hand over by themselves and block at t_p + tau
    quorum: int = 1  # K; 0 = all live learners
    grace: float = 0.9  # gamma < 1: the share of the overlap's slack that may be waited; 0 = no grace
    max_staleness: int = 1  # versions that a contribution's base may lie behind
    wait_for: int = 1  # learners that must have joined before the first step
    # What is made of it
    merge: MergeRule = "rda"  # radial-directional averaging, or the direct weighted mean
    direct: tuple[str, ...] = ()  # name patterns averaged directly, besides embeddings
    outer_lr: float = 0.6  # of the outer step, SGD with Nesterov momentum
    outer_momentum: float = 0.4  # of the outer step
    on_included: IncludedRule = "overwrite"  # how a learner takes over a value that its contribution is in
    on_excluded: ExcludedRule = "carry"  # how it takes over one that it is not in; carry: its change stays on top
    blend: float = 0.5  # share of the new global value under on_included = "blend"
    # Whose contributions are trusted
    norm_limit: float = 10.0  # times a tensor's usual norm: a contribution with more is refused; 0 = no limit
    weight_limit: float = 10.0  # times its fragment's usual weight: none weighs more; 0 = no limit
    quarantine_after: int = 5  # refusals in a row after which a learner is asked for nothing more; 0 = never
    # On the wire
    codec_up: CodecName = "bf16"  # of contributions
    codec_down: CodecName = "fp32"  # of delivered values
    # When patience ends
    round_timeout: float = 60.0  # for a round to find its quorum
    sync_timeout: float = 600.0  # for a silent learner under a synchronous policy
    silent_after: float = 10.0  # a learner not heard of for so long counts as dead until it speaks again
    final_timeout: float = 30.0  # for the last round of the run
    # When the run ends; 0 = no such budget
    steps: int = 0  # global steps
    tokens: int = 0  # tokens processed by all learners

    amendable: ClassVar[frozenset[str]] = frozenset({
        "steps", "tokens", "grace", "round_timeout", "sync_timeout", "silent_after", "final_timeout", "outer_lr",
        "outer_momentum", "norm_limit", "weight_limit", "quarantine_after", "wait_for",
    })  # fmt: skip
    """What may change while a run lives, at a resume."""

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        self._check_pairs()

    def _check_choices(self) -> None:
        choices = {
            "fragmentation": Fragmentation, "merge": MergeRule, "on_included": IncludedRule,
            "on_excluded": ExcludedRule, "codec_up": CodecName, "codec_down": CodecName,
        }  # fmt: skip
        for name, kind in choices.items():
            allowed = get_args(kind)
            if getattr(self, name) not in allowed:
                raise _bad(name, getattr(self, name), f"choose one of {', '.join(allowed)}")
        if isinstance(self.direct, str) or not all(map(_is_pattern, self.direct)):
            raise _bad("direct", self.direct, "give a list of regular expressions")

    def _check_numbers(self) -> None:
        least = {
            "fragments": 1, "interval": 1, "overlap": 0, "quorum": 0, "max_staleness": 0, "wait_for": 1,
            "steps": 0, "tokens": 0, "quarantine_after": 0,
        }  # fmt: skip
        for name, low in least.items():
            if not isinstance(getattr(self, name), int) or getattr(self, name) < low:
                raise _bad(name, getattr(self, name), f"give a whole number, {low} or more")
        for name in ("round_timeout", "sync_timeout", "silent_after", "final_timeout", "outer_lr"):
            if not 0 < _number(getattr(self, name)) < float("inf"):
                raise _bad(name, getattr(self, name), "give a positive number")
        for name in ("norm_limit", "weight_limit"):
            if not (getattr(self, name) == 0 or 1 <= _number(getattr(self, name)) < float("inf")):
                raise _bad(name, getattr(self, name), "give at least 1, or 0 for no limit")
        if not 0 <= _number(self.grace) < 1:
            raise _bad("grace", self.grace, "give a share of the slack, at least 0 and below 1")
        if not 0 <= _number(self.outer_momentum) < 1:
            raise _bad("outer_momentum", self.outer_momentum, "give at least 0 and below 1")
        if not 0 < _number(self.blend) <= 1:
            raise _bad("blend", self.blend, "give a share above 0 and at most 1")

    def _check_pairs(self) -> None:
        if self.overlap >= self.interval:
            raise _bad("overlap", self.overlap, f"tau must be below interval (H = {self.interval})")
        if self.synchronous and self.quorum != ALL:
            raise _bad("quorum", self.quorum, "a synchronous policy waits for all: set quorum = 0")
        if not self.synchronous and self.overlap < 1:
            raise _bad("overlap", self.overlap, "give 1 or more, or choose a synchronous policy")
        if self.synchronous and self.on_included == "rebase" and self.overlap == 0:
            raise _bad("on_included", self.on_included, "nothing happens after the hand-over at overlap 0: use overwrite")

    def offset(self, fragment: int) -> int:
        """t_p: the step, modulo H, at which rounds of the fragment fall due. Spread evenly; DiLoCo's single one is 0."""
        return fragment * self.interval // self.fragments

    @property
    def open_rounds(self) -> int:
        """The most rounds that may be open at once."""
        return max(1, self.overlap)

    @property
    def slots(self) -> int:
        """How many fragments an island has room for on their way, in each direction: for two rounds' worth of what may be open,
        as one with long steps needs, and two to spare."""
        return min(self.fragments, 2 * self.open_rounds + 2)

    def progress(self, step: int, tokens: int) -> float:
        """Share of the global budget done, 0 to 1; 0 without a budget. The larger of the two shares if both are set."""
        share = max(step / self.steps if self.steps else 0.0, tokens / self.tokens if self.tokens else 0.0)
        return min(1.0, share)

    def reached(self, step: int, tokens: int) -> bool:
        """Whether a budget is reached."""
        return 0 < self.steps <= step or 0 < self.tokens <= tokens

    def differences(self, other: Policy) -> tuple[str, ...]:
        """The fields in which the other one differs and may not, as long as a run lives."""
        names = [field.name for field in fields(self) if field.name not in self.amendable]
        return tuple(name for name in names if getattr(self, name) != getattr(other, name))

    def replace(self, **changes: Any) -> Policy:
        """A copy with some fields changed. Raises ConfigError naming an unknown field."""
        known = {field.name for field in fields(self)}
        for name in changes:
            if name not in known:
                raise ConfigError(f"policy has no field {name!r}", remedy=f"its fields are {', '.join(sorted(known))}")
        return replace(self, **changes)


def _number(value: object) -> float:
    """NaN, which is in no range, for what is no number."""
    return value if isinstance(value, int | float) else float("nan")


def _is_pattern(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except re.error:
        return False


def _bad(name: str, value: object, allowed: str) -> ConfigError:
    return cannot_work(f"policy.{name}", value, allowed)
