"""Rounds: when they open, whom they wait for, how they close, and what becomes of each contribution."""

from __future__ import annotations

from dataclasses import replace

import pytest

from skerry.core.messages import Ask, BudgetReached, Cancel, Close, Deliver, Distribute, Join, Merge, Refused, RunOver, Verdict
from support.desk import Desk, after, only, who


def opened(learners: int, **policy: object) -> Desk:
    """All stand at step 4, where the round of the only fragment is open."""
    desk = Desk(learners, **policy)
    desk.all_step(4)
    assert list(desk.core.rounds.open) == [0]
    return desk


def verdict(actions: list) -> str:
    (answer,) = only(actions, Verdict)
    return answer.verdict


# ------------------------------------------------------------------ opening


def test_a_round_opens_at_t_p_plus_k_h() -> None:
    desk = Desk(1, fragments=2)
    asked = []
    for _ in range(13):
        for ask in only(desk.step(0), Ask):
            asked.append((ask.step, ask.fragment))
            desk.hand(0, ask.step, ask.fragment)
            desk.take(0, ask.fragment)
    assert asked == [(2, 1), (4, 0), (6, 1), (8, 0), (10, 1), (12, 0)]


def test_steps_reported_at_once_open_the_round_at_the_step_that_was_reached() -> None:
    desk = Desk(1)
    (ask,) = only(desk.step(0, 7), Ask)
    assert (ask.fragment, ask.step, ask.progress) == (0, 7, 7 / 1000)


def test_at_most_tau_rounds_are_open_and_due_ones_wait_in_order() -> None:
    desk = Desk(1, fragments=4, overlap=2)
    asks = only(desk.step(0, 4), Ask)
    assert [ask.fragment for ask in asks] == [1, 2]
    actions = desk.hand(0, 4, 2)
    assert [ask.fragment for ask in only(actions, Ask)] == [3]
    actions = desk.hand(0, 4, 1)
    assert [ask.fragment for ask in only(actions, Ask)] == [0]


def test_a_fragment_due_again_while_it_waits_is_skipped_and_counted() -> None:
    desk = Desk(1, fragments=2, overlap=1)
    desk.step(0, 2)  # opens fragment 1, which nobody answers
    desk.step(0, 2)  # fragment 0 is due, and waits
    assert desk.core.rounds.skipped == 0
    desk.step(0, 4)  # due again: fragment 1 (its first round is open still) and fragment 0 (waits still)
    assert desk.core.rounds.skipped == 1
    (ask,) = only(desk.nothing(0, 2, 1), Ask)
    assert ask.fragment == 0, "it keeps its place in the order"


def test_with_fewer_than_k_alive_rounds_pause_and_go_on_when_there_are_enough() -> None:
    desk = Desk(1, quorum=2)
    assert not desk.step(0, 9) and desk.core.step == 0
    desk.enter(1)
    asks = only(desk.step(1, 5), Ask)
    assert desk.core.step == 5 and [ask.step for ask in asks] == [5]


# ------------------------------------------------------------------ closing


def test_without_grace_a_round_closes_with_its_kth_complete_contribution() -> None:
    desk = opened(3, quorum=2)
    assert only(desk.hand(2, 4), Merge) and desk.core.rounds.open
    actions = desk.hand(0, 4)
    assert [type(a) for a in actions] == [Merge, Close, Distribute]
    (close,) = only(actions, Close)
    assert who(close) == (2, 0), "in order of arrival"
    assert (close.fragment, close.step, close.version) == (0, 4, 1)


def test_the_grace_begins_with_the_kth_contribution_and_then_the_round_closes() -> None:
    desk = Desk(3, quorum=2, grace=0.9)
    for _ in range(4):
        desk.now += 1.0
        desk.all_step()
    desk.hand(0, 4)
    assert not only(desk.wait(5.0), Close), "the quorum is not complete"
    assert not only(desk.hand(1, 4), Close)
    assert not only(desk.wait(0.99), Close), "before five samples the grace is one step's time"
    (close,) = only(desk.wait(0.02), Close)
    assert who(close) == (0, 1)
    assert verdict(desk.hand(2, 4)) == "late"


def test_who_comes_within_the_grace_is_included_and_nobody_is_waited_for_when_all_have_answered() -> None:
    desk = Desk(3, quorum=1, grace=0.9)
    for _ in range(4):
        desk.now += 1.0
        desk.all_step()
    desk.hand(0, 4)
    desk.wait(0.5)
    assert not only(desk.nothing(1, 4), Close)
    (close,) = only(desk.hand(2, 4), Close)
    assert who(close) == (0, 2)


