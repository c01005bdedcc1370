"""Between a round's close and its version, which comes later or not at all; and who is waited for in the last round."""

from __future__ import annotations

import pytest

from skerry.core.messages import Ask, BudgetReached, Cancel, Close, Distribute, Merge, Refused, RunOver, Verdict, Welcome
from support.desk import Desk, only, who


def closing(learners: int = 2, **policy: object) -> Desk:
    """All stand at step 4, and learner 0 has closed the round there; its version does not exist yet."""
    desk = Desk(learners, **policy)
    desk.slow = True
    desk.all_step(4)
    assert only(desk.hand(0, 4), Close)
    return desk


# ------------------------------------------------------------------ published


def test_what_is_closed_is_merged_when_it_is_published() -> None:
    desk = closing()
    assert desk.core.versions == [0] and desk.amounts() == {"pending": 80} and desk.mine(0) == 0
    (told,) = only(desk.publish(1), Distribute)
    assert [tuple(each) for each in told.included] == [(0, 1, 40)]
    assert desk.core.versions == [1] and desk.amounts() == {"merged": 40, "pending": 40} and desk.mine(0) == 40


def test_it_is_published_once_and_only_as_what_was_closed() -> None:
    desk = closing()
    assert not desk.publish(2) and desk.core.versions == [0]
    desk.publish(1)
    assert not desk.publish(1) and not desk.fail(4) and desk.core.versions == [1]


def test_a_closing_round_counts_as_open() -> None:
    desk = Desk(2, fragments=2, overlap=1)
    desk.slow = True
    desk.all_step(2)
    assert only(desk.hand(0, 2, 1), Close)
    assert not only(desk.all_step(2), Ask)
    (ask,) = only(desk.publish(1, 1), Ask)
    assert ask.fragment == 0


def test_its_fragment_is_not_asked_for_anew_while_it_closes() -> None:
    desk = closing(overlap=2)
    assert not only(desk.all_step(4), Ask)
    (ask,) = only(desk.publish(1), Ask)
    assert ask.step == 8


def test_what_is_sent_again_while_its_round_closes_is_answered_by_the_version() -> None:
    desk = closing()
    desk.die(0)
    desk.rejoin(0)
    assert not desk.hand(0, 4)
    desk.publish(1)
    (verdict,) = only(desk.hand(0, 4), Verdict)
    assert verdict.verdict == "merged" and desk.amounts()["merged"] == 40


def test_who_comes_too_late_for_a_closing_round_hears_so_at_once() -> None:
    desk = closing()
    (verdict,) = only(desk.hand(1, 4), Verdict)
    assert verdict.verdict == "late"


def test_a_dead_learners_contribution_stays_in_the_closing_round() -> None:
    desk = closing()
    desk.enter(0)  # its next generation: the former one is closed
    assert desk.amounts() == {"pending": 80}
    desk.publish(1)
    assert desk.amounts() == {"merged": 40, "pending": 40}


def test_xi_sync_runs_from_the_close() -> None:
    desk = closing(1, grace=0.9)
    desk.wait(2.0)
    desk.publish(1)
    desk.wait(1.0)
    desk.received(0)
    assert desk.core.grace.sync.value == 3.0


# ------------------------------------------------------------------ failed


def test_what_failed_is_cancelled_and_stays_its_learners() -> None:
    desk = closing()
    assert only(desk.fail(4), Cancel) == [Cancel(fragment=0, step=4)]
    assert desk.core.versions == [0] and desk.amounts() == {"pending": 80} and desk.core.rounds.cancelled == 1
    assert not desk.publish(1), "it is over"
    desk.all_step(4)
    assert only(desk.hand(0, 8), Merge) and desk.publish(1)
    assert desk.amounts()["merged"] == 80


def test_old_news_of_a_failure_changes_nothing() -> None:
    desk = closing()
    assert not desk.fail(3) and not desk.fail(5) and desk.core.rounds.closing


# ------------------------------------------------------------------ synchronous policies


