"""state() is exact: a storm is cut after any event, a fresh core is restored and fed what follows, and it decides the same.

And nothing in it is idle: with any one field left out, a storm notices.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from random import Random
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from skerry.core.grace import Average
from skerry.core.ledger import Move, Tally
from skerry.core.members import Member
from skerry.core.messages import Count, Join, Restarted, SyncerAction, SyncerEvent
from skerry.core.plain import plain
from skerry.core.policy import Policy
from skerry.core.round import GRACE, Part, Receipts, Round
from skerry.core.screening import ENOUGH, Peak
from skerry.core.syncer import SyncerCore
from skerry.core.timers import Alarm, Subject
from support.desk import Desk
from support.fleet import Fleet
from support.layouts import tiny_layout
from support.policies import some_policy
from support.storm import storm

STORMS = 2000
TAPES = 300

def one_storm(seed: int, cut: int = -1) -> Fleet:
    random = Random(seed)
    policy = some_policy(random)
    policy = policy.replace(on_excluded=random.choice(("carry", "overwrite")), max_staleness=random.randint(0, 2))
    return storm(policy, max(policy.quorum, policy.wait_for) + random.randint(0, 2), random.randint(20, 120), seed, cut=cut)


def test_cut_after_any_event_a_restored_core_goes_on_with_the_same_actions() -> None:
    random, cut = Random(0), 0
    for seed in range(2 * STORMS):
        cut += one_storm(seed, cut=random.randrange(1, random.choice((20, 300)))).was_cut
        if cut == STORMS:
            return
    raise AssertionError(f"only {cut} storms lasted long enough to be cut")


# ------------------------------------------------------------------ no field is idle


def fresh(policy: Policy) -> SyncerCore:
    return SyncerCore(policy, tiny_layout(policy))


def parts(core: SyncerCore) -> dict[str, object]:
    """Whose state makes up the core's."""
    return {"core": core, "members": core.members, "ledger": core.ledger, "grace": core.grace, "screening": core.screening,
            "rounds": core.rounds, "timers": core.timers}  # fmt: skip


def blanks(core: SyncerCore) -> dict[str, object]:
    """One of every class whose fields are state, as it is when it is made."""
    account = core.ledger.open(0, 0)
    made = [account, Member(0, account, 0.0, 0.0), Tally(), Move(0, Count()), Count(), Average(), Part(0, Count()),
            Round(0, 0, 0.0, 0, 0.0, 0.0, False), Receipts(0, 0.0, 0), Peak(0, 0.0),
            Alarm(0.0, 0, Subject.MEMBER, 0, 0)]  # fmt: skip
    return {type(one).__name__: one for one in (*parts(core).values(), *made)}


PARTS = {name: type(part) for name, part in parts(fresh(Policy(fragments=1))).items()}


def kinds() -> dict[str, type]:
    """Every class whose fields are state: the parts, and whatever their annotations name."""
    found: dict[str, type] = {}

    def visit(hint: Any) -> None:
        for arg in get_args(hint):
            visit(arg)
        if isinstance(hint, type) and hint.__name__ not in found and get_type_hints(hint) and not issubclass(hint, Enum):
            found[hint.__name__] = hint
            for inner in get_type_hints(hint).values():
                visit(inner)

    for part in PARTS.values():
        visit(part)
    return found


KINDS = kinds()


def without(value: Any, hint: Any, kind: type, field: str, blank: Any) -> Any:
    """The plain value of something of that type, with the field of that kind blank wherever it occurs."""
    origin, args = get_origin(hint), get_args(hint)
    if value is None:
        return None
    if origin is UnionType:
        (hint,) = (arg for arg in args if arg is not NoneType)
        return without(value, hint, kind, field, blank)
    if origin is dict:
        return [[without(each, arg, kind, field, blank) for each, arg in zip(pair, args, strict=True)] for pair in value]
    if origin in (list, set):
        return [without(each, args[0], kind, field, blank) for each in value]
    if hint not in KINDS.values():
        return value
    hints = get_type_hints(hint)
    items = value if isinstance(value, dict) else dict(zip(hints, value, strict=True))
    made = {name: without(items[name], hints[name], kind, field, blank) for name in hints}
    if hint is kind:
        made[field] = blank
    return made if isinstance(value, dict) else list(made.values())


