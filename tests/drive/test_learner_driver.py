"""LearnerDriver's own rules, with the real core: what is committed before anything leaves, the order of events, recovery."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from skerry.core.messages import (
    Ask,
    BudgetReached,
    Cancel,
    Contribution,
    Delivery,
    Join,
    Leave,
    ProvideInitial,
    Refused,
    Report,
    RequestInitial,
    RunOver,
    TakenOver,
    Verdict,
    Welcome,
)
from skerry.core.orders import Go, Linked, TakeOver, TrainerEnded, Unlinked, Warn
from support.desk import after
from support.life import FRAGMENTS, Life

# ---------------------------------------------------------------- one event after the other


def test_what_the_trainer_does_at_once_is_heard_when_the_event_in_hand_is_done_with() -> None:
    it = Life(at_once=True)
    it.welcome()
    said = it.feed(RequestInitial(learner=5))
    assert [type(each).__name__ for each in said] == ["CopyOut", "CopyOut", "ProvideInitial", "ProvideInitial"]
    said = it.deliver(0, 0, 10.0) + it.deliver(1, 0, 10.0)
    assert [type(each).__name__ for each in said] == ["Received", "TakeOver", "TakenOver"] * 2 + ["Go"]
    it.step()
    said = it.feed(Ask(fragment=0, step=4, progress=0.25))
    assert [type(each).__name__ for each in said] == ["CopyOut", "Contribution"]
    assert it.body == 10.0 - 11.0


def test_a_message_is_said_to_a_detached_driver_in_vain() -> None:
    it = Life().enter()
    assert not it.driver.over
    it.feed(RunOver())
    assert it.driver.over
    it.step()
    assert not it.feed(Linked()) and not it.feed(TrainerEnded(count=after(it.steps)))


def test_who_is_rejected_needs_no_link_either() -> None:
    it = Life()
    it.feed(Linked())
    it.feed(Refused(code="layout", reason="parameters differ"))
    assert it.driver.over and it.said[-1].code == "layout"


def test_a_refusal_in_training_is_a_warning() -> None:
    it = Life().enter()
    (said,) = it.feed(Refused(code="config", reason="no token"))
    assert isinstance(said, Warn) and not it.driver.over


# ---------------------------------------------------------------- what is committed, and when


def test_everything_is_committed_before_it_leaves() -> None:
    """`Life.send` holds whatever leaves against what was committed by then; here a learner lives through all that there is."""
    it = Life()
    it.feed(Linked())
    it.feed(Welcome(learner=5, generation=1, clock=0, first_step=0, progress=0.0))
    it.feed(RequestInitial(learner=5))
    it.obey()
    assert it.last(ProvideInitial).fragment == 1 and it.body == 1.0
    it.enter()
    it.hand_over()
    it.feed(Verdict(learner=5, generation=1, fragment=0, step=4, verdict="late"))
    it.step()
    it.hand_over(8)
    it.feed(Cancel(fragment=0, step=8))
    it.deliver(0, 1, 20.0, step=8)
    it.step()
    it.obey()
    it.feed(Unlinked())
    it.welcome(generation=2)
    for p in range(FRAGMENTS):
        it.deliver(p, 3, 30.0)
    it.obey()
    it.feed(BudgetReached())
    assert isinstance(it.feed(TrainerEnded(count=after(it.steps)))[-1], Leave)
    assert {type(each) for each in it.said} >= {Join, Report, Contribution, TakeOver, TakenOver}
    assert it.committed[0].base == [3, 3] and it.committed[0].generation == 2


def test_the_base_follows_first_then_one_commit_makes_it_true_and_then_the_value_is_free() -> None:
    it = Life().enter()
    it.deliver(0, 1, 20.0)
    assert 0 in it.committed[1]
    it.log.clear()
    it.obey()
    assert it.log == ["follow", "commit", "TakenOver", "free"]
    assert not it.committed[1] and it.committed[0].base == [1, 0]


def test_the_trainer_is_told_who_it_is() -> None:
    """The learner made 100 steps before this process; of this one's 3 the syncer has been told when it makes it a new one."""
    it = Life()
    it.welcome(first_step=100)
    assert it.known_as == (5, 1, 100)
    for p in range(FRAGMENTS):
        it.deliver(p, 0, 10.0)
    it.obey()
    for _ in range(3):
        it.step()
    it.welcome(generation=2, first_step=103)
    assert it.known_as == (5, 2, 100)


# ---------------------------------------------------------------- values, copies, bodies


def test_of_two_values_of_one_name_the_first_is_meant_first() -> None:
    """As in `Drop`: one waits for an answer that will not come, the other came over the new link, ahead of its Welcome."""
    it = Life().enter()
    it.hand_over()
    it.deliver(0, 2, 20.0, step=3, merged=after(1).tokens)
    it.feed(Unlinked())
    it.feed(Linked())
    it.deliver(0, 2, 21.0)
    it.freed.clear()
    it.feed(Welcome(learner=5, generation=2, clock=0, first_step=0, progress=0.0))
    assert it.freed == [20.0]
    it.obey()
    assert it.base[0] == 21.0


def test_whatever_comes_is_freed_once() -> None:
    it = Life().enter()
    it.hand_over()
    for version, value in ((2, 20.0), (1, 21.0), (3, 22.0)):  # the first waits for its answer, and is overtaken
        it.deliver(0, version, value, step=3, merged=after(1).tokens)
    it.step()
    it.feed(Verdict(learner=5, generation=1, fragment=0, step=4, verdict="late"))
    it.obey()
    assert sorted(it.freed, key=str) == [("copy", 11.0), 10.0, 10.0, 20.0, 21.0, 22.0]


