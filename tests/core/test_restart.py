"""The syncer dies and comes back: who comes back as whom, what becomes of the rounds, and for whom is waited."""

from __future__ import annotations

import json
from typing import Any

from skerry.core.messages import (
    Amend,
    Ask,
    BudgetReached,
    Cancel,
    Close,
    Deliver,
    Farewell,
    Join,
    Merge,
    Published,
    Refused,
    RequestInitial,
    Restarted,
    RunOver,
    Start,
    Verdict,
    Welcome,
)
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from support.desk import Desk, after, only, who
from support.layouts import tiny_layout


def restarted(desk: Desk, state: dict[str, Any] | None = None, **event: int) -> Desk:
    """The desk with a core that was restored from the state (its own, if none is given) and told of the restart."""
    desk.core = SyncerCore(desk.policy, desk.layout, json.loads(json.dumps(state or desk.core.state())))
    assert desk.feed(Restarted(**event)) == [] or desk.core.phase in ("final", "ended")
    return desk


def welcomed(actions: list) -> Welcome:
    (welcome,) = only(actions, Welcome)
    return welcome


# ------------------------------------------------------------------ who comes back


def test_learners_come_back_as_the_same_generation_and_nothing_is_lost() -> None:
    desk = Desk(2)
    desk.all_step(4)
    desk.hand(0, 4)
    amounts = desk.amounts()
    restarted(desk)
    assert (desk.core.phase, desk.core.step, desk.core.versions) == ("running", 4, [1]) and desk.amounts() == amounts
    actions = desk.rejoin(0)
    assert (welcomed(actions).generation, welcomed(actions).epoch) == (1, 2)
    assert only(actions, Deliver) == [Deliver(learner=0, fragments=(0,))]
    desk.step(0, 4)
    desk.take(0, settled=after(4))
    assert only(desk.hand(0, 8), Merge) and desk.amounts() == {"merged": 80, "pending": 40}


def test_what_was_done_while_the_syncer_was_away_is_counted_and_goes_on() -> None:
    desk = restarted(Desk(1, interval=100))
    desk.learners[0].steps = desk.learners[0].clock = 7
    welcome = welcomed(desk.rejoin(0))
    assert welcome.generation == 1 and desk.core.step == 7 and desk.amounts() == {"pending": 70}
    assert welcome.progress == desk.core.progress == 0.007, "it is told how far the run is with it"


def test_a_contribution_to_a_round_that_the_restart_ended_hears_cancel() -> None:
    desk = Desk(2, quorum=2)
    desk.all_step(4)
    lost = desk.contribution(0, 4)
    desk.feed(lost)
    restarted(desk)
    assert not desk.core.rounds.open and desk.amounts() == {"pending": 80}
    desk.rejoin(0)
    assert desk.feed(lost) == [Cancel(learner=0, fragment=0, step=4)]


def test_one_to_a_round_that_was_closing_hears_cancel_and_one_that_was_published_is_merged() -> None:
    for published, answer in ((False, Cancel(learner=0, fragment=0, step=4)), (True, None)):
        desk = Desk(1)
        desk.slow = True
        desk.step(0, 4)
        lost = desk.contribution(0, 4)
        assert only(desk.feed(lost), Close)
        desk.core = SyncerCore(desk.policy, desk.layout, json.loads(json.dumps(desk.core.state())))
        if published:
            desk.feed(Published(fragment=0, version=1))
        desk.feed(Restarted())
        desk.rejoin(0)
        (said,) = desk.feed(lost)
        assert said == answer if answer else (isinstance(said, Verdict) and said.verdict == "merged")


def test_a_round_that_was_decided_before_the_restart_is_over() -> None:
    desk = Desk(2)
    desk.all_step(4)
    desk.hand(0, 4)
    desk.all_step(1)
    late = desk.contribution(1, 4)
    restarted(desk)
    desk.rejoin(1)
    assert only(desk.feed(late), Verdict)[0].verdict == "late"


def test_who_stands_on_a_version_that_was_lost_begins_a_new_generation() -> None:
    desk = Desk(2)
    old = desk.core.state()
    desk.all_step(4)
    desk.hand(0, 4)
    desk.take(0)
    restarted(desk, old)
    assert welcomed(desk.rejoin(1)).generation == 1, "its version is there still"
    welcome = welcomed(desk.rejoin(0))
    assert (welcome.generation, welcome.first_step) == (2, 4)
    assert desk.amounts() == {"died": 40, "pending": 40}


def test_so_does_who_has_such_a_version_lying_ready_for_its_trainer() -> None:
    desk = Desk(1)
    desk.core.handle(0.0, Restarted())
    at = desk.learners[0]
    join = Join(**at.name, layout=desk.layout.hash, bases=(0,), settled=(after(0),), epoch=1, holds=(1,))
    assert welcomed(desk.feed(join)).generation == 2