def test_nothing_is_an_answer_but_does_not_count_for_the_quorum() -> None:
    desk = opened(3, quorum=2)
    desk.nothing(0, 4)
    desk.hand(1, 4)
    assert desk.core.rounds.open
    assert only(desk.hand(2, 4), Close)


def test_a_round_without_its_quorum_when_all_have_answered_is_cancelled() -> None:
    desk = opened(3, quorum=2)
    desk.hand(0, 4)
    desk.nothing(1, 4)
    (cancel,) = only(desk.nothing(2, 4), Cancel)
    assert (cancel.fragment, cancel.step) == (0, 4)
    assert desk.core.rounds.cancelled == 1 and desk.core.versions == [0]
    assert desk.amounts() == {"pending": 120}


def test_a_round_without_its_quorum_in_time_is_cancelled() -> None:
    desk = opened(2, quorum=2, round_timeout=5.0)
    desk.hand(0, 4)
    assert not only(desk.wait(4.9), Cancel)
    assert only(desk.wait(0.2), Cancel)
    assert verdict(desk.hand(1, 4)) == "late"
    assert desk.amounts() == {"pending": 80}


def test_with_quorum_all_a_round_waits_for_everybody_and_is_cancelled_without() -> None:
    desk = opened(3, quorum=0, round_timeout=5.0)
    desk.hand(0, 4)
    desk.hand(1, 4)
    assert desk.core.rounds.open
    assert only(desk.wait(5.0), Cancel) and desk.core.versions == [0]
    desk.all_step(4)
    desk.hand(0, 8)
    desk.hand(1, 8)
    (close,) = only(desk.hand(2, 8), Close)
    assert who(close) == (0, 1, 2)


def test_a_round_does_not_wait_for_the_dead() -> None:
    desk = opened(3, quorum=0)
    desk.hand(0, 4)
    desk.hand(1, 4)
    (close,) = only(desk.die(2), Close)
    assert who(close) == (0, 1)


def test_who_handed_over_and_died_is_still_in_the_round() -> None:
    desk = opened(3, quorum=0)
    desk.hand(0, 4)
    desk.die(0)
    desk.hand(1, 4)
    (close,) = only(desk.hand(2, 4), Close)
    assert who(close) == (0, 1, 2)


def test_a_round_does_not_wait_for_who_came_after_it_was_opened_but_takes_what_they_bring() -> None:
    desk = opened(2, quorum=0)
    desk.enter(2)
    desk.step(2, 2)
    desk.hand(0, 4)
    desk.hand(2, 4)
    (close,) = only(desk.hand(1, 4), Close)
    assert who(close) == (0, 2, 1)


def test_who_dies_and_returns_while_a_round_is_open_is_not_waited_for_twice() -> None:
    desk = opened(3, quorum=0)
    desk.die(2)
    desk.rejoin(2)
    desk.hand(0, 4)
    assert only(desk.hand(1, 4), Close)


# ------------------------------------------------------------------ verdicts


def test_a_contribution_to_a_closed_round_is_late() -> None:
    desk = opened(2)
    desk.hand(0, 4)
    actions = desk.hand(1, 4)
    assert verdict(actions) == "late" and not only(actions, Merge)
    assert desk.amounts() == {"merged": 40, "pending": 40}


def test_one_that_was_merged_and_comes_again_is_answered_merged_and_not_merged_again() -> None:
    desk = opened(2)
    again = desk.contribution(0, 4)
    desk.feed(again)
    actions = desk.feed(again)
    assert verdict(actions) == "merged" and not only(actions, Merge)


def test_a_version_says_how_much_of_a_learners_work_is_in_it() -> None:
    desk = opened(2)
    assert desk.mine(0) == 0
    (told,) = only(desk.hand(0, 4), Distribute)
    assert told.included == ((0, 1, 40),) and (told.fragment, told.version, told.step) == (0, 1, 4)
    assert desk.mine(0) == 40 and desk.mine(1) == 0


def test_one_that_comes_twice_while_its_round_is_open_changes_nothing() -> None:
    desk = opened(2, quorum=2)
    again = desk.contribution(0, 4)
    assert only(desk.feed(again), Merge)
    assert desk.feed(again) == []


