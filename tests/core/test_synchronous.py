"""Synchronous policies: learners hand over by themselves and wait; the syncer waits for all."""

from __future__ import annotations

from typing import Any

from skerry.core.messages import Abstain, Ask, BudgetReached, Cancel, Close, Contribution, Verdict
from skerry.core.orders import CopyOut, Go, TakeOver
from support.desk import TOKENS, Desk, after, only, who
from support.island import Island

# ------------------------------------------------------------------ the syncer


SYNCHRONOUS: dict[str, Any] = {"synchronous": True, "quorum": 0}


def test_synchronous_learners_are_not_asked_and_the_first_hand_over_opens_the_round() -> None:
    desk = Desk(3, **SYNCHRONOUS)
    assert not only(desk.all_step(4), Ask) and not desk.core.rounds.open
    desk.hand(1, 4)
    desk.hand(0, 4)
    (close,) = only(desk.hand(2, 4), Close)
    assert who(close) == (1, 0, 2)


def test_synchronous_rounds_wait_for_all_and_are_looked_at_anew_when_one_departs() -> None:
    desk = Desk(3, **SYNCHRONOUS, sync_timeout=100.0)
    desk.all_step(4)
    desk.hand(0, 4)
    desk.hand(1, 4)
    assert not only(desk.wait(50.0), Close)
    (close,) = only(desk.leave(2), Close)
    assert who(close) == (0, 1)


def test_a_silent_learner_is_waited_for_no_longer_than_sync_timeout() -> None:
    desk = Desk(3, **SYNCHRONOUS, sync_timeout=20.0)
    desk.all_step(4)
    desk.wait(1.0)
    desk.hand(0, 4)
    desk.hand(1, 4)
    assert not only(desk.wait(18.0), Close)
    desk.report(0)
    desk.report(1)
    (close,) = only(desk.wait(2.0), Close)
    assert who(close) == (0, 1) and not desk.core.members.get(2).live


def test_who_said_nothing_before_the_synchronous_round_opened_is_not_waited_for() -> None:
    desk = Desk(2, **SYNCHRONOUS)
    desk.all_step(4)
    desk.nothing(0, 4)
    assert only(desk.hand(1, 4), Close)


def test_who_joined_past_the_step_of_a_synchronous_round_is_not_waited_for() -> None:
    desk = Desk(2, **SYNCHRONOUS)
    desk.all_step(4)
    desk.enter(2)
    desk.hand(0, 4)
    assert only(desk.hand(1, 4), Close)


def test_the_last_round_bears_a_step_that_no_learner_can_have_handed_over_at() -> None:
    desk = Desk(2, **SYNCHRONOUS, steps=4)
    desk.step(1, 4)
    desk.hand(1, 4)
    desk.step(1, 2)
    asks = only(desk.step(0, 4), Ask)
    assert [ask.final for ask in asks] == [False], "what the open round still waits for"
    (ask,) = only(desk.hand(0, 4), Ask)
    assert ask.final and ask.step > 6 + 4 + 2
    desk.take(1, settled=after(4))
    desk.step(1, 2)
    assert only(desk.hand(1, 8), Verdict)[0].verdict == "late", "a regular hand-over, made before it heard of the end"
    desk.nothing(0, ask.step)
    assert only(desk.hand(1, ask.step), Close)
    assert desk.amounts() == {"merged": 120}


# ------------------------------------------------------------------ the learner


def synchronous(**policy: Any) -> Island:
    island = Island(**{"synchronous": True, "quorum": 0, "on_included": "overwrite", **policy})
    for _ in range(3):
        assert only(island.step(), Go) == [Go(steps=island.steps)], "nothing holds it"
    return island


def test_a_synchronous_learner_hands_over_by_itself_and_waits_at_t_p_plus_tau() -> None:
    island = synchronous()
    assert only(island.step(), CopyOut) == [CopyOut(fragment=0, step=4)]
    actions = island.copy(4)
    assert only(actions, Contribution) and only(actions, Go) == [Go(steps=4)]
    assert only(island.step(), Go)
    assert not only(island.step(), Go), "t_p + tau: it waits for the delivery"
    actions = island.deliver(1, 4, merged=4 * TOKENS)
    assert only(actions, TakeOver) and not only(actions, Go)
    assert only(island.apply(1), Go) == [Go(steps=6)]


def test_it_waits_where_it_handed_over_when_there_is_no_overlap() -> None:
    island = synchronous(overlap=0)
    assert not only(island.step(), Go)
    assert not only(island.copy(4), Go)
    island.deliver(1, 4, merged=4 * TOKENS)
    assert only(island.apply(1), Go) == [Go(steps=4)]


def test_a_value_that_comes_early_is_taken_over_at_t_p_plus_tau() -> None:
    island = synchronous()
    island.step()
    island.copy(4)
    assert not only(island.deliver(1, 4, merged=4 * TOKENS), TakeOver)
    assert not only(island.step(), TakeOver)
    assert only(island.step(), TakeOver)


def test_a_cancelled_round_lets_it_go_on() -> None:
    island = synchronous(overlap=0)
    island.step()
    island.copy(4)
    assert only(island.feed(Cancel(fragment=0, step=4)), Go) == [Go(steps=4)]


def test_the_end_lets_it_go_on() -> None:
    island = synchronous(overlap=0)
    island.step()
    island.copy(4)
    assert only(island.feed(BudgetReached()), Go) == [Go(steps=4)]


def test_a_synchronous_laggard_takes_over_at_once_and_says_nothing_of_what_it_passed_over() -> None:
    island = synchronous()
    (order,) = only(island.deliver(3, 12), TakeOver)
    actions = island.apply(order.version)
    assert island.core.clock == 12
    assert [nothing.step for nothing in only(actions, Abstain)] == [4, 8, 12]


def test_a_boundary_at_which_a_value_of_that_step_was_taken_over_has_nothing_to_hand_over() -> None:
    """The trainer has carried the order out at the boundary before the boundary itself is heard of."""
    island = synchronous()
    (order,) = only(island.deliver(3, 12), TakeOver)
    island.steps += 1
    assert only(island.apply(order.version), Abstain)
    actions = island.step(0)
    assert [nothing.step for nothing in only(actions, Abstain)] == [12] and not only(actions, CopyOut)


def test_a_jump_takes_along_what_was_to_wait_for_the_steps_passed_over() -> None:
    island = Island(synchronous=True, quorum=0, on_included="overwrite", fragments=2)
    island.step(4)
    island.copy(4)
    assert not only(island.deliver(1, 4, merged=4 * TOKENS), TakeOver), "that is for step 6"
    (order,) = only(island.deliver(3, 10, fragment=1), TakeOver)
    (next_order,) = only(island.apply(order.version, fragment=1), TakeOver)
    assert (next_order.fragment, next_order.version, next_order.included) == (0, 1, True)
    assert island.core.clock == 10