def test_a_lost_version_stays_lost_when_its_number_has_come_again() -> None:
    desk = Desk(2)
    old = desk.core.state()
    desk.all_step(4)
    desk.hand(0, 4)
    desk.take(0)
    restarted(desk, old)
    desk.rejoin(1)
    desk.hand(1, 4)
    assert desk.core.versions == [1]
    assert welcomed(desk.rejoin(0)).generation == 2


def test_a_start_that_is_lost_has_a_number_that_does_not_come_again() -> None:
    desk = Desk(1)
    old = desk.core.state()
    restarted(desk)
    desk.rejoin(0)
    desk.learners[0].epoch = 2
    restarted(desk, old, epoch=3)
    assert desk.core.epoch == 3 and desk.core.epochs == [(), (0,), (0,)]
    assert welcomed(desk.rejoin(0)).generation == 1


def test_who_saw_a_later_start_than_is_known_begins_anew() -> None:
    desk = Desk(1)
    desk.learners[0].epoch = 7
    assert welcomed(desk.rejoin(0)).generation == 2


def test_a_generation_that_is_not_known_any_more_is_followed_by_one_newer_still() -> None:
    desk = restarted(Desk(1))
    assert welcomed(desk.feed(Join(learner=0, generation=5, layout=desk.layout.hash, epoch=1))).generation == 6


def test_an_id_that_was_given_out_again_is_the_newcomers() -> None:
    desk = Desk(1)
    old = desk.core.state()
    first = welcomed(desk.join(-1))
    restarted(desk, old)
    second = welcomed(desk.join(-1))
    assert (first.learner, first.generation) == (second.learner, second.generation) == (1, 1)
    again = welcomed(desk.feed(Join(learner=1, generation=1, layout=desk.layout.hash, epoch=1)))
    assert (again.learner, again.generation) == (2, 2), "and no generation that it has been before"
    assert desk.core.members.by_id[1].generation == 1


def test_a_generation_that_was_closed_and_lies_in_a_round_that_the_restart_ended_is_lost() -> None:
    desk = Desk(2, quorum=2)
    desk.all_step(4)
    desk.hand(0, 4)
    desk.enter(0)  # its first generation lives on in the open round alone
    assert restarted(desk).amounts() == {"pending": 40, "died": 40}


# ------------------------------------------------------------------ the phases


def test_a_run_that_waited_asks_for_its_first_model_anew() -> None:
    policy = Policy(fragments=2, steps=100)
    layout = tiny_layout(policy)
    core = SyncerCore(policy, layout)
    core.handle(0.0, Join(layout=layout.hash))
    core.handle(0.0, Restarted())
    again = core.handle(0.0, Join(learner=0, generation=1, layout=layout.hash, epoch=1))
    assert only(again, RequestInitial) == [RequestInitial(learner=0)] and welcomed(again).generation == 1


def test_it_waits_for_wait_for_learners_at_the_beginning_only() -> None:
    desk = restarted(Desk(2, wait_for=2))
    desk.rejoin(0)
    assert only(desk.step(0, 4), Ask)


def test_the_first_one_back_waits_for_those_who_were_live_if_all_are_wanted() -> None:
    desk = restarted(Desk(2, quorum=0))
    desk.rejoin(0)
    assert not only(desk.step(0, 4), Ask) and desk.core.step == 0
    desk.rejoin(1)
    (ask,) = only(desk.step(1, 4), Ask)
    desk.hand(0, ask.step)
    (close,) = only(desk.hand(1, ask.step), Close)
    assert who(close) == (0, 1)


def test_but_no_longer_than_the_patience_of_a_round() -> None:
    desk = restarted(Desk(2, quorum=0, round_timeout=20.0, silent_after=100.0))
    desk.rejoin(0)
    desk.step(0, 4)
    assert not only(desk.wait(19.0), Ask)
    assert only(desk.wait(2.0), Ask)


def test_nor_where_another_takes_its_place() -> None:
    desk = restarted(Desk(2, quorum=0))
    desk.rejoin(0)
    desk.step(0, 4)
    assert only(desk.join(1), Ask)


def test_with_a_quorum_the_first_ones_back_go_on() -> None:
    desk = restarted(Desk(3, quorum=2))
    desk.rejoin(0)
    assert not only(desk.step(0, 4), Ask)
    desk.rejoin(1)
    assert only(desk.step(1, 4), Ask)


SYNCHRONOUS: dict[str, Any] = {"synchronous": True, "quorum": 0}


def test_synchronous_policies_open_the_round_anew_and_wait_for_all_again() -> None:
    desk = Desk(3, **SYNCHRONOUS)
    desk.all_step(4)
    first = desk.contribution(0, 4)
    desk.feed(first)
    desk.nothing(1, 4)
    restarted(desk)
    desk.rejoin(0)
    desk.rejoin(1)
    assert not only(desk.feed(first), Close)
    desk.rejoin(2)
    (close,) = only(desk.hand(2, 4), Close)  # who had nothing for it does not say so again
    assert who(close) == (0, 2)