@pytest.mark.parametrize("staleness", [0, 1])
def test_one_whose_base_is_too_old_is_stale(staleness: int) -> None:
    desk = Desk(2, max_staleness=staleness)
    for step in (4, 8):
        desk.all_step(4)
        if step == 4 + 4 * staleness:
            break
        desk.hand(0, step)
        desk.take(0)
    assert only(desk.hand(1, desk.core.step, base=0), Merge), "as old as is allowed"
    desk.take(0)
    desk.all_step(4)
    desk.hand(0, desk.core.step, base=desk.core.versions[0])
    desk.all_step(4)
    actions = desk.hand(1, desk.core.step, base=0)
    assert verdict(actions) == "stale" and not only(actions, Merge)
    assert only(actions, Deliver) == [Deliver(learner=1, fragments=(0,))], "so that its next one is none"


def test_one_that_covers_what_is_settled_already_is_stale() -> None:
    desk = opened(2, quorum=2)
    actions = desk.hand(0, 4, since=after(2))
    assert verdict(actions) == "stale" and not only(actions, Merge)
    actions = desk.hand(1, 4, until=after(0))
    assert verdict(actions) == "stale" and not only(actions, Merge)


def test_a_flawed_one_is_refused_with_its_reason_and_the_learner_gets_the_value_anew() -> None:
    desk = opened(2)
    actions = desk.hand(0, 4, flaw="non-finite values in tensor 0.w")
    (answer,) = only(actions, Verdict)
    assert (answer.learner, answer.verdict, answer.reason) == (0, "refused", "non-finite values in tensor 0.w")
    assert only(actions, Deliver) == [Deliver(learner=0, fragments=(0,))]
    assert not only(actions, Merge) and desk.core.rounds.open
    (close,) = only(desk.hand(1, 4), Close)
    assert who(close) == (1,)


def test_a_message_of_another_generation_or_of_a_stranger_changes_nothing() -> None:
    desk = opened(2)
    assert desk.hand(0, 4, generation=7) == []
    assert desk.feed(replace(desk.contribution(0, 4), learner=9)) == []


def test_the_weight_is_of_the_work_since_the_last_merge() -> None:
    desk = Desk(1, on_included="rebase")
    desk.step(0, 4)
    desk.hand(0, 4)
    desk.step(0)
    desk.take(0, settled=after(4))
    desk.step(0, 3)
    (merge,) = only(desk.hand(0, 8), Merge)
    assert (merge.tokens, merge.steps) == (40, 4)


# ------------------------------------------------------------------ what the grace is measured by


def test_the_grace_terms_are_measured() -> None:
    desk = Desk(3, quorum=2)
    for _ in range(4):
        desk.now += 0.5
        desk.all_step()
    assert desk.core.grace.step.samples == 3 and desk.core.grace.step.value == pytest.approx(0.5)
    desk.now += 0.1
    desk.hand(0, 4)
    desk.now += 0.2
    desk.hand(1, 4)
    assert desk.core.grace.quorum.value == pytest.approx(0.3), "from the ask to the K-th complete contribution"
    desk.now += 0.1
    desk.received(0)
    assert desk.core.grace.sync.samples == 0
    desk.now += 0.1
    desk.received(1)
    desk.received(2)
    assert desk.core.grace.sync.samples == 1 and desk.core.grace.sync.value == pytest.approx(0.2), "the median receipt"


# ------------------------------------------------------------------ the end


def test_at_the_budget_open_rounds_close_and_one_last_round_takes_every_fragment() -> None:
    desk = Desk(2, fragments=2, steps=6)
    for learner in (0, 1):
        desk.step(learner, 4)
    desk.hand(0, 4, 1)
    assert list(desk.core.rounds.open) == [0]
    actions = desk.step(0, 2)
    assert only(actions, BudgetReached) and desk.core.phase == "ending" and not only(actions, Ask)
    asks = only(desk.hand(0, 4, 0), Ask)
    assert [(ask.fragment, ask.step, ask.final) for ask in asks] == [(0, 7, True), (1, 7, True)]
    assert only(desk.join(5), Refused)[0].code == "over"
    for fragment in (0, 1):
        desk.take(0, fragment, settled=after(4))
        desk.hand(0, 7, fragment)
        desk.hand(1, 7, fragment)
    assert desk.core.phase == "ended" and desk.core.deadline() is None
    total = desk.core.ledger.total()
    assert total.processed == total.merged + sum(total.lost.values())


