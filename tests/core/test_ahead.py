"""Hand-overs ahead of the question: who makes them and when, and what becomes of them."""

from __future__ import annotations

import pytest

from skerry.core.ahead import Ahead
from skerry.core.fragment import UNASKED, State
from skerry.core.messages import Abstain, BudgetReached, Contribution, Received, Welcome
from skerry.core.orders import CopyOut, Drop, Encode, Forget, TakeOver
from support.desk import after, only
from support.island import Island


def too_late(island: Island, version: int) -> None:
    """Asked in its next step, and told the round's end before its copy could be made."""
    step = 10 * version
    island.step()
    assert only(island.ask(step), CopyOut)
    island.deliver(version, step)
    island.step()
    assert only(island.copy(step), TakeOver)
    island.apply(version)


def slow_island(**policy: object) -> Island:
    """Too late twice, asked after steps 1 and 5; it is at step 7. The next question is expected after step 9."""
    island = Island(**{"on_excluded": "carry", **policy})
    too_late(island, 1)
    island.step(2)
    too_late(island, 2)
    island.step()
    return island


def ordered(**policy: object) -> Island:
    """It was told to copy out at step 9, and is there."""
    island = slow_island(**policy)
    assert only(island.step(), CopyOut) == [CopyOut(fragment=0, step=UNASKED)]
    island.steps = 9
    return island


def ready(**policy: object) -> Island:
    """And has done so."""
    island = ordered(**policy)
    assert island.copy(UNASKED) == [Encode(fragment=0, until=after(9))]
    return island


def test_it_is_due_at_the_distance_of_the_last_two_questions_and_only_after_being_late() -> None:
    ahead = Ahead(4)
    ahead.asked(0, 3)
    ahead.asked(0, 7)
    assert ahead.due(11) == []
    ahead.late(0)
    ahead.late(1)  # never asked for
    assert (ahead.due(10), ahead.due(11), ahead.due(12)) == ([], [0], [0])
    ahead.asked(0, 11)
    assert (ahead.due(14), ahead.due(15)) == ([], [0])
    ahead.asked(0, 12)  # sooner than it was thought: the next one, too
    assert (ahead.due(12), ahead.due(13)) == ([], [0])
    ahead.asked(2, 5)
    ahead.late(2)
    ahead.asked(2, 13)
    assert (ahead.due(20), ahead.due(21)) == ([0], [0, 2])


def test_who_was_too_late_copies_out_before_the_question_and_answers_at_once() -> None:
    island = ready()
    assert not only(island.step(0), CopyOut), "one is enough"
    (answer,) = only(island.ask(30), Contribution)
    assert (answer.step, answer.base, answer.until) == (30, 2, after(9))
    assert answer.since == after(0), "both times it was carried"
    assert not island.ask(30), "the same question again"


def test_a_question_that_comes_before_the_copy_is_answered_by_it() -> None:
    island = ordered()
    assert not only(island.ask(30), CopyOut), "it is ordered already"
    prepare, answer = island.copy(UNASKED)
    assert prepare == Encode(fragment=0, until=after(9)) and isinstance(answer, Contribution) and answer.step == 30


def test_nothing_done_since_is_said_to_a_question_and_kept_silent_without() -> None:
    for asked in (False, True):
        island = ordered(on_excluded="overwrite")
        island.memory.settled[0] = after(9)
        if asked:
            island.ask(30)
        nothing = only(island.copy(UNASKED), Abstain)
        assert [word.step for word in nothing] == ([30] if asked else [])


def test_a_new_value_makes_the_copy_void_and_another_is_made() -> None:
    island = ready()
    assert only(island.deliver(3, 29), TakeOver) == [
        TakeOver(fragment=0, version=3, rule="carry", included=False, step=29)
    ]
    assert only(island.apply(3), CopyOut) == [CopyOut(fragment=0, step=UNASKED)]
    assert only(island.deliver(3, 29), Drop) and island.core.fragments[0].state is State.COPYING
    island.step()
    island.copy(UNASKED)
    (answer,) = only(island.ask(30), Contribution)
    assert (answer.base, answer.until) == (3, after(10))


