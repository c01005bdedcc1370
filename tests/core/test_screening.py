"""Screening and quarantine: what is unlike all others is refused, none weighs too much, who is refused often is left alone."""

from __future__ import annotations

from typing import Any

import pytest

from skerry.core.messages import Ask, Close, Deliver, Join, Merge, Quarantined, Readmit, Verdict, Welcome
from skerry.core.screening import ENOUGH, HEAVIEST, KEPT, Window, weight_of
from support.desk import Desk, after, only, who


class Rounds(Desk):
    """Rounds in which every learner hands over; all that is said is kept."""

    def __init__(self, learners: int = 4, **policy: Any) -> None:
        super().__init__(learners, **{"quorum": 0, **policy})
        self.said: list[Any] = []

    def round(self, norms: dict[int, float] | None = None, tokens: dict[int, int] | None = None, flaw: int = -1) -> list[Any]:
        """One, in which these learners' norms are so many times the others', and so their tokens; what was said in it."""
        began = len(self.said)
        step = self.core.step + 4
        asked = only(self.all_step(4), Ask)
        for at in list(self.learners.values()):
            since, until = at.settled[0], after(at.steps)
            root = (until.steps - since.steps) ** 0.5
            until = until._replace(tokens=since.tokens + (until.tokens - since.tokens) * (tokens or {}).get(at.id, 1))
            if asked:
                those = (root * (norms or {}).get(at.id, 1.0), *[root] * (len(self.layout.fragments[0]) - 1))
                self.said += self.hand(at.id, step, norms=those, until=until, flaw="NaN" if at.id == flaw else "")
        for learner in self.learners:
            self.take(learner)
        return self.said[began:]

    def usual(self) -> Rounds:
        """As many as it takes to know what is usual."""
        while len(self.core.screening.norms[0][0]) < ENOUGH:
            self.round()
        return self


def refused(said: list[Any]) -> list[int]:
    return [verdict.learner for verdict in only(said, Verdict) if verdict.verdict == "refused"]


# ------------------------------------------------------------------ norms


def test_a_contribution_whose_norm_is_far_above_the_median_is_refused() -> None:
    desk = Rounds().usual()
    said = desk.round({2: 11.0})
    (verdict,) = only(said, Verdict)
    assert (verdict.learner, verdict.verdict) == (2, "refused") and "11 times what is usual" in verdict.reason
    assert desk.layout.tensors[desk.layout.fragments[0][0].tensor].name in verdict.reason
    assert only(said, Deliver) == [Deliver(learner=2, fragments=(0,))], "it takes the present version over once more"
    assert who(only(said, Close)[0]) == (0, 1, 3) and desk.core.rounds.refused == 1


def test_what_is_not_far_above_it_is_merged() -> None:
    assert not refused(Rounds().usual().round({2: 9.0}))


def test_it_is_measured_per_root_of_the_steps_that_it_covers() -> None:
    desk = Rounds(2).usual()
    (ask,) = only(desk.all_step(100), Ask)
    pieces = len(desk.layout.fragments[0])
    assert not refused(desk.hand(0, ask.step, norms=(90.0,) * pieces))
    assert refused(desk.hand(1, ask.step, norms=(110.0,) * pieces)) == [1]


def test_nothing_is_said_before_enough_is_known() -> None:
    desk = Rounds(4)
    assert not refused(desk.round({2: 1e3})) and not refused(desk.round({2: 1e9}))
    assert refused(desk.round({2: 1e3})) == [2]


def test_the_limit_can_be_another_or_none() -> None:
    assert refused(Rounds(norm_limit=2.0).usual().round({1: 2.5})) == [1]
    desk = Rounds(norm_limit=0.0)
    assert not any(refused(desk.round({2: 1e9})) for _ in range(5)) and not any(desk.core.screening.norms[0])


def test_where_more_than_half_of_the_live_are_over_the_limit_it_is_the_run_that_changed() -> None:
    desk = Rounds().usual()
    assert refused(desk.round(dict.fromkeys(range(4), 20.0))) == [0, 1], "the first two cannot be told from what is flawed"
    assert refused(desk.round(dict.fromkeys(range(4), 20.0))) == []
    desk = Rounds(1, quorum=1).usual()
    assert not refused(desk.round({0: 1e6})), "a lone learner is never refused"
    desk = Rounds(2).usual()
    assert refused(desk.round({1: 1e6})) == [1], "one of two is"
    assert refused(desk.round({0: 1e6})) == [], "but not when the other one was"