def test_the_last_round_waits_no_longer_than_final_timeout() -> None:
    desk = Desk(2, steps=2, final_timeout=3.0)
    desk.step(0, 2)
    desk.hand(0, 3)
    assert not only(desk.wait(2.9), RunOver)
    actions = desk.wait(0.2)
    assert [type(a) for a in actions] == [Close, Distribute, RunOver]
    assert desk.amounts() == {"merged": 20}


def test_what_the_last_round_does_not_merge_is_lost_and_nothing_is_pending() -> None:
    desk = Desk(2, steps=2)
    desk.step(1)
    desk.step(0, 2)
    desk.hand(0, 3)
    actions = desk.nothing(1, 3)
    assert only(actions, Close) and only(actions, RunOver)
    assert desk.amounts() == {"merged": 20, "died": 10}


@pytest.mark.parametrize(("rule", "verdict_"), [("carry", None), ("overwrite", "stale")])
def test_the_last_round_takes_what_would_be_carried_however_old_its_base(rule: str, verdict_: str | None) -> None:
    desk = Desk(2, steps=8, max_staleness=0, on_excluded=rule)
    desk.step(1, 3)
    desk.step(0, 4)
    desk.hand(0, 4)
    desk.take(0)
    desk.step(0, 4)
    desk.hand(0, 9)
    actions = desk.hand(1, 9, base=0)
    assert [a.verdict for a in only(actions, Verdict)] == ([verdict_] if verdict_ else [])
    assert desk.core.phase == "ended"
    assert desk.amounts() == ({"merged": 110} if rule == "carry" else {"merged": 80, "died": 30})


def test_a_run_whose_learners_are_all_dead_at_the_end_ends() -> None:
    desk = Desk(1, tokens=20)
    desk.step(0, 2)
    assert only(desk.leave(0), RunOver)
    assert desk.amounts() == {"died": 20}


def test_after_the_end_nothing_happens_and_joins_are_refused() -> None:
    desk = Desk(1, tokens=20)
    desk.step(0, 2)
    desk.leave(0)
    assert desk.report(0) == []
    assert only(desk.join(3), Refused)[0].code == "over"


def test_who_comes_back_while_the_run_is_ending_is_asked_again_for_every_round_that_waits_for_it() -> None:
    desk = Desk(2, quorum=2, steps=6)
    desk.all_step(4)
    assert only(desk.all_step(2), BudgetReached) and desk.core.phase == "ending"
    desk.die(1)
    actions = desk.rejoin(1)
    assert [(ask.learner, ask.fragment, ask.step, ask.final) for ask in only(actions, Ask)] == [(1, 0, 4, False)]
    assert [told.learner for told in only(actions, BudgetReached)] == [1]
    desk.hand(0, 4)
    assert only(desk.hand(1, 4), Close), "nobody has to wait for round_timeout"


def last_round() -> Desk:
    """Two learners with 40 tokens each; the last round is open, and the link of the second has just broken."""
    desk = Desk(2, steps=4, final_timeout=30.0)
    desk.all_step(4)
    assert desk.core.phase == "final"
    desk.die(1)
    assert not only(desk.hand(0, 5), Close), "it may come back"
    return desk


def test_a_link_that_breaks_in_the_last_round_costs_nothing() -> None:
    desk = last_round()
    actions = desk.rejoin(1)
    assert [(ask.learner, ask.final) for ask in only(actions, Ask)] == [(1, True)]
    assert only(desk.hand(1, 5), RunOver)
    assert desk.amounts() == {"merged": 80}


def test_the_last_round_waits_for_a_broken_link_no_longer_than_final_timeout() -> None:
    desk = last_round()
    assert not only(desk.wait(29.9), RunOver) and only(desk.wait(0.2), RunOver)
    assert desk.amounts() == {"merged": 40, "died": 40}


def test_the_last_round_gives_up_who_comes_back_as_somebody_new() -> None:
    desk = last_round()
    actions = desk.feed(Join(learner=1, layout=desk.layout.hash))
    assert only(actions, Refused)[0].code == "over" and only(actions, RunOver)
    assert desk.amounts() == {"merged": 40, "died": 40}


def test_the_last_round_waits_for_whoever_comes_back_and_leaves_no_more_than_for_others() -> None:
    desk = last_round()
    desk.rejoin(1)
    assert only(desk.leave(1), RunOver)