def told(core: SyncerCore) -> tuple[Any, ...]:
    """What others ask a core for: its driver when it was restored, and whoever tells of the run."""
    rounds = core.rounds
    return (core.now, core.versions, rounds.steps, list(core.contributors()), core.ledger.tallies, core.progress, rounds.closed,
            rounds.contributors, rounds.skipped, rounds.cancelled, rounds.refused, core.epoch,
            core.members.quarantined, [member.first_join for member in core.members])  # fmt: skip


@dataclass
class Cut:
    """A storm from a cut on: the state there, what was heard, what was decided, and the state at the end."""

    policy: Policy
    state: dict[str, Any]
    events: Sequence[tuple[float, SyncerEvent]]
    decided: list[tuple[Sequence[SyncerAction], float | None]]
    end: dict[str, Any]

    def core(self, state: dict[str, Any]) -> SyncerCore:
        return SyncerCore(self.policy, tiny_layout(self.policy), json.loads(json.dumps(state)))

    def notices(self, kind: str, field: str) -> bool:
        """Whether a core that was restored without the field goes on otherwise."""
        blank = plain(getattr(blanks(fresh(self.policy))[kind], field))
        state = {name: without(self.state[name], part, KINDS[kind], field, blank) for name, part in PARTS.items()}
        if state == self.state:
            return False
        try:
            core = self.core(state)
            if told(core) != told(self.core(self.state)):
                return True
            for (now, event), decided in zip(self.events, self.decided, strict=True):
                if (core.handle(now, event), core.deadline()) != decided:
                    return True
            return told(core) != told(self.core(self.end))
        except (AssertionError, LookupError, TypeError):
            return True


def rare(core: SyncerCore) -> list[str]:
    """What there is about it that most cuts would miss."""
    accounts, rounds = [member.account for member in core.members], core.rounds
    found = {"closing": rounds.closing, "passed": rounds.passed, "retired": core.ledger.retired,
             "refused": any(account.refused for account in accounts), "moves": any(account.moves for account in accounts),
             "awaited": any(member.awaited for member in core.members), "quarantined": core.members.quarantined,
             "missed": any(member.missed for member in core.members), "over": any(core.screening.over),
             "peaks": any(len(peaks) > 1 for pieces in core.screening.peaks for peaks in pieces),
             "refusals": any(member.refusals for member in core.members),
             "grace": any(round_.stage is GRACE for round_ in rounds.open.values()),
             "received": any(receipts.who for receipts in rounds.receipts.values())}  # fmt: skip
    return [core.phase, *(name for name, there in found.items() if there)]


Tape = tuple[Policy, dict[str, Any] | None, Sequence[tuple[float, SyncerEvent]]]


class Recorder(Desk):
    """A desk that remembers what its core heard."""

    def __init__(self, learners: int, **policy: Any) -> None:
        self.tape: list[tuple[float, SyncerEvent]] = []
        super().__init__(learners, **policy)

    def feed(self, event: SyncerEvent) -> list[SyncerAction]:
        self.tape.append((self.now, event))
        return super().feed(event)


