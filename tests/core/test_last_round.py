"""Who is waited for in the last round, when links break again and again. More of it is in test_rounds.py."""

from __future__ import annotations

from skerry.core.messages import Ask, RunOver
from support.desk import Desk, only


def last_round(learners: int = 2, **policy: object) -> Desk:
    """The budget of 4 steps is reached, and the last round, of step 5, is asked of all."""
    desk = Desk(learners, **{"steps": 4, "final_timeout": 30.0, **policy})
    assert [ask.final for ask in only(desk.all_step(4), Ask)] == [True]
    return desk


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
