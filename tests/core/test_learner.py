"""LearnerCore: joining, hand-over, the end."""

from __future__ import annotations

import pytest

from skerry.core.messages import (
    Abstain,
    Ask,
    BudgetReached,
    Cancel,
    Contribution,
    Count,
    Join,
    Leave,
    ProvideInitial,
    Received,
    Refused,
    Report,
    RequestInitial,
    RunOver,
    TakenOver,
    Welcome,
)
from skerry.core.orders import (
    Beat,
    CopyOut,
    Detach,
    Drop,
    Forget,
    Go,
    LearnerEvent,
    Linked,
    LoopLeft,
    Reject,
    Stepped,
    StopLoop,
    TakeOver,
    TrainerEnded,
    Warn,
)
from support.desk import TOKENS, after, only
from support.island import Island

# ------------------------------------------------------------------ joining


def test_a_fresh_learner_joins_takes_everything_over_and_begins() -> None:
    island = Island(begun=False, fragments=2)
    assert island.join() == Join(layout=island.layout.hash, bases=(-1, -1), settled=(Count(), Count()), holds=(-1, -1))
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


def test_a_refusal_is_an_error_before_training_has_begun_and_a_warning_later() -> None:
    refused = Refused(code="layout", reason="it differs")
    assert Island(begun=False).feed(refused) == [Reject(code="layout", reason="it differs")]
    (warn,) = Island().feed(refused)
    assert isinstance(warn, Warn) and "layout" in warn.text and "it differs" in warn.text
    stepped = Island(begun=False)
    stepped.step()
    assert only(stepped.feed(refused), Warn), "by its earlier agent's leave"


def test_a_beat_is_a_report_once_there_is_a_link() -> None:
    island = Island()
    island.step(3)
    assert island.feed(Beat()) == [Report(learner=3, generation=1, clock=3, count=after(3))]
    island.lose_link()
    assert island.feed(Beat()) == []


def test_early_deliveries_are_dropped_with_their_link() -> None:
    island = Island()
    island.lose_link()
    island.join()
    island.deliver(1, 4)
    assert island.lose_link() == [Drop(fragment=0, version=1)]


def test_a_new_agent_lets_training_begin_if_the_old_one_may_not_have_said_so() -> None:
    island = Island(begun=False, memory=Island().memory)
    assert island.step(0) == [Go(steps=0)]


def test_the_trainers_progress_is_the_new_agents() -> None:
    island = Island(begun=False)
    island.feed(Stepped(count=after(1), progress=0.25))
    assert island.core.progress == 0.25


def test_each_step_is_reported_once_there_is_a_link() -> None:
    island = Island()
    assert only(island.step(3), Report) == [Report(learner=3, generation=1, clock=3, count=after(3))]
    island.lose_link()
    assert island.step() == []


# ------------------------------------------------------------------ hand-over


def test_an_ask_is_answered_with_the_work_since_the_base() -> None:
    island = Island()
    island.step(4)
    contribution = island.hand_over(4)
    assert contribution == Contribution(learner=3, generation=1, fragment=0, step=4, base=0, since=Count(), until=after(4))
    assert island.core.handed == [contribution]


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
    assert not island.core.handed


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
    assert only(actions, Forget) == [Forget(fragment=0)]
    assert bool(only(actions, Warn)) == (verdict == "refused")
    assert only(island.ask(8), CopyOut)


def test_a_cancelled_round_ends_the_hand_over_and_keeps_its_work() -> None:
    island = Island()
    island.step(4)
    island.hand_over(4)
    assert island.feed(Cancel(fragment=0, step=4)) == [Forget(fragment=0)]
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
    assert island.core.handed


def test_open_contributions_are_sent_again_on_the_next_link() -> None:
    island = Island()
    island.step(4)
    contribution = island.hand_over(4)
    island.lose_link()
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
    assert island.feed(RunOver()) == [Detach()]


def test_who_never_took_over_has_nothing_for_the_last_round() -> None:
    island = Island(begun=False)
    island.welcome()
    assert only(island.ask(9, final=True), Abstain)


def test_the_last_word_bears_the_last_counters() -> None:
    island = Island()
    island.step(2)
    assert island.feed(TrainerEnded(count=after(3), reason="killed")) == [
        Leave(learner=3, generation=1, count=after(3), reason="killed")
    ]


def test_without_a_link_there_is_no_last_word() -> None:
    island = Island()
    island.lose_link()
    assert island.feed(TrainerEnded(count=after(3))) == []


@pytest.mark.parametrize("told", [RunOver(), Refused(code="over", reason="it is")])
def test_when_the_run_is_over_the_trainer_is_let_go_once_and_nothing_more_is_said(told: LearnerEvent) -> None:
    island = Island()
    assert island.feed(told)[-1:] == [Detach()]
    assert not only(island.feed(told), Detach)
    assert island.step() == island.feed(Beat()) == island.feed(TrainerEnded(count=after(1))) == island.feed(Linked()) == []


def test_who_cannot_reach_the_syncer_for_the_last_round_leaves_after_final_timeout() -> None:
    island = Island(final_timeout=30.0)
    island.now = 100.0
    island.lose_link()
    island.now = 131.0
    assert island.feed(Beat()) == [], "training goes on without a link"
    island.welcome()
    island.feed(LoopLeft(count=after(0)))
    island.now = 150.0
    island.lose_link()
    island.now = 170.0
    island.feed(Linked())  # and nobody says Welcome
    island.lose_link()
    island.now = 180.0
    assert island.feed(Beat()) == [], "it had a place in the run, and no longer ago than that"
    island.now = 180.1
    assert [type(a) for a in island.feed(Beat())] == [Warn, Detach]


def test_the_last_question_heard_twice_is_answered_once_but_for_the_word_that_there_is_nothing() -> None:
    island = Island(fragments=3)
    island.step(4)
    island.hand_over(4, fragment=1)
    island.feed(BudgetReached())
    island.ask(9, fragment=0, final=True)
    assert island.ask(9, fragment=0, final=True) == [], "it is being copied out"
    assert island.ask(9, fragment=1, final=True) == island.ask(9, fragment=1, final=True) == [], "it waits"
    (handed,) = only(island.copy(9, fragment=0), Contribution)
    assert island.ask(9, fragment=0, final=True) == [], "it is handed over"
    island.answer(9, "late")
    assert island.ask(9, fragment=0, final=True) == [], "it is answered"
    assert handed.step == 9
    island.memory.settled[2] = after(4)
    island.ask(9, fragment=2, final=True)
    nothing = island.copy(9, fragment=2)
    assert nothing == island.ask(9, fragment=2, final=True) == [Abstain(learner=3, generation=1, fragment=2, step=9)]


def test_the_budget_is_reached_once() -> None:
    island = Island()
    assert island.feed(BudgetReached()) and not island.feed(BudgetReached())


def test_what_is_copied_out_before_the_welcome_is_handed_over_with_it_and_once() -> None:
    island = Island()
    island.step(4)
    assert only(island.ask(4), CopyOut)
    island.lose_link()
    island.feed(Linked())
    assert not only(island.copy(4), Contribution), "the syncer does not know this link's learner yet"
    again = island.feed(Welcome(learner=3, generation=1, clock=4, first_step=0, progress=0.0))
    assert [message.step for message in only(again, Contribution)] == [4]
