"""A learner whose syncer was away: what it knows of the run, what it says again, its last word; and one in quarantine."""

from __future__ import annotations

from typing import Any

import pytest

from skerry.core.messages import (
    Abstain,
    Amend,
    Ask,
    BudgetReached,
    Contribution,
    Count,
    Delivery,
    Farewell,
    Leave,
    Quarantined,
    Refused,
    Report,
    RunOver,
    Verdict,
    Welcome,
)
from skerry.core.orders import Beat, CopiedOut, CopyOut, Detach, Drop, Go, Stepped, TakeOver, TrainerEnded, Warn
from support.desk import after, only
from support.island import Island

ENDED = TrainerEnded(count=after(5), reason="killed")


def welcome(island: Island, progress: float = 0.0, epoch: int = 1, **changes: Any) -> list:
    """On a new link."""
    island.join()
    return island.feed(Welcome(**{"learner": 3, "generation": 1, "clock": 0, "first_step": 0, **changes, "progress": progress,
                                  "epoch": epoch}))  # fmt: skip


# ------------------------------------------------------------------ the epoch, and progress


def test_the_epoch_is_remembered_and_said_with_the_next_join() -> None:
    island = Island()
    island.lose_link()
    welcome(island, epoch=4)
    assert island.memory.epoch == 4 and island.join().epoch == 4


def test_a_join_tells_what_lies_ready_for_the_trainer() -> None:
    island = Island(fragments=2)
    island.deliver(3, fragment=1)
    island.lose_link()
    join = island.join()
    assert (join.bases, join.holds) == ((0, 0), (0, 3))


def test_progress_is_the_runs_from_a_welcome_on_even_if_it_is_lower() -> None:
    island = Island(quorum=2, steps=100)
    island.feed(Ask(fragment=0, step=4, progress=0.5))
    island.lose_link()
    island.step()
    assert island.core.progress == 0.5
    welcome(island, 0.25)
    assert island.core.progress == 0.25
    island.feed(Stepped(count=after(2), progress=0.5))  # which went by what was known when it began
    assert island.core.progress == 0.25


def test_while_there_is_no_link_a_learner_that_the_run_cannot_be_behind_goes_by_its_own_clock() -> None:
    island = Island(quorum=1, steps=100)
    island.lose_link()
    island.step(30)
    assert island.core.progress == 0.3


# ------------------------------------------------------------------ synchronous policies


def test_what_is_handed_over_is_sent_again_and_of_it_nothing_else_is_said() -> None:
    island = Island(synchronous=True, quorum=0, on_included="overwrite")
    island.step(4)
    island.copy(4)
    island.lose_link()
    assert [type(action) for action in welcome(island)] == [Contribution]


def test_that_there_was_nothing_to_hand_over_is_said_again() -> None:
    island = Island(synchronous=True, quorum=0, on_included="overwrite")
    island.step(4)
    assert only(island.feed(CopiedOut(fragment=0, step=4, count=Count(4, 0, 0))), Abstain)
    island.lose_link()
    assert [nothing.step for nothing in only(welcome(island), Abstain)] == [4]


def test_so_is_what_was_jumped_over_meanwhile() -> None:
    island = Island(synchronous=True, quorum=0, on_included="overwrite")
    assert only(island.deliver(1, step=12), TakeOver)
    island.lose_link()
    assert not only(island.apply(1), Abstain), "nobody hears it"
    assert [nothing.step for nothing in only(welcome(island), Abstain)] == [4, 8, 12]


# ------------------------------------------------------------------ the last word


def test_the_last_word_is_said_at_once_and_the_agent_stays_until_it_was_heard() -> None:
    island = Island()
    leave = Leave(learner=3, generation=1, count=after(5), reason="killed")
    assert island.feed(ENDED) == [leave]
    assert island.feed(Farewell(learner=3, generation=1)) == [Detach()]


def test_it_is_said_again_on_every_new_link() -> None:
    island = Island()
    island.lose_link()
    assert island.feed(ENDED) == []
    for _ in range(2):
        assert [leave.count for leave in only(welcome(island), Leave)] == [after(5)]
        island.lose_link()
    join = island.join()
    assert join.leaving and join.count == after(5)


@pytest.mark.parametrize("answer", [RunOver(), Refused(code="superseded", reason="no"), Refused(code="over", reason="over")])
def test_other_answers_will_do_as_well(answer: Any) -> None:
    island = Island()
    island.lose_link()
    island.feed(ENDED)
    island.join()
    assert only(island.feed(answer), Detach)


