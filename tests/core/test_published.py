"""Between a round's close and the existence of its version: it is closing, and its contributions are its learners' still."""

from __future__ import annotations

import pytest

from skerry.core.messages import Ask, Cancel, Close, Distribute, Merge, RunOver, Verdict
from support.desk import Desk, after, only


def closing(learners: int = 2, **policy: object) -> Desk:
    """All stand at step 4; learner 0's contribution lies in the round of fragment 0, which is closing."""
    desk = Desk(learners, **policy)
    desk.slow = True
    desk.all_step(4)
    assert only(desk.hand(0, 4), Close) and not desk.core.rounds.open
    return desk


def test_a_version_exists_and_is_merged_when_it_is_published() -> None:
    desk = closing()
    assert desk.core.versions == [0] and desk.core.rounds.closed == 0 and desk.mine(0) == 0
    assert desk.amounts() == {"pending": 80}
    (told,) = only(desk.publish(1), Distribute)
    assert (told.version, told.step, told.included) == (1, 4, ((0, 1, 40),))
    assert desk.core.versions == [1] and desk.mine(0) == 40 and desk.amounts() == {"merged": 40, "pending": 40}


def test_what_is_published_twice_or_out_of_turn_changes_nothing() -> None:
    desk = closing()
    assert not desk.publish(2)
    desk.publish(1)
    assert not desk.publish(1) and desk.core.versions == [1]


def test_a_failed_round_is_cancelled_and_its_contributions_stay_with_their_learners() -> None:
    desk = closing()
    assert not desk.fail(3), "another round's"
    (cancel,) = only(desk.fail(4), Cancel)
    assert (cancel.fragment, cancel.step) == (0, 4)
    assert desk.core.versions == [0] and desk.core.rounds.cancelled == 1 and desk.amounts() == {"pending": 80}
    desk.all_step(4)
    (merge,) = only(desk.hand(0, 8), Merge)
    assert merge.tokens == 80, "all of it, next time"


def test_a_closing_round_counts_as_open_and_its_fragment_is_not_asked_for_anew() -> None:
    desk = Desk(1, fragments=2, overlap=1)
    desk.slow = True
    desk.step(0, 2)
    assert only(desk.hand(0, 2, 1), Close)
    assert not only(desk.step(0, 2), Ask), "there is one place, and it is taken"
    assert [ask.fragment for ask in only(desk.publish(1, 1), Ask)] == [0]
    desk = Desk(1, overlap=2)
    desk.slow = True
    desk.step(0, 4)
    desk.hand(0, 4)
    assert not only(desk.step(0, 4), Ask), "there is a place, but the fragment's round is closing"
    assert [ask.step for ask in only(desk.publish(1), Ask)] == [8]


def test_what_is_sent_again_for_a_closing_round_is_answered_by_its_end_and_who_was_not_in_it_is_late() -> None:
    desk = closing()
    assert not desk.hand(0, 4)
    (verdict,) = only(desk.hand(1, 4), Verdict)
    assert verdict.verdict == "late"


def test_who_died_is_merged_still() -> None:
    desk = closing()
    desk.enter(0)  # its next generation
    assert desk.amounts() == {"pending": 80}
    desk.publish(1)
    assert desk.amounts() == {"merged": 40, "pending": 40}


def test_who_died_and_lay_in_a_round_that_failed_is_lost() -> None:
    desk = closing()
    desk.enter(0)
    desk.fail(4)
    assert desk.amounts() == {"died": 40, "pending": 40}


def test_a_take_over_that_is_told_of_meanwhile_is_entered_when_the_round_is_over() -> None:
    desk = closing(quorum=1)
    desk.take(0, settled=after(0))
    desk.publish(1)
    assert desk.amounts() == {"merged": 40, "pending": 40}


def test_xi_sync_runs_from_the_close() -> None:
    desk = closing(learners=1)
    desk.now += 3.0
    desk.publish(1)
    desk.now += 1.0
    desk.received(0)
    assert desk.core.grace.sync.value == pytest.approx(4.0)


def test_the_run_ends_when_its_last_versions_exist() -> None:
    desk = Desk(1, steps=4)
    desk.slow = True
    desk.step(0, 4)
    assert not only(desk.hand(0, 5), RunOver)
    assert only(desk.publish(1), RunOver) and desk.amounts() == {"merged": 40}


def test_synchronous_learners_may_open_the_next_round_and_it_closes_after_the_one_before() -> None:
    desk = Desk(2, synchronous=True, quorum=0)
    desk.slow = True
    desk.all_step(4)
    desk.nothing(1, 4)
    assert only(desk.hand(0, 4), Close)
    desk.all_step(4)
    desk.nothing(0, 8)
    assert not only(desk.hand(1, 8), Close) and list(desk.core.rounds.open) == [0]
    (close,) = only(desk.publish(1), Close)
    assert (close.step, close.version) == (8, 2)


def test_of_one_that_lies_in_a_closing_round_nothing_is_taken_twice() -> None:
    """Its agent died, and the new one does not know of the hand-over."""
    desk = Desk(2, synchronous=True, quorum=0)
    desk.slow = True
    desk.all_step(4)
    desk.nothing(1, 4)
    desk.hand(0, 4)
    desk.all_step(4)
    (verdict,) = only(desk.hand(0, 8), Verdict)
    assert verdict.verdict == "stale"