def test_a_question_that_comes_much_too_late_gets_a_copy_of_its_own() -> None:
    island = ready()
    island.step(island.policy.overlap + 1)
    assert island.ask(30) == [Forget(fragment=0), CopyOut(fragment=0, step=30)]
    (answer,) = only(island.copy(30), Contribution)
    assert answer.until == after(12)


def test_a_question_just_overlap_steps_after_the_copy_is_answered_by_it() -> None:
    island = ready()
    island.step(island.policy.overlap)
    actions = island.ask(30)
    assert not only(actions, CopyOut) and not only(actions, Forget)
    assert [answer.until for answer in only(actions, Contribution)] == [after(9)]


def test_a_copy_that_was_made_before_a_new_generation_began_changes_nothing() -> None:
    island = ordered()
    assert only(island.deliver(3, 29), Received)
    assert island.welcome(generation=2) == [Drop(fragment=0, version=3)]
    assert only(island.deliver(4, 30), Received) and island.core.fragments[0].state is State.VOID
    assert only(island.copy(UNASKED), TakeOver), "it waited for the copy's end"


def test_the_last_question_is_for_what_was_done_since() -> None:
    island = ready()
    island.step()
    island.feed(BudgetReached())
    assert island.ask(40, final=True) == [Forget(fragment=0), CopyOut(fragment=0, step=40)]
    (answer,) = only(island.copy(40), Contribution)
    assert answer.until == after(10)


def test_a_new_link_does_not_send_what_nobody_asked_for_but_the_body_is_kept() -> None:
    island = ready()
    island.lose_link()
    island.join()
    welcome = Welcome(learner=3, generation=1, clock=0, first_step=0, progress=0.0)
    assert island.feed(welcome) == []
    assert only(island.ask(30), Contribution)


def test_who_is_asked_for_more_than_it_has_room_for_says_so_at_once() -> None:
    island = Island(fragments=8)
    island.step()
    assert island.policy.slots == 6
    for fragment in range(8):
        (word,) = only(island.ask(9, fragment), CopyOut if fragment < 6 else Abstain)
        assert (word.fragment, word.step) == (fragment, 9)
    island.copy(9, fragment=0)
    assert only(island.ask(10, fragment=7), CopyOut), "there is room again"


@pytest.mark.parametrize("without", ["grace", "budget", "link"])
def test_when_nothing_is_copied_ahead(without: str) -> None:
    island = slow_island(**({"grace": 0.0} if without == "grace" else {}))
    if without == "budget":
        island.feed(BudgetReached())
    if without == "link":
        island.lose_link()
    assert not only(island.step(), CopyOut)


def test_who_is_told_that_its_answers_were_late_copies_ahead() -> None:
    """Nothing was delivered: the syncer's word is all there is to go by."""
    island = Island()
    for steps, step in ((1, 10), (4, 20)):
        island.step(steps)
        island.hand_over(step)
        island.answer(step, "late")
    assert not only(island.step(2), CopyOut)
    assert only(island.step(), CopyOut) == [CopyOut(fragment=0, step=UNASKED)], "for the question after step 9"


def test_no_more_is_copied_ahead_than_there_is_room_for() -> None:
    island = Island(fragments=8)
    for version, step in ((1, 10), (2, 20)):  # six too late for their rounds, two without room
        island.step(4)
        for fragment in range(8):
            island.ask(step, fragment)
        for fragment in range(6):
            island.copy(step, fragment)
        for fragment in range(8):
            assert only(island.deliver(version, step, fragment=fragment), TakeOver)
            island.apply(version, fragment)
    island.step(2)
    assert len(only(island.step(), CopyOut)) == island.policy.slots == 6


def test_a_value_that_waited_for_a_copy_is_dropped_by_a_new_generation() -> None:
    island = Island()
    island.step()
    assert only(island.ask(4), CopyOut)
    assert not only(island.deliver(1, 4), TakeOver), "the copy is made first"
    assert only(island.welcome(generation=2), Drop) == [Drop(fragment=0, version=1)]