def scripted() -> Iterator[Tape]:
    """What storms come to seldom, as it needs several rare things at once."""
    desk = Recorder(3, quorum=2)
    desk.all_step(4)
    for learner in (1, 2):
        desk.hand(learner, 4)
    desk.take(1)
    desk.all_step(4)
    desk.hand(0, 8)  # from an old base; its next agent takes the newer value over, and then it dies
    desk.step(0, 2)
    desk.take(0)
    desk.enter(0)
    desk.hand(1, 8)
    yield desk.policy, None, desk.tape
    desk = Recorder(1)
    desk.learners[0].epoch = 7  # of which nothing is known any more
    desk.rejoin(0)  # whose Welcome is lost
    desk.rejoin(0)
    yield desk.policy, None, desk.tape
    desk = Recorder(1)
    desk.feed(Restarted())
    desk.join(-1)
    desk.feed(Join(learner=1, generation=1, layout=desk.layout.hash, epoch=1))  # its id was another's in what was lost
    yield desk.policy, None, desk.tape
    yield from screened()
    desk = Recorder(2, quorum=0, quarantine_after=2)
    pieces = len(desk.layout.fragments[0])
    for number in range(1, 5):
        desk.all_step(4)
        for learner in (0, 1):
            desk.hand(learner, 4 * number, norms=(1.0,) * pieces)
        for learner in (0, 1):
            desk.take(learner)
    for flawed in (0, 1):
        desk.all_step(4)
        desk.hand(0, desk.core.step, norms=(1e3,) * pieces)
        desk.hand(1, desk.core.step, norms=(1e3,) * pieces, flaw="NaN" * flawed)
    for _ in range(5):
        yield desk.policy, None, desk.tape
    desk = Recorder(2, quorum=0, quarantine_after=2)
    for _ in range(2):
        desk.all_step(4)
        desk.hand(0, desk.core.step, flaw="NaN")
        desk.hand(1, desk.core.step)
        desk.take(0)
    for _ in range(3):
        yield desk.policy, None, desk.tape
    desk = Recorder(3, grace=0.9)
    desk.slow = True
    for version in range(1, 9):  # receipts that come one after the other: the median one is measured
        desk.wait(1.0)
        desk.all_step(4)
        for learner in range(3):
            desk.hand(learner, 4 * version)
        desk.publish(version)
        for learner in range(3):
            desk.received(learner)
            desk.wait(0.1)
            desk.received(learner)
            desk.wait(0.1)
            desk.take(learner)
    for _ in range(5):
        yield desk.policy, None, desk.tape


def screened() -> Iterator[Tape]:
    """Norms fall, one learner hands over late, one is refused again and again."""
    desk = Recorder(4, quorum=0, quarantine_after=4)
    pieces = len(desk.layout.fragments[0])
    for turn in range(3 * ENOUGH):
        step = desk.core.step + 4
        desk.all_step(4)
        usual = 0.7 ** max(0, turn - ENOUGH)
        late = turn in (0, 1, 2, 3 * ENOUGH - 2)
        for learner, times in ((0, 1.0), (1, 1.0), (2, 1e3 if turn % 6 > 1 else 1.0)):
            desk.hand(learner, step, norms=(2.0 * usual * times,) * pieces)
        if late:
            desk.hand(3, step, norms=(2.0 * (turn + 1) ** 0.5,) * pieces)
        else:
            desk.nothing(3, step)
        for learner in range(4):
            desk.take(learner, settled=None if late or learner < 3 else desk.learners[3].settled[0])
    for _ in range(5):
        yield desk.policy, None, desk.tape


def cuts_of(tape: Tape, random: Random) -> Iterator[Cut]:
    """Anywhere, early, and in each rare state."""
    policy, start, events = tape
    at: dict[str, list[int]] = {"": [], "early": list(range(min(20, len(events))))}
    core, decided = SyncerCore(policy, tiny_layout(policy), start), []
    for i, (now, event) in enumerate(events):
        for what in ("", *rare(core)):
            at.setdefault(what, []).append(i)
        decided.append((core.handle(now, event), core.deadline()))
    end, core = core.state(), SyncerCore(policy, tiny_layout(policy), start)
    chosen = {random.choice(those) for those in at.values()}
    for i, (now, event) in enumerate(events):
        if i in chosen:
            yield Cut(policy, core.state(), events[i:], decided[i:], end)
        core.handle(now, event)
        core.deadline()


@cache
def cuts() -> list[Cut]:
    """Of one corpus of recorded storms, for all fields."""
    random = Random(0)
    found = [cut for tape in scripted() for cut in cuts_of(tape, random)]
    for seed in range(TAPES):
        fleet = one_storm(seed)
        found += cuts_of((fleet.policy, fleet.start, fleet.tape), random)
    return found


@pytest.mark.parametrize("field", [f"{name}.{field}" for name, kind in KINDS.items() for field in get_type_hints(kind)])
def test_a_field_that_is_left_out_is_noticed(field: str) -> None:
    kind, _, name = field.partition(".")
    assert any(cut.notices(kind, name) for cut in cuts()), "it is no state, or no storm comes to where it matters"
