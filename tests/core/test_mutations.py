"""The tests can fail: with one rule of the core changed, seeded storms (support/storm.py) must show it, and unchanged not.

What no storm shows soon, because it needs several rare things at once, has a test of its own in the files beside this one.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from skerry.core import learner, ledger, members, rounds, syncer
from skerry.core.hands import AHEAD
from skerry.core.messages import Count
from skerry.core.policy import ALL, Policy
from support.storm import calm, storm

MOST = 300  # runs; the most that a change may take to show
Change = Callable[[pytest.MonkeyPatch], None]


def some_policy(random: Random) -> Policy:
    """Any that works, but for what is lost by the policy's own will: nothing is but by overlap."""
    synchronous, interval = random.random() < 0.3, random.randint(2, 6)
    overlap = random.randint(0 if synchronous else 1, min(3, interval - 1))
    return Policy(
        fragments=random.randint(1, 4),
        interval=interval,
        overlap=overlap,
        synchronous=synchronous,
        quorum=ALL if synchronous else random.choice([ALL, 1, 1, 2]),
        grace=random.choice([0.0, 0.9]),
        on_included=random.choice(["overwrite", "rebase"] if overlap else ["overwrite"]),
        silent_after=random.choice([2.0, 10.0]),
        round_timeout=random.choice([1.0, 20.0]),
        sync_timeout=5.0,
        tokens=random.choice([400, 2000]),
    )


def one_run(seed: int) -> None:
    """Every third one without harm."""
    random = Random(seed)
    policy = some_policy(random)
    learners, blows = max(policy.quorum, 1) + random.randint(0, 2), random.randint(50, 150)
    (storm if seed % 3 else calm)(policy, learners, blows, seed)


def replaced(owner: Any, name: str, make: Callable[[Any], Any]) -> Change:
    """`name` of `owner` becomes what `make` makes of it."""
    return lambda patch: patch.setattr(owner, name, make(getattr(owner, name)))


def without_effect(owner: Any, name: str) -> Change:
    return replaced(owner, name, lambda _: lambda *_, **__: None)


def keep_settled(keep: Any) -> Any:
    def kept(self: Any, account: Any, fragment: int, until: Count, version: int) -> None:
        settled = account.settled[fragment]
        keep(self, account, fragment, until, version)
        account.settled[fragment] = settled

    return kept


def any_interval(judge: Any) -> Any:
    """A contribution is merged whatever was settled before."""

    def judged(self: Any, member: Any, event: Any, round_: Any) -> None:
        member.account.settled[event.fragment] = event.since
        judge(self, member, event, round_)

    return judged


def merge_twice(contribution: Any) -> Any:
    def taken(self: Any, now: float, member: Any, event: Any) -> None:
        if event.fragment in self.open:
            self.open[event.fragment].answered.discard(member.id)
        contribution(self, now, member, event)

    return taken


def settle_at(which: str) -> Callable[[Any], Any]:
    """A take-over by rebase or carry settles what was done since, too."""

    def make(take: Any) -> Any:
        def taken(self: Any, event: Any, rule: str, until: Any, step: int) -> None:
            take(self, event, "overwrite" if rule == which else rule, until, step)

        return taken

    return make


def forgetful_of_origin(begin: Any) -> Any:
    def begun(self: Any, event: Any) -> None:
        origin = self.memory.origin
        begin(self, event)
        self.memory.origin = origin

    return begun


def old_base(begin: Any) -> Any:
    def begun(self: Any, event: Any) -> None:
        base = list(self.memory.base)
        begin(self, event)
        self.memory.base[:] = base

    return begun


def deaf_to_the_last_question(final_hand_over: Any) -> Any:
    def handed(self: Any, p: int) -> None:
        if p not in self._hands or self._hands[p].step != AHEAD:
            final_hand_over(self, p)

    return handed


RULES: dict[str, Change] = {
    "a merge settles what it covers": replaced(ledger.Ledger, "keep", keep_settled),
    "a contribution begins where the last one was settled": replaced(rounds.Rounds, "_judge", any_interval),
    "a take-over in an open round waits for its end": without_effect(ledger.Ledger, "promise"),
    "a cancelled round gives its contributions back": replaced(
        ledger.Ledger, "release", lambda _: lambda self, account, fragment: account.promised.discard(fragment)),
    "take-overs are set down": without_effect(ledger.Ledger, "moved"),
    "a superseded generation is closed": without_effect(ledger.Ledger, "retire"),
    "an answer counts once": replaced(rounds.Rounds, "contribution", merge_twice),
    "a round needs its quorum": replaced(members.Members, "quorum", lambda _: property(lambda self: 1)),
    "at most tau rounds are open": replaced(Policy, "open_rounds", lambda _: property(lambda self: self.fragments + 1)),
    "deliveries say what was merged": replaced(syncer.SyncerCore, "merged", lambda _: lambda self, *_: 0),
    "news are delivered on return": without_effect(syncer.SyncerCore, "_deliver_news"),
    "rebase settles at the hand-over": replaced(learner.LearnerCore, "take", settle_at("rebase")),
    "carry settles nothing": replaced(learner.LearnerCore, "take", settle_at("carry")),
    "a new generation counts from zero": replaced(learner.LearnerCore, "_begin_anew", forgetful_of_origin),
    "a new generation takes everything over": replaced(learner.LearnerCore, "_begin_anew", old_base),
    "the last question is not answered by what is kept for another": replaced(
        learner.LearnerCore, "_final_hand_over", deaf_to_the_last_question),
    "a late contribution is no longer open": without_effect(learner.LearnerCore, "_answer"),
    "a cancelled contribution is no longer open": without_effect(learner.LearnerCore, "_cancel"),
}  # fmt: skip


def test_unchanged_the_runs_hold() -> None:
    for seed in range(MOST // 3):
        one_run(seed)


@pytest.mark.parametrize("rule", RULES)
def test_a_changed_rule_is_detected(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    RULES[rule](monkeypatch)
    with pytest.raises((AssertionError, LookupError)):
        for seed in range(MOST):
            one_run(seed)