def test_the_dead_are_not_among_them() -> None:
    desk = Rounds().usual()
    desk.round({0: 20.0, 1: 20.0})
    desk.die(0)
    desk.die(1)
    del desk.learners[0], desk.learners[1]
    assert refused(desk.round({2: 20.0})) == [2]


def test_old_work_is_measured_by_what_was_usual_when_it_was_begun() -> None:
    desk = Rounds(4).usual()
    for _ in range(KEPT):  # all of them come to rest, but for one that is not merged meanwhile
        step = desk.core.step + 4
        if only(desk.all_step(4), Ask):
            for learner in (0, 1, 2):
                desk.hand(learner, step, norms=(2 * 0.01,) * len(desk.layout.fragments[0]))
            desk.nothing(3, step)
            for learner in (0, 1, 2):
                desk.take(learner)
    (ask,) = only(desk.all_step(4), Ask)
    pieces = len(desk.layout.fragments[0])
    steps = desk.learners[3].steps - desk.learners[3].settled[0].steps
    at = {"norms": (steps**0.5,) * pieces, "base": desk.core.versions[0]}
    assert not refused(desk.hand(3, ask.step, **at)), "a hundred times what is usual now, and not more than it was then"
    assert refused(desk.hand(0, ask.step, norms=(2.0,) * pieces)) == [0], "whose last work was merged a moment ago"


def test_not_all_of_those_here_are_quarantined() -> None:
    desk = Rounds(2, quarantine_after=2)
    for _ in range(4):
        step = desk.core.step + 4
        desk.all_step(4)
        for learner in (0, 1):
            desk.hand(learner, step, flaw="NaN")
            desk.take(learner)
    assert len(desk.core.members.quarantined) == 1


def test_where_the_median_is_nothing_nothing_is_known() -> None:
    desk = Rounds()
    for _ in range(4):
        assert not refused(desk.round(dict.fromkeys(range(4), 0.0)))
    assert not refused(desk.round({3: 1.0}))


def test_a_world_without_tensors_has_no_norms() -> None:
    desk = Desk(2)
    desk.all_step(4)
    assert only(desk.hand(0, 4), Merge) and not any(desk.core.screening.norms[0])


# ------------------------------------------------------------------ weights


def test_the_weight_is_quantity_times_quality() -> None:
    desk = Desk(1)
    desk.step(0, 4)
    (merge,) = only(desk.hand(0, 4), Merge)
    assert (merge.tokens, merge.steps, merge.weight) == (40, 4, 400.0) == (40, 4, weight_of(40, 4))


def test_none_weighs_more_than_so_many_times_the_median() -> None:
    desk = Rounds(4).usual()
    usual = weight_of(40, 4)
    weights = {merge.learner: merge.weight for merge in only(desk.round(tokens={1: 10**6, 2: 3}), Merge)}
    assert weights == {0: usual, 1: 10 * usual, 2: 9 * usual, 3: usual}


def test_who_claims_more_and_more_moves_the_median_no_further_than_the_limit() -> None:
    desk = Rounds(4).usual()
    for _ in range(20):
        said = desk.round(tokens={1: 10**3, 2: 10**3})
        assert max(merge.weight for merge in only(said, Merge)) <= 10 * weight_of(40, 4)


def test_the_largest_weight_of_all_needs_no_limit() -> None:
    desk = Rounds(1, quorum=1, weight_limit=0.0)
    (merge,) = only(desk.round(tokens={0: 10**18}), Merge)
    assert merge.weight == HEAVIEST