def test_it_is_tried_no_longer_than_final_timeout() -> None:
    island = Island(final_timeout=30.0)
    island.lose_link()
    island.feed(ENDED)
    island.now = 30.0
    assert island.feed(Beat()) == []
    island.now = 30.1
    assert island.feed(Beat()) == [Detach()]


def test_who_never_joined_has_nothing_to_say() -> None:
    assert Island(begun=False).feed(ENDED) == [Detach()]


def test_a_dead_trainer_is_told_nothing_any_more() -> None:
    island = Island()
    island.step(4)
    island.feed(ENDED)
    assert island.ask(4) == [] == island.feed(BudgetReached())
    assert island.feed(Delivery(fragment=0, version=1, step=4, merged=0, progress=0.1)) == [Drop(fragment=0, version=1)]
    assert island.feed(Beat()) == []


def test_a_generation_that_was_closed_meanwhile_leaves_as_the_one_that_it_is_now() -> None:
    island = Island()
    island.lose_link()
    island.feed(ENDED)
    (leave,) = only(welcome(island, generation=2), Leave)
    assert (leave.generation, leave.count.steps) == (2, 0)


def test_another_id_is_another_generation() -> None:
    island = Island()
    island.lose_link()
    welcome(island, learner=9)
    assert island.memory.learner == 9 and island.memory.base == [-1]


def test_a_farewell_that_nobody_asked_for_changes_nothing() -> None:
    assert Island().feed(Farewell(learner=3, generation=1)) == []


# ------------------------------------------------------------------ another policy


def test_a_higher_budget_that_comes_after_the_end_of_its_loop_is_not_this_trainers() -> None:
    island = Island(steps=10)
    island.feed(BudgetReached())
    island.lose_link()
    island.feed(Amend(policy=island.policy.replace(steps=100)))
    said = welcome(island, 0.1)
    assert "start it again" in only(said, Warn)[0].text and only(said, Leave)
    assert island.feed(Farewell(learner=3, generation=1)) == [Detach()]


def test_one_that_comes_before_it_is() -> None:
    island = Island(quorum=1, steps=10, grace=0.0)
    island.lose_link()
    assert island.feed(Amend(policy=island.policy.replace(steps=100, grace=0.9))) == []
    island.step(5)
    assert island.core.progress == 0.05


def test_what_may_not_change_does_not() -> None:
    island = Island()
    with pytest.raises(AssertionError):
        island.feed(Amend(policy=island.policy.replace(interval=7)))


# ------------------------------------------------------------------ quarantine


def told(reason: str) -> Quarantined:
    return Quarantined(learner=3, generation=1, reason=reason)


def test_in_quarantine_it_tells_its_user_and_answers_no_question() -> None:
    island = Island()
    (warning,) = island.feed(told("NaN in w"))
    assert "quarantined" in warning.text and "NaN in w" in warning.text
    island.step(4)
    assert island.ask(4) == [] == island.ask(5, final=True)


def test_it_takes_values_over_as_ever() -> None:
    island = Island()
    island.feed(told("NaN"))
    assert island.take(1, 4) == "carry"


def test_let_in_again_it_answers() -> None:
    island = Island()
    island.feed(told("NaN"))
    assert only(island.feed(told("")), Warn)
    island.step(4)
    assert only(island.ask(4), CopyOut)


def test_so_it_does_on_a_new_link_until_it_is_told_again() -> None:
    island = Island()
    island.feed(told("NaN"))
    island.lose_link()
    welcome(island)
    island.step(4)
    assert only(island.ask(4), CopyOut)


def test_a_synchronous_one_hands_nothing_over_and_waits_for_nobody() -> None:
    island = Island(synchronous=True, quorum=0, on_included="overwrite")
    island.feed(told("NaN"))
    for _ in range(8):
        assert [type(action) for action in island.step()] == [Report, Go]


def test_what_it_had_handed_over_is_answered() -> None:
    island = Island(synchronous=True, quorum=0, on_included="overwrite", overlap=0)
    island.step(4)
    assert not only(island.copy(4), Go)
    island.feed(told("NaN"))
    refusal = Verdict(learner=3, generation=1, fragment=0, step=4, verdict="refused", reason="quarantined")
    assert only(island.feed(refusal), Go)
