"""LearnerCore: joining, hand-over, take-over, and what a new agent knows of it."""

from __future__ import annotations

from typing import Any

import pytest

from skerry.core.messages import (
    Applied,
    Ask,
    Cancel,
    Contribution,
    CopyOut,
    Count,
    Done,
    Drop,
    End,
    Finish,
    Go,
    Join,
    Nothing,
    Received,
    Refused,
    Report,
    Seed,
    Seeded,
    Stopped,
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
    assert island.feed(Seed(learner=3)) == [CopyOut(fragment=0, step=-1), CopyOut(fragment=1, step=-1)]
    assert only(island.copy(-1, 1), Seeded) == [Seeded(learner=3, generation=1, fragment=1)]


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
    assert island.hand_over(4) == Contribution(learner=3, generation=1, fragment=0, step=4, base=0, since=Count(), until=after(4))
    assert island.core.open_contributions() == [island.core._hands[0].message]


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
    assert only(island.copy(4), Nothing) == [Nothing(learner=3, generation=1, fragment=0, step=4)]
    assert not island.core.open_contributions()


def test_while_a_hand_over_is_open_there_is_nothing_and_the_same_ask_again_is_old_news() -> None:
    island = Island()
    island.step(4)
    island.hand_over(4)
    assert island.ask(4) == []
    assert [type(a) for a in island.ask(8)] == [Nothing]


def test_while_a_take_over_is_ordered_there_is_nothing() -> None:
    island = Island()
    island.step(4)
    assert only(island.deliver(1, 4), TakeOver)
    assert [type(a) for a in island.ask(5)] == [Nothing]


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
    assert only(island.ask(8), Nothing)
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


# ------------------------------------------------------------------ take-over


@pytest.mark.parametrize("rule", ["overwrite", "blend"])
def test_a_value_that_the_work_is_in_is_taken_over_and_counting_begins_there(rule: str) -> None:
    island = Island(on_included=rule)
    island.step(4)
    island.hand_over(4)
    island.step(2)
    (order,) = only(island.deliver(1, 4, merged=4 * TOKENS), TakeOver)
    assert order == TakeOver(fragment=0, version=1, rule=rule)
    assert island.memory.base == [0], "nothing is true before it is carried out"
    (taken,) = only(island.apply(1), TakenOver)
    assert taken == TakenOver(learner=3, generation=1, fragment=0, version=1, clock=6, settled=after(6), count=after(6))
    assert (island.memory.base, island.memory.settled) == ([1], [after(6)])


def test_rebase_counts_on_from_the_hand_over() -> None:
    island = Island(on_included="rebase")
    island.step(4)
    island.hand_over(4)
    island.step(2)
    assert island.take(1, 4, merged=4 * TOKENS) == "rebase"
    assert island.memory.settled == [after(4)]
    island.step(2)
    contribution = island.hand_over(8)
    assert (contribution.base, contribution.since, contribution.until) == (1, after(4), after(8))


@pytest.mark.parametrize(("rule", "settled"), [("carry", Count()), ("overwrite", after(6))])
def test_a_value_that_the_work_is_not_in(rule: str, settled: Count) -> None:
    island = Island(on_excluded=rule)
    island.step(4)
    island.hand_over(4)
    island.step(2)
    assert island.take(1, 4, merged=0) == rule
    assert (island.memory.base, island.memory.settled) == ([1], [settled])


def test_whether_the_work_is_in_is_said_by_the_delivery_and_not_by_the_hand_over() -> None:
    island = Island()
    island.step(4)
    island.hand_over(4)
    island.answer(4, "late")  # of a resent copy, say; the round had merged the first one
    assert island.take(1, 4, merged=4 * TOKENS) == "overwrite"


def test_after_a_refusal_the_same_version_is_taken_over_once_more_by_overwrite() -> None:
    island = Island()
    island.step(4)
    island.hand_over(4)
    assert only(island.deliver(0), Drop), "it is held already"
    island.answer(4, "refused", "NaN")
    assert island.take(0, 0) == "overwrite"
    assert island.memory.settled == [after(4)]
    assert only(island.deliver(0), Drop), "once"


def test_the_clock_of_a_slow_learner_jumps_to_the_round_it_takes_over() -> None:
    island = Island()
    island.step(5)
    island.take(1, 40)
    assert island.core.clock == 40
    island.step()
    assert island.core.clock == 41


def test_the_clock_of_a_fast_learner_stays() -> None:
    island = Island()
    island.step(9)
    island.take(1, 4)
    assert island.core.clock == 9


def test_a_newer_value_replaces_one_that_waits() -> None:
    island = Island()
    island.step(4)
    island.ask(4)  # ordered, not yet carried out: what comes must wait for that
    assert [type(a) for a in island.deliver(1, 3)] == [Received]
    actions = island.deliver(2, 4)
    assert only(actions, Drop) == [Drop(fragment=0, version=1)] and not only(actions, TakeOver)
    (order,) = only(island.copy(4), TakeOver)
    assert order.version == 2


def test_what_is_no_newer_than_what_is_held_is_dropped() -> None:
    island = Island()
    island.step(4)
    island.take(2, 4)
    assert island.deliver(1, 3) == [Drop(fragment=0, version=1)]
    assert island.deliver(2, 4) == [Drop(fragment=0, version=2)]
    island.deliver(3, 8)
    assert island.deliver(3, 8) == [Drop(fragment=0, version=3)], "it is ordered"


def test_an_older_rounds_value_is_not_taken_over_while_the_hand_over_to_a_later_one_is_open() -> None:
    island = Island()
    island.step(8)
    island.hand_over(8)
    assert not only(island.deliver(1, 4), TakeOver)
    assert only(island.deliver(2, 8, merged=8 * TOKENS), TakeOver)


# ------------------------------------------------------------------ generations and agents


def test_a_new_generation_begins_at_zero_and_takes_everything_over_while_training_goes_on() -> None:
    island = Island()
    island.step(4)
    island.hand_over(4)
    island.core.link_lost()
    island.welcome(generation=2, clock=100)
    assert island.core.open_contributions() == [] and island.memory.base == [-1]
    assert (island.core.clock, island.core.join().count) == (100, Count())
    (report,) = only(island.step(3), Report)
    assert (report.generation, report.clock, report.count) == (2, 103, after(3))
    (order,) = only(island.deliver(7, 96), TakeOver)
    assert order.rule == "overwrite", "nothing of its work can be in there"
    actions = island.apply(7)
    assert only(actions, TakenOver)[0].settled == after(3) and not only(actions, Go)


def test_an_order_of_a_closed_generation_means_nothing_any_more() -> None:
    island = Island()
    island.step(4)
    island.deliver(1, 4)
    island.core.link_lost()
    island.welcome(generation=2)
    assert not only(island.deliver(5, 8), TakeOver), "one order of a fragment at a time"
    actions = island.apply(1)
    assert not only(actions, TakenOver)
    assert only(actions, TakeOver) == [TakeOver(fragment=0, version=5, rule="overwrite")]


def test_a_new_agent_goes_on_where_the_old_one_was() -> None:
    first = Island()
    first.step(4)
    first.hand_over(4)
    second = Island(begun=False, memory=first.memory)
    second.step(5)
    assert second.core.begun and second.core.join() == Join(
        learner=3, generation=1, layout=second.layout.hash, count=after(5), clock=5, bases=(0,), settled=(Count(),)
    )
    second.welcome()
    assert second.hand_over(8).since == Count(), "what the old one had handed over and nobody merged"


@pytest.mark.parametrize(("rule", "until", "settled"), [
    ("overwrite", None, after(6)), ("blend", None, after(6)), ("carry", None, Count()), ("rebase", after(4), after(4)),
])  # fmt: skip
def test_a_take_over_carried_out_without_an_agent_is_set_down_by_the_next(rule: Any, until: Any, settled: Count) -> None:
    island = Island(begun=False, memory=Island().memory)
    island.core.count = after(6)
    island.core.take(Applied(fragment=0, version=1, count=after(6)), rule, until, 40)
    assert (island.memory.base, island.memory.settled, island.core.clock) == ([1], [settled], 40)


def test_without_the_copy_of_the_hand_over_rebase_becomes_overwrite() -> None:
    first = Island(on_included="rebase")
    first.step(4)
    first.hand_over(4)
    second = Island(begun=False, memory=first.memory, on_included="rebase")
    second.step(6)
    second.welcome()
    assert second.take(1, 4, merged=4 * TOKENS) == "overwrite"


# ------------------------------------------------------------------ the end


def test_at_the_budget_the_trainer_is_told_and_progress_is_whole() -> None:
    island = Island()
    assert only(island.feed(Finish()), Done) and island.core.progress == 1.0


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
    island.feed(Finish())
    assert not only(island.ask(9, final=True), CopyOut)
    island.deliver(1, 4, merged=4 * TOKENS)
    island.step()
    actions = island.apply(1)
    assert only(actions, CopyOut) == [CopyOut(fragment=0, step=9)]
    island.feed(Stopped(count=after(5)))
    assert only(island.copy(9), Nothing), "all of it was merged or overwritten"
    assert only(island.feed(End()), End)


def test_who_never_took_over_has_nothing_for_the_last_round() -> None:
    island = Island(begun=False)
    island.welcome()
    assert only(island.ask(9, final=True), Nothing)


def test_the_last_word_bears_the_last_counters() -> None:
    island = Island()
    island.step(2)
    assert island.core.leave(after(3), "killed").count == after(3)


# ------------------------------------------------------------------ synchronous policies


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
    assert only(island.feed(Finish()), Go) == [Go(steps=4)]


def test_a_synchronous_laggard_takes_over_at_once_and_says_nothing_of_what_it_passed_over() -> None:
    island = synchronous()
    (order,) = only(island.deliver(3, 12), TakeOver)
    actions = island.apply(order.version)
    assert island.core.clock == 12
    assert [nothing.step for nothing in only(actions, Nothing)] == [4, 8, 12]