@pytest.mark.parametrize("numbers", [range(40), reversed(range(40)), [3, 1, 3, 1] * 10])
def test_a_window_knows_the_lower_median_of_the_last(numbers: Any) -> None:
    window, known = Window([]), []
    for number in map(float, numbers):
        window.add(number)
        known.append(number)
        last = sorted(known[-KEPT:])
        assert window.median == (last[(len(last) - 1) // 2] if len(last) >= ENOUGH else 0.0)
        assert Window(list(window.order)).sorted == window.sorted


# ------------------------------------------------------------------ quarantine


def quarantined(**policy: Any) -> Rounds:
    """Three learners, and one that was refused five times in a row."""
    desk = Rounds(**policy)
    while not desk.core.members.quarantined:
        desk.round(flaw=3)
    return desk


def test_who_is_refused_too_often_in_a_row_is_quarantined_and_told_why() -> None:
    desk = quarantined()
    assert desk.core.rounds.refused == 5 and desk.core.members.quarantined == [3]
    assert only(desk.said, Quarantined) == [Quarantined(learner=3, generation=1, reason="NaN")]
    assert desk.core.members.by_id[3].standing.value == "quarantined"


def test_one_that_is_merged_begins_the_count_anew() -> None:
    desk = Rounds()
    for flaw in (3, 3, 3, 3, -1, 3, 3, 3, 3):
        desk.round(flaw=flaw)
    assert not desk.core.members.quarantined


def test_how_often_is_the_policys_and_0_is_never() -> None:
    assert quarantined(quarantine_after=2).core.rounds.refused == 2
    desk = Rounds(quarantine_after=0)
    for _ in range(9):
        desk.round(flaw=3)
    assert not desk.core.members.quarantined


def test_the_last_one_that_lives_is_not() -> None:
    desk = Rounds(2, quorum=1)
    for _ in range(9):
        desk.round(flaw=0)
    desk.die(1)
    del desk.learners[1]
    assert desk.core.members.quarantined == [0]
    desk = Rounds(1, quorum=1)
    for _ in range(9):
        desk.round(flaw=0)
    assert not desk.core.members.quarantined


def test_it_is_not_waited_for_and_counts_for_no_quorum_and_no_step() -> None:
    desk = quarantined()
    assert desk.core.members.quorum == 3
    desk.step(3, 1000)
    assert desk.core.step < 1000
    (ask,) = only([action for i in range(3) for action in desk.step(i, 4)], Ask)
    said = [action for i in range(3) for action in desk.hand(i, ask.step)]
    assert who(only(said, Close)[0]) == (0, 1, 2)


def test_what_it_sends_is_refused_at_once() -> None:
    desk = quarantined()
    (ask,) = only([action for i in range(3) for action in desk.step(i, 4)], Ask)
    desk.step(3, 4)
    assert refused(desk.hand(3, ask.step)) == [3] and refused(desk.hand(3, 999)) == [3]
    assert [desk.core.phase, len(desk.core.rounds.open)] == ["running", 1]


def test_it_is_told_again_on_every_link_and_stays_quarantined() -> None:
    desk = quarantined()
    desk.die(3)
    assert [type(action) for action in desk.rejoin(3)][:2] == [Welcome, Quarantined]
    assert desk.core.members.by_id[3].standing.value == "quarantined" and desk.core.members.live == 3


def test_a_new_generation_of_it_is_as_good_as_any() -> None:
    desk = quarantined()
    assert not only(desk.enter(3), Quarantined) and desk.core.members.live == 4 and not desk.core.members.quarantined


def test_the_operator_lets_it_in_again() -> None:
    desk = quarantined()
    assert desk.feed(Readmit(learner=3)) == [Quarantined(learner=3, generation=1, reason="")]
    assert desk.core.members.live == 4 and desk.core.members.by_id[3].refusals == 0
    assert desk.feed(Readmit(learner=3)) == [] == desk.feed(Readmit(learner=99))


def test_one_that_is_away_may_be_let_in_again_too() -> None:
    desk = quarantined()
    desk.die(3)
    assert desk.feed(Readmit(learner=3)) == []
    assert not only(desk.rejoin(3), Quarantined) and desk.core.members.live == 4


def test_what_lies_in_a_round_from_before_is_merged_and_said_to_be() -> None:
    desk = Rounds(3, fragments=2, quarantine_after=1)
    asks = only(desk.all_step(2), Ask) + only(desk.all_step(2), Ask)
    first, second = asks[0], asks[1]
    for learner in (0, 1):
        desk.hand(learner, first.step, first.fragment)
    held = desk.contribution(2, second.step, second.fragment)
    assert only(desk.feed(held), Merge)
    assert only(desk.hand(2, first.step, first.fragment, flaw="NaN"), Quarantined)
    assert desk.feed(held) == []
    desk.hand(0, second.step, second.fragment)
    (close,) = only(desk.hand(1, second.step, second.fragment), Close)
    assert who(close) == (2, 0, 1)
    assert [verdict.verdict for verdict in only(desk.feed(held), Verdict)] == ["merged"]


def test_its_last_words_are_heard_too() -> None:
    desk = quarantined()
    assert not only(desk.leave(3), Close) and not desk.core.members.by_id[3].linked
    assert only(desk.feed(Join(learner=3, layout=desk.layout.hash)), Welcome)[0].generation == 2
