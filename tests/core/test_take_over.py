"""LearnerCore: how a delivered value is taken over, by the same agent, the next one, or the next generation."""

from __future__ import annotations

from typing import Any

import pytest

from skerry.core.messages import Contribution, Count, Join, Received, Report, TakenOver, Welcome
from skerry.core.orders import Drop, Forget, Go, Recovered, TakeOver
from support.desk import TOKENS, after, only
from support.island import Island

# ------------------------------------------------------------------ take-over


@pytest.mark.parametrize("rule", ["overwrite", "blend"])
def test_a_value_that_the_work_is_in_is_taken_over_and_counting_begins_there(rule: str) -> None:
    island = Island(on_included=rule)
    island.step(4)
    island.hand_over(4)
    island.step(2)
    (order,) = only(island.deliver(1, 4, merged=4 * TOKENS), TakeOver)
    assert order == TakeOver(fragment=0, version=1, rule=rule, included=True, step=4)
    assert island.memory.base == [0], "nothing is true before it is carried out"
    (taken,) = only(island.apply(1), TakenOver)
    assert taken == TakenOver(learner=3, generation=1, fragment=0, version=1, clock=6, settled=after(6), count=after(6))
    assert (island.memory.base, island.memory.settled) == ([1], [after(6)])


def test_rebase_counts_on_from_the_hand_over() -> None:
    island = Island(on_included="rebase")
    island.step(4)
    island.hand_over(4)
    island.step(2)
    (order,) = only(island.deliver(1, 4, merged=4 * TOKENS), TakeOver)
    assert (order.rule, order.until) == ("rebase", after(4))
    island.apply(1)
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
    island.lose_link()
    assert island.welcome(generation=2, clock=100) == [Forget(fragment=0)]
    assert island.core.handed == [] and island.memory.base == [-1]
    assert (island.core.clock, island.join().count) == (100, Count())
    (report,) = only(island.step(3), Report)
    assert (report.generation, report.clock, report.count) == (2, 103, after(3))
    (order,) = only(island.deliver(7, 96), TakeOver)
    assert order.rule == "overwrite", "nothing of its work can be in there"
    actions = island.apply(7)
    assert only(actions, TakenOver)[0].settled == after(3) and not only(actions, Go)


@pytest.mark.parametrize("kind", ["take-over", "hand-over"])
def test_steps_that_were_told_before_the_link_broke_are_not_the_new_generations(kind: str) -> None:
    island = Island()
    island.step(4)
    if kind == "take-over":
        island.deliver(1, 4)
        island.steps = 5
        assert only(island.apply(1), TakenOver)[0].count == after(5), "the trainer has told of the step in this way alone"
    else:
        island.ask(4)
        island.steps = 5
        assert only(island.copy(4), Contribution)[0].until == after(5)
    island.lose_link()
    assert island.join().count == after(5)
    island.welcome(generation=2)
    (report,) = only(island.step(), Report)
    assert report.count == after(1)


def test_steps_made_between_join_and_welcome_are_the_new_generations() -> None:
    island = Island()
    island.step(4)
    island.lose_link()
    island.join()
    island.step(2)
    island.feed(Welcome(learner=3, generation=2, clock=0, first_step=4, progress=0.0))
    assert only(island.step(), Report)[0].count == after(3)


def test_an_order_of_a_closed_generation_means_nothing_any_more() -> None:
    island = Island()
    island.step(4)
    island.deliver(1, 4)
    island.lose_link()
    island.welcome(generation=2)
    assert not only(island.deliver(5, 8), TakeOver), "one order of a fragment at a time"
    actions = island.apply(1)
    assert not only(actions, TakenOver)
    assert only(actions, TakeOver) == [TakeOver(fragment=0, version=5, rule="overwrite", included=False, step=8)]


def test_a_new_agent_goes_on_where_the_old_one_was() -> None:
    first = Island()
    first.step(4)
    first.hand_over(4)
    second = Island(begun=False, memory=first.memory)
    second.step(5)
    assert second.core.begun and second.join() == Join(
        learner=3, generation=1, layout=second.layout.hash, count=after(5), clock=5, bases=(0,), settled=(Count(),), holds=(0,)
    )
    second.welcome()
    assert second.hand_over(8).since == Count(), "what the old one had handed over and nobody merged"


@pytest.mark.parametrize(("rule", "until", "settled"), [
    ("overwrite", None, after(6)), ("blend", None, after(6)), ("carry", None, Count()), ("rebase", after(4), after(4)),
])  # fmt: skip
def test_a_take_over_carried_out_without_an_agent_is_set_down_by_the_next(rule: Any, until: Any, settled: Count) -> None:
    island = Island(begun=False, memory=Island().memory)
    assert island.feed(Recovered(fragment=0, version=1, rule=rule, step=40, until=until, count=after(6))) == []
    assert (island.memory.base, island.memory.settled, island.core.clock) == ([1], [settled], 40)


def test_the_last_fragment_that_is_recovered_lets_training_begin() -> None:
    first = Island(begun=False, fragments=2)
    first.welcome()
    for fragment in (0, 1):
        (order,) = only(first.deliver(0, fragment=fragment), TakeOver)
    first.apply(0, fragment=0)
    second = Island(begun=False, memory=first.memory, fragments=2)
    recovered = Recovered(fragment=1, version=0, rule=order.rule, step=0, until=None, count=Count())
    assert second.feed(recovered) == [Go(steps=0)] and second.memory.base == [0, 0]


def test_without_the_copy_of_the_hand_over_rebase_becomes_overwrite() -> None:
    first = Island(on_included="rebase")
    first.step(4)
    first.hand_over(4)
    second = Island(begun=False, memory=first.memory, on_included="rebase")
    second.step(6)
    second.welcome()
    assert second.take(1, 4, merged=4 * TOKENS) == "overwrite"