def test_who_was_late_and_did_not_hear_it_opens_no_round_that_waits_for_nobody() -> None:
    desk = Desk(1, **SYNCHRONOUS)
    desk.step(0, 4)
    desk.nothing(0, 4)
    assert only(desk.hand(0, 4), Verdict)[0].verdict == "late" and not desk.core.rounds.open


def test_so_they_do_with_one_that_was_closing() -> None:
    desk = Desk(1, **SYNCHRONOUS)
    desk.slow = True
    desk.step(0, 4)
    first = desk.contribution(0, 4)
    assert only(desk.feed(first), Close)
    restarted(desk)
    desk.rejoin(0)
    assert only(desk.feed(first), Close)


def test_they_wait_no_longer_than_sync_timeout() -> None:
    desk = Desk(2, **SYNCHRONOUS, sync_timeout=20.0)
    desk.all_step(4)
    first = desk.contribution(0, 4)
    desk.feed(first)
    restarted(desk)
    desk.rejoin(0)
    desk.feed(first)
    desk.wait(15.0)
    desk.report(0)
    assert only(desk.wait(6.0), Close)


def last_round(learners: int = 2, **policy: Any) -> Desk:
    """The budget of 4 steps is reached, and the last round, of step 5, is asked of all."""
    desk = Desk(learners, **{"steps": 4, "final_timeout": 30.0, **policy})
    assert [ask.final for ask in only(desk.all_step(4), Ask)] == [True]
    return desk


def test_the_last_round_begins_anew_and_waits_for_all_who_were_live() -> None:
    desk = last_round()
    desk.hand(0, 5)
    restarted(desk)
    assert desk.core.phase == "final" and desk.amounts() == {"pending": 80}
    actions = desk.rejoin(0)
    (ask,) = only(actions, Ask)
    assert only(actions, BudgetReached) and ask.final and ask.step != 5
    desk.hand(0, ask.step)
    assert only(desk.rejoin(1), Ask) == [Ask(learner=1, fragment=0, step=ask.step, progress=1.0, final=True)]
    assert only(desk.hand(1, ask.step), RunOver) and desk.amounts() == {"merged": 80}


def test_who_stands_on_a_lost_version_is_not_let_in_any_more_but_what_it_did_is_counted() -> None:
    desk = last_round()
    old = desk.core.state()
    for learner in (0, 1):
        over = desk.hand(learner, 5)
    assert only(over, RunOver)
    desk.learners[0].base[0], desk.learners[0].steps = 1, 6
    restarted(desk, old)
    assert [refused.code for refused in only(desk.rejoin(0), Refused)] == ["over"]
    (ask,) = only(desk.rejoin(1), Ask)
    assert only(desk.hand(1, ask.step), RunOver), "it is not waited for"
    assert desk.amounts() == {"merged": 40, "died": 60}


def test_for_no_longer_than_final_timeout() -> None:
    desk = restarted(last_round())
    (ask,) = only(desk.rejoin(0), Ask)
    desk.hand(0, ask.step)
    desk.wait(29.0)
    assert desk.core.phase == "final"
    assert only(desk.wait(2.0), RunOver) and desk.amounts() == {"merged": 40, "died": 40}


def test_rounds_that_had_to_close_before_the_last_one_are_in_it() -> None:
    desk = Desk(2, steps=5, quorum=2)
    desk.all_step(4)
    desk.hand(0, 4)
    desk.all_step(1)
    assert desk.core.phase == "ending"
    restarted(desk)
    assert desk.core.phase == "final"
    for learner in (0, 1):
        (ask,) = only(desk.rejoin(learner), Ask)
        over = desk.hand(learner, ask.step)
    assert only(over, RunOver) and desk.amounts() == {"merged": 100}


def test_a_last_round_that_nobody_can_come_back_to_is_over() -> None:
    desk = last_round(1)
    desk.leave(0)
    assert desk.core.phase == "ended"
    restarted(desk)
    assert desk.core.phase == "ended" and [refused.code for refused in only(desk.rejoin(0), Refused)] == ["over"]


def test_who_was_live_at_the_restart_is_awaited_by_the_last_round_though_the_end_comes_first() -> None:
    desk = Desk(2, steps=4)
    desk.all_step(3)
    restarted(desk)
    desk.rejoin(0)
    (ask,) = only(desk.step(0, 1), Ask)
    assert ask.final and not only(desk.hand(0, ask.step), RunOver)
    desk.rejoin(1)
    assert only(desk.hand(1, ask.step), RunOver) and desk.amounts() == {"merged": 70}


