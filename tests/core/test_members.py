"""Who counts, how far the run is, and how learners begin, die and return."""

from __future__ import annotations

import pytest

from skerry.core.messages import (
    Deliver,
    Gone,
    Join,
    Merge,
    ProvideInitial,
    Refused,
    RequestInitial,
    Start,
    Verdict,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from support.desk import Desk, only
from support.layouts import tiny_layout

# ------------------------------------------------------------------ the run's step


def test_the_runs_step_is_the_kth_largest_clock() -> None:
    desk = Desk(3, quorum=2, interval=100)
    desk.step(0, 50)
    assert desk.core.step == 0
    desk.step(1, 20)
    assert desk.core.step == 20
    desk.step(2, 30)
    assert desk.core.step == 30


def test_the_fastest_may_die_without_the_run_standing_still_or_going_back() -> None:
    desk = Desk(3, interval=100)
    desk.step(0, 50)
    assert desk.core.step == 50
    desk.die(0)
    desk.step(1, 40)
    assert desk.core.step == 50
    desk.step(1, 11)
    assert desk.core.step == 51


def test_the_clock_of_the_dead_does_not_count() -> None:
    desk = Desk(3, quorum=2, interval=100)
    desk.step(0, 50)
    desk.die(0)
    desk.step(1, 30)
    desk.step(2, 20)
    assert desk.core.step == 20


def test_a_learner_counts_once_it_has_taken_over_every_fragment() -> None:
    desk = Desk(1, fragments=2, quorum=2, interval=100)
    desk.step(0, 5)
    desk.join(1)
    desk.take(1, 0)
    desk.step(1, 5)
    assert desk.core.members.live == 1 and desk.core.step == 0
    desk.take(1, 1)
    assert desk.core.members.live == 2 and desk.core.step == 5


def test_a_newcomer_begins_at_the_runs_step() -> None:
    desk = Desk(1, interval=100)
    desk.step(0, 42)
    (welcome,) = only(desk.join(7), Welcome)
    assert (welcome.clock, welcome.first_step, welcome.generation) == (42, 0, 1)


# ------------------------------------------------------------------ the beginning


def empty(**policy: object) -> tuple[SyncerCore, str]:
    made = Policy(**{"fragments": 2, "steps": 100, **policy})
    layout = tiny_layout(made)
    return SyncerCore(made, layout), layout.hash


def test_a_run_starts_empty_and_asks_the_first_learner_for_its_model() -> None:
    core, layout = empty()
    actions = core.handle(0.0, Join(layout=layout))
    assert only(actions, RequestInitial) == [RequestInitial(learner=0)]
    assert not only(core.handle(0.0, Join(layout=layout)), RequestInitial), "the second one waits"
    core.handle(0.0, ProvideInitial(learner=0, generation=1, fragment=0))
    assert core.versions == [] and core.phase == "waiting"
    actions = core.handle(0.0, ProvideInitial(learner=0, generation=1, fragment=1))
    assert core.versions == [0, 0] and core.phase == "running"
    assert only(actions, Deliver) == [Deliver(learner=i, fragments=(0, 1)) for i in (0, 1)]


def test_another_learner_is_asked_when_the_first_one_goes() -> None:
    core, layout = empty()
    core.handle(0.0, Join(layout=layout))
    core.handle(0.0, Join(layout=layout))
    core.handle(0.0, ProvideInitial(learner=0, generation=1, fragment=0))
    assert only(core.handle(0.0, Gone(learner=0, generation=1)), RequestInitial) == [RequestInitial(learner=1)]
    core.handle(0.0, ProvideInitial(learner=1, generation=1, fragment=1))
    assert core.versions == [], "what the first one sent does not count"


@pytest.mark.parametrize("generation", [0, 1])
def test_a_learner_that_comes_again_while_its_model_is_awaited_is_asked_again(generation: int) -> None:
    core, layout = empty()
    core.handle(0.0, Join(layout=layout))
    core.handle(0.0, ProvideInitial(learner=0, generation=1, fragment=0))
    again = core.handle(0.0, Join(learner=0, generation=generation, layout=layout))  # before its old link was seen to break
    assert [type(a) for a in again] == [Welcome, RequestInitial]
    now = again[0].generation
    core.handle(0.0, ProvideInitial(learner=0, generation=now, fragment=1))
    assert core.versions == [], "what came over the old link does not count"
    core.handle(0.0, ProvideInitial(learner=0, generation=now, fragment=0))
    assert core.versions == [0, 0]


def test_a_flawed_first_model_is_refused_and_another_learner_asked() -> None:
    core, layout = empty()
    core.handle(0.0, Join(layout=layout))
    core.handle(0.0, Join(layout=layout))
    actions = core.handle(0.0, ProvideInitial(learner=0, generation=1, fragment=0, flaw="non-finite values in tensor 0.w"))
    (answer,) = only(actions, Verdict)
    assert (answer.learner, answer.verdict, answer.step) == (0, "refused", -1)
    assert only(actions, RequestInitial) == [RequestInitial(learner=1)]


def test_nobody_is_asked_where_version_0_lies_ready() -> None:
    core, layout = empty()
    core.handle(0.0, Start())
    actions = core.handle(0.0, Join(layout=layout))
    assert not only(actions, RequestInitial) and only(actions, Deliver)


def test_training_begins_when_enough_learners_are_here() -> None:
    core, layout = empty(wait_for=2)
    core.handle(0.0, Start())
    assert not only(core.handle(0.0, Join(layout=layout)), Deliver)
    assert len(only(core.handle(0.0, Join(layout=layout)), Deliver)) == 2


# ------------------------------------------------------------------ joining


def test_ids_are_free_or_as_asked_for() -> None:
    desk = Desk(0)
    desk.join(1)
    assert [only(desk.join(-1), Welcome)[0].learner for _ in range(3)] == [0, 2, 3]


def test_another_layout_is_refused_and_leaves_no_trace() -> None:
    desk = Desk(1)
    (refused,) = only(desk.feed(Join(layout="another")), Refused)
    assert refused.code == "layout" and len(desk.core.members) == 1


def test_a_restarted_learner_is_a_new_generation_that_goes_on_where_it_stopped() -> None:
    desk = Desk(2, interval=100)
    desk.step(0, 5)
    desk.die(0)
    (welcome,) = only(desk.join(0), Welcome)
    assert (welcome.generation, welcome.first_step) == (2, 5)
    desk.take(0)
    desk.step(0, 3)
    (welcome,) = only(desk.join(0), Welcome)
    assert (welcome.generation, welcome.first_step) == (3, 8)
    assert desk.amounts() == {"died": 80}


def test_the_same_generation_goes_on_after_a_broken_link_and_makes_good_what_was_not_heard() -> None:
    desk = Desk(2, interval=100)
    desk.step(0, 5)
    desk.die(0)
    at = desk.learners[0]
    at.steps, at.clock = 9, 9
    actions = desk.rejoin(0)
    (welcome,) = only(actions, Welcome)
    assert welcome.generation == 1 and not only(actions, Deliver)
    assert desk.core.step == 9 and desk.amounts() == {"pending": 90}


def test_what_was_missed_meanwhile_is_delivered_on_return() -> None:
    desk = Desk(2)
    desk.die(1)
    desk.step(0, 4)
    desk.hand(0, 4)
    assert only(desk.rejoin(1), Deliver) == [Deliver(learner=1, fragments=(0,))]


def test_an_older_generation_is_refused_while_a_newer_one_is_here() -> None:
    desk = Desk(1)
    old = desk.learners[0]
    desk.join(0)
    refused = only(desk.feed(Join(**old.name, layout=desk.layout.hash)), Refused)
    assert [r.code for r in refused] == ["superseded"]


# ------------------------------------------------------------------ silence and death


def test_the_silent_are_dead_until_they_speak() -> None:
    desk = Desk(2, quorum=0, silent_after=10.0)
    desk.wait(6.0)
    desk.report(0)
    desk.wait(6.0)
    assert [m.live for m in desk.core.members] == [True, False]
    desk.report(1)
    assert [m.live for m in desk.core.members] == [True, True]


def test_death_is_only_liveness() -> None:
    desk = Desk(2)
    desk.all_step(3)
    desk.die(0)
    desk.wait(1000.0)
    assert desk.amounts() == {"pending": 60}
    desk.rejoin(0)
    desk.step(0, 1)
    assert only(desk.hand(0, 4), Merge)
    assert desk.amounts() == {"merged": 40, "pending": 30}


def test_old_news_of_a_broken_link_does_not_kill_the_next_generation() -> None:
    desk = Desk(1)
    first = dict(desk.learners[0].name)
    desk.enter(0)
    desk.feed(Gone(**first))
    assert desk.core.members.live == 1