def test_a_synchronous_round_opens_while_the_one_before_it_closes_and_closes_after_it() -> None:
    desk = Desk(2, synchronous=True, quorum=0)
    desk.slow = True
    desk.all_step(4)
    desk.hand(0, 4)
    desk.nothing(1, 4)
    assert desk.core.rounds.closing
    desk.all_step(4)
    desk.nothing(0, 8)  # it waits for its first value
    assert not only(desk.hand(1, 8), Close), "not before version 1"
    assert desk.core.rounds.open[0].step == 8
    (close,) = only(desk.publish(1), Close)
    assert (close.version, who(close)) == (2, (1,))


def test_no_interval_lies_in_two_rounds() -> None:
    """An agent that took the place of a dead one knows nothing of what lies in the round that is closing."""
    desk = Desk(2, synchronous=True, quorum=0)
    desk.slow = True
    desk.all_step(4)
    desk.hand(0, 4)
    desk.nothing(1, 4)
    desk.die(0)
    desk.rejoin(0)
    desk.all_step(4)
    (verdict,) = only(desk.hand(0, 8), Verdict)
    assert verdict.verdict == "stale"
    desk.publish(1)
    assert desk.amounts() == {"merged": 40, "pending": 120}


# ------------------------------------------------------------------ the last round


def last_round(learners: int = 2, **policy: object) -> Desk:
    """The budget of 4 steps is reached, and the last round, of step 5, is asked of all."""
    desk = Desk(learners, **{"steps": 4, "final_timeout": 30.0, **policy})
    assert [ask.final for ask in only(desk.all_step(4), Ask)] == [True]
    return desk


@pytest.mark.parametrize("flaps", [False, True])
def test_the_last_round_waits_for_a_learner_whose_link_breaks(flaps: bool) -> None:
    desk = last_round()
    desk.hand(0, 5)
    if flaps:
        desk.die(1)
        back = desk.rejoin(1)
        assert only(back, BudgetReached) and [(ask.learner, ask.step) for ask in only(back, Ask)] == [(1, 5)]
    assert only(desk.hand(1, 5), RunOver)
    assert desk.amounts() == {"merged": 80}


def test_who_answered_before_its_link_broke_is_not_waited_for_twice() -> None:
    desk = last_round()
    desk.hand(0, 5)
    desk.die(0)
    assert not only(desk.rejoin(0), Ask)
    assert only(desk.hand(1, 5), RunOver)


def test_who_breaks_its_link_again_and_again_is_waited_for_once() -> None:
    desk = last_round()
    for _ in range(3):
        desk.die(1)
        desk.rejoin(1)
    desk.hand(0, 5)
    assert only(desk.hand(1, 5), RunOver) and desk.amounts() == {"merged": 80}


def test_who_does_not_come_back_is_waited_for_until_final_timeout() -> None:
    desk = last_round()
    desk.die(1)
    assert not only(desk.hand(0, 5), RunOver)
    assert not only(desk.wait(29.0), RunOver)
    assert only(desk.wait(2.0), RunOver) and desk.amounts() == {"merged": 40, "died": 40}


def test_a_new_generation_is_refused_at_the_end_and_the_former_one_not_waited_for() -> None:
    desk = last_round()
    desk.hand(0, 5)
    desk.die(1)
    actions = desk.join(1)
    assert only(actions, Refused)[0].code == "over" and not only(actions, Welcome)
    assert only(actions, RunOver) and desk.amounts() == {"merged": 40, "died": 40}


def test_who_left_is_not_waited_for() -> None:
    desk = last_round()
    desk.hand(0, 5)
    assert only(desk.leave(1), RunOver)


def test_a_link_that_breaks_before_the_last_round_begins_is_waited_for_in_it() -> None:
    desk = Desk(2, steps=5, quorum=2, final_timeout=30.0)
    desk.all_step(4)
    desk.hand(0, 4)
    desk.all_step(1)  # the budget, while the round of step 4 is open
    assert desk.core.phase == "ending"
    desk.die(1)
    assert desk.core.phase == "final", "a round before the last one does not wait for the dead"
    desk.hand(0, 6)
    assert desk.core.phase == "final"
    (ask,) = only(desk.rejoin(1), Ask)
    assert ask.final and only(desk.hand(1, 6), RunOver) and desk.amounts() == {"merged": 100}