def test_so_is_whose_link_broke_shortly_before_the_end() -> None:
    for pause, waits in ((29.0, True), (31.0, False)):
        desk = Desk(2, steps=4, final_timeout=30.0, silent_after=100.0)
        desk.all_step(3)
        desk.die(1)
        desk.wait(pause)
        (ask,) = only(desk.step(0, 1), Ask)
        assert bool(only(desk.hand(0, ask.step), RunOver)) is not waits


def test_who_comes_back_before_the_end_counts_from_then_on() -> None:
    desk = restarted(Desk(2, steps=100, grace=0.9))
    desk.rejoin(0)
    (ask,) = only(desk.step(0, 4), Ask)
    desk.rejoin(1)  # it was not asked
    assert only(desk.hand(0, ask.step), Close)


# ------------------------------------------------------------------ the last word


def test_who_leaves_hears_farewell_again_on_every_link() -> None:
    desk = Desk(2)
    farewell = Farewell(learner=0, generation=1)
    desk.step(0, 3)
    assert desk.leave(0) == [farewell] and desk.leave(0) == []
    restarted(desk)
    desk.rejoin(0)
    assert only(desk.leave(0), Farewell) == [farewell] and not desk.core.members.by_id[0].awaited


def test_who_comes_only_to_leave_begins_no_new_generation() -> None:
    desk = Desk(1)
    old = desk.core.state()
    desk.all_step(4)
    desk.hand(0, 4)
    desk.take(0)
    restarted(desk, old)
    at = desk.learners[0]
    said = desk.feed(Join(**at.name, layout=desk.layout.hash, bases=tuple(at.base), epoch=1, leaving=True))
    assert [refused.code for refused in only(said, Refused)] == ["superseded"]
    assert desk.core.members.by_id[0].generation == 1


# ------------------------------------------------------------------ another policy


def amended(desk: Desk, **changes: Any) -> list:
    desk.policy = desk.policy.replace(**changes)
    return desk.feed(Amend(policy=desk.policy))


def test_a_higher_budget_lets_a_run_that_was_over_go_on() -> None:
    desk = last_round()
    desk.hand(0, 5)
    desk.hand(1, 5)
    assert desk.core.phase == "ended" and desk.core.versions == [1]
    amended(desk, steps=100)
    assert restarted(desk).core.phase == "running"
    assert welcomed(desk.rejoin(0)).generation == 2, "its account is closed"
    desk.enter(1)
    (ask,) = only(desk.step(1, 4), Ask)
    assert ask.step == 9, "no name of a round comes twice"
    assert only(desk.hand(1, ask.step), Close)


def test_so_it_does_before_the_last_round_was_over_and_nobody_is_waited_for() -> None:
    desk = last_round()
    desk.hand(0, 5)
    amended(desk, steps=100)
    assert desk.core.phase == "running" and not desk.core.rounds.under_way and desk.amounts() == {"pending": 80}
    restarted(desk)
    desk.enter(2)
    assert only(desk.step(2, 4), Ask)


def test_synchronous_rounds_go_on_from_the_runs_step() -> None:
    desk = Desk(2, **SYNCHRONOUS, steps=4)
    (ask,) = only(desk.all_step(4), Ask)
    for learner in (0, 1):
        desk.hand(learner, ask.step)
    amended(desk, steps=100)
    restarted(desk)
    for learner in (0, 1):
        desk.enter(learner)
    desk.all_step(4)
    desk.hand(0, 8)
    assert only(desk.hand(1, 8), Close)


def test_a_lower_budget_ends_the_run_with_a_last_round_of_all_who_were_live() -> None:
    for first in ("amend", "restart"):
        desk = Desk(2)
        desk.all_step(4)
        if first == "amend":
            assert only(amended(desk, steps=4), BudgetReached)
            restarted(desk)
        else:
            restarted(desk)
            amended(desk, steps=4)
        for learner in (0, 1):
            (ask,) = only(desk.rejoin(learner), Ask)
            over = desk.hand(learner, ask.step)
        assert only(over, RunOver) and desk.amounts() == {"merged": 80}


def test_timeouts_and_grace_change_at_once() -> None:
    desk = Desk(2, silent_after=10.0)
    amended(desk, silent_after=50.0, grace=0.5)
    desk.wait(30.0)
    assert desk.core.members.live == 2 and desk.core.grace.gamma == 0.5


def test_a_run_waits_for_fewer_learners_when_it_is_told_so() -> None:
    policy = Policy(fragments=1, steps=100, wait_for=3)
    core = SyncerCore(policy, tiny_layout(policy))
    core.handle(0.0, Start())
    core.handle(0.0, Join(layout=core.layout.hash))
    assert only(list(core.handle(0.0, Amend(policy=policy.replace(wait_for=1)))), Deliver) and core.phase == "running"
