"""LearnerCore: joining, hand-over, the end."""

from __future__ import annotations

import pytest

from skerry.core.messages import (
    Abstain,
    Ask,
    BudgetReached,
    Cancel,
    Contribution,
    CopyOut,
    Count,
    Go,
    Join,
    LoopLeft,
    ProvideInitial,
    Received,
    Refused,
    Report,
    RequestInitial,
    RunOver,
    StopLoop,
    TakenOver,
    TakeOver,
    Warn,
)
from support.desk import TOKENS, after, only
from support.island import Island

# ------------------------------------------------------------------ joining


def test_a_fresh_learner_joins_takes_everything_over_and_begins() -> None:
    island = Island(begun=False, fragments=2)
    assert island.core.join() == Join(layout=island.layout.hash, bases=(-1, -1), settled=(Count(), Count()))
    assert not only(island.welcome(), Go)
    for fragment in (0, 1):
        actions = island.deliver(0, fragment=fragment)
        assert [type(a) for a in actions] == [Received, TakeOver]
        assert only(actions, TakeOver)[0].rule == "overwrite"
        actions = island.apply(0, fragment=fragment)
        assert only(actions, TakenOver) and only(actions, Go) == ([Go(steps=0)] if fragment else [])
    assert (island.memory.learner, island.memory.generation, island.core.begun) == (3, 1, True)


def test_a_delivery_that_overtakes_its_welcome_is_kept_for_it() -> None:
    island = Island(begun=False)
    assert island.deliver(0) == []
    assert only(island.welcome(), TakeOver)


def test_the_seeder_copies_every_fragment_out() -> None:
    island = Island(begun=False, fragments=2)
    island.welcome()
    assert island.feed(RequestInitial(learner=3)) == [CopyOut(fragment=0, step=-1), CopyOut(fragment=1, step=-1)]
    assert only(island.copy(-1, 1), ProvideInitial) == [ProvideInitial(learner=3, generation=1, fragment=1)]


def test_a_refusal_is_told_to_the_user() -> None:
    (warn,) = only(Island(begun=False).feed(Refused(code="layout", reason="it differs")), Warn)
    assert "layout" in warn.text and "it differs" in warn.text


def test_each_step_is_reported_once_there_is_a_link() -> None:
    island = Island()
    assert only(island.step(3), Report) == [Report(learner=3, generation=1, clock=3, count=after(3))]
    island.core.link_lost()
    assert island.step() == []


# ------------------------------------------------------------------ hand-over


def test_an_ask_is_answered_with_the_work_since_the_base() -> None:
    island = Island()
    island.step(4)
    contribution = island.hand_over(4)
    assert contribution == Contribution(learner=3, generation=1, fragment=0, step=4, base=0, since=Count(), until=after(4))
    assert island.core.open_contributions() == [contribution]


def test_the_copy_may_be_made_at_a_later_boundary_than_the_one_asked_at() -> None:
    island = Island()
    island.step(4)
    assert only(island.ask(4), CopyOut)
    island.step()
    (contribution,) = only(island.copy(4), Contribution)
    assert contribution.until == after(5)


def test_without_a_step_since_the_base_there_is_nothing() -> None:
    island = Island()
    island.ask(4)
    assert only(island.copy(4), Abstain) == [Abstain(learner=3, generation=1, fragment=0, step=4)]
    assert not island.core.open_contributions()


def test_while_a_hand_over_is_open_there_is_nothing_and_the_same_ask_again_is_old_news() -> None:
    island = Island()
    island.step(4)
    island.hand_over(4)
    assert island.ask(4) == []
    assert [type(a) for a in island.ask(8)] == [Abstain]


def test_while_a_take_over_is_ordered_there_is_nothing() -> None:
    island = Island()
    island.step(4)
    assert only(island.deliver(1, 4), TakeOver)
    assert [type(a) for a in island.ask(5)] == [Abstain]


@pytest.mark.parametrize("verdict", ["late", "stale", "refused"])
def test_an_answer_other_than_merged_ends_the_hand_over(verdict: str) -> None:
    island = Island()
    island.step(4)
    island.hand_over(4)
    actions = island.answer(4, verdict, "because")
    assert bool(only(actions, Warn)) == (verdict == "refused")
    assert only(island.ask(8), CopyOut)


def test_a_cancelled_round_ends_the_hand_over_and_keeps_its_work() -> None:
    island = Island()
    island.step(4)
    island.hand_over(4)
    island.feed(Cancel(fragment=0, step=4))
    island.step(4)
    assert island.hand_over(8).since == Count()


def test_merged_alone_does_not_end_it_the_delivery_does() -> None:
    island = Island()
    island.step(4)
    island.hand_over(4)
    island.answer(4, "merged")
    assert only(island.ask(8), Abstain)
    assert only(island.deliver(1, 4, merged=4 * TOKENS), TakeOver)


def test_answers_and_cancels_of_other_rounds_change_nothing() -> None:
    island = Island()
    island.step(4)
    island.hand_over(4)
    island.answer(3, "late")
    island.feed(Cancel(fragment=0, step=3))
    assert island.core.open_contributions()


def test_open_contributions_are_sent_again_on_the_next_link() -> None:
    island = Island()
    island.step(4)
    contribution = island.hand_over(4)
    island.core.link_lost()
    assert only(island.welcome(), Contribution) == [contribution]


# ------------------------------------------------------------------ the end


def test_at_the_budget_the_trainer_is_told_and_progress_is_whole() -> None:
    island = Island()
    assert only(island.feed(BudgetReached()), StopLoop) and island.core.progress == 1.0


def test_progress_never_falls() -> None:
    island = Island(steps=100)
    island.step(50)
    island.feed(Ask(fragment=0, step=4, progress=0.2, final=False))
    assert island.core.progress == 0.5
    island.deliver(1, 4)
    assert island.core.progress == 0.5


def test_the_final_hand_over_waits_until_the_fragments_present_business_is_done() -> None:
    island = Island()
    island.step(4)
    island.hand_over(4)
    island.feed(BudgetReached())
    assert not only(island.ask(9, final=True), CopyOut)
    island.deliver(1, 4, merged=4 * TOKENS)
    island.step()
    actions = island.apply(1)
    assert only(actions, CopyOut) == [CopyOut(fragment=0, step=9)]
    island.feed(LoopLeft(count=after(5)))
    assert only(island.copy(9), Abstain), "all of it was merged or overwritten"
    assert only(island.feed(RunOver()), RunOver)


def test_who_never_took_over_has_nothing_for_the_last_round() -> None:
    island = Island(begun=False)
    island.welcome()
    assert only(island.ask(9, final=True), Abstain)


def test_the_last_word_bears_the_last_counters() -> None:
    island = Island()
    island.step(2)
    assert island.core.leave(after(3), "killed").count == after(3)