def test_what_came_before_the_welcome_is_freed_with_the_link() -> None:
    it = Life()
    it.feed(Linked())
    it.deliver(0, 0, 10.0)
    it.feed(Unlinked())
    assert it.freed == [10.0]


@pytest.mark.parametrize("ends", [
    Verdict(learner=5, generation=1, fragment=0, step=4, verdict="late"),
    Cancel(fragment=0, step=4),
    Welcome(learner=5, generation=2, clock=0, first_step=0, progress=0.0),
    Delivery(fragment=0, version=1, step=4, merged=after(1).tokens, progress=0.5),
])  # fmt: skip
def test_a_body_that_waits_is_wanted_until_its_fate_is_known(ends: Any) -> None:
    it = Life().enter()
    message = it.hand_over()
    assert it.driver.wants(message)
    assert not it.driver.wants(Contribution(**{**{name: getattr(message, name) for name in message.__slots__},
                                               "until": after(9)}))  # fmt: skip
    it.feed(ends, 20.0)
    assert not it.driver.wants(message)
    assert it.driver.wants(ProvideInitial(learner=5, generation=1, fragment=0))


def test_an_open_contribution_goes_again_over_a_new_link_with_its_own_body() -> None:
    it = Life().enter()
    message, body = it.hand_over(), it.body
    it.step()
    it.feed(Unlinked())
    it.body = None
    it.welcome()
    assert it.last(Contribution) == message and it.body == body == 10.0 - 11.0


# ---------------------------------------------------------------- an agent dies

RULES = [({}, True), ({"on_included": "rebase"}, True), ({"on_included": "blend"}, True), ({"on_excluded": "carry"}, False),
         ({"on_excluded": "overwrite"}, False)]  # fmt: skip


def ordered(policy: dict[str, Any], included: bool) -> Life:
    """Value 20 is to be taken over: what was handed over at 11 is in it, or came too late. Three steps since the base."""
    it = Life(**policy).enter()
    it.hand_over()
    it.step()
    if not included:
        it.feed(Verdict(learner=5, generation=1, fragment=0, step=4, verdict="late"))
    it.deliver(0, 1, 20.0, step=4, merged=after(1).tokens if included else 0)
    it.step()
    assert it.theta[0] == 13.0 and isinstance(it.orders[0][0], TakeOver)
    return it


@pytest.mark.parametrize(("policy", "included"), RULES)
def test_what_nobody_heard_of_is_to_the_next_agent_as_if_it_had_been_heard(policy: dict[str, Any], included: bool) -> None:
    heard, unheard = ordered(policy, included), ordered(policy, included)
    heard.obey()
    unheard.obey(hears=False)
    unheard.begin_agent()
    assert unheard.committed[0] == heard.committed[0] and not unheard.committed[1]
    assert (unheard.base, unheard.theta) == (heard.base, heard.theta)
    assert heard.base[0] == 20.0
    assert heard.committed[0].base == [1, 0]
    (join,) = unheard.feed(Linked())
    assert join.bases == (1, 0) and join.settled == tuple(heard.committed[0].settled)


@pytest.mark.parametrize(("policy", "included"), RULES)
def test_what_was_never_carried_out_never_was(policy: dict[str, Any], included: bool) -> None:
    it = ordered(policy, included)
    before = deepcopy(it.committed[0])
    it.begin_agent()
    assert it.committed[0] == before and not it.committed[1] and it.base[0] == 10.0
    it.welcome()
    it.deliver(0, 1, 20.0, step=4)
    it.obey()
    assert it.committed[0].base == [1, 0] and it.base[0] == 20.0


def test_a_mark_of_an_older_order_means_nothing() -> None:
    """Version 1 was taken over and heard of; version 2 is ordered when the agent dies, and not carried out."""
    it = Life().enter()
    it.deliver(0, 1, 20.0, step=4)
    it.obey()
    it.deliver(0, 2, 30.0, step=8)
    it.begin_agent()
    assert it.committed[0].base == [1, 0] and it.base[0] == 20.0


def test_an_order_of_a_generation_that_is_closed_is_not_recovered() -> None:
    """It changed the parameters, but the new generation takes everything over anyway."""
    it = Life().enter()
    it.deliver(0, 1, 20.0, step=4)
    it.welcome(generation=2)
    it.obey(hears=False)
    it.begin_agent()
    assert it.committed[0].base == [-1, -1]
    (join,) = it.feed(Linked())
    assert (join.generation, join.bases) == (2, (-1, -1))


def test_a_later_generations_orders_are_recovered_too() -> None:
    it = Life().enter()
    it.welcome(generation=2)
    it.deliver(0, 1, 20.0, step=4)
    it.obey(hears=False)
    it.begin_agent()
    assert it.committed[0].base == [1, -1] and it.base[0] == 20.0


def test_who_died_before_it_said_that_training_may_begin_is_made_good() -> None:
    it = Life()
    it.welcome()
    it.deliver(0, 0, 10.0)
    it.obey()
    it.deliver(1, 0, 10.0)
    it.obey(hears=False)
    it.said.clear()
    it.begin_agent()
    assert Go(steps=0) in it.said
    it.said.clear()
    it.begin_agent()
    assert Go(steps=0) in it.said, "and once more by the next one, as nobody can know"
