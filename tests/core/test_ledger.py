"""The token ledger: what is merged, pending and lost, and why. Amounts are tokens of one parameter; a step makes ten."""

from __future__ import annotations

from skerry.core.ledger import Ledger
from skerry.core.messages import Close, Count, Merge, RunOver, TakenOver
from support.desk import Desk, after, only, who


def merged(**policy: object) -> Desk:
    """Learner 0 handed over at step 4 and made two more steps; learner 1 has done nothing. The round is closed."""
    desk = Desk(2, **policy)
    desk.step(0, 4)
    desk.hand(0, 4)
    desk.step(0, 2)
    return desk


# ------------------------------------------------------------------ the causes


def test_what_is_overwritten_after_its_hand_over_is_overlap() -> None:
    desk = merged()
    assert desk.amounts() == {"merged": 40, "pending": 20}
    desk.take(0)
    assert desk.amounts() == {"merged": 40, "overlap": 20}


def test_rebase_loses_nothing() -> None:
    desk = merged()
    desk.take(0, settled=after(4))
    assert desk.amounts() == {"merged": 40, "pending": 20}
    desk.step(0, 2)
    desk.hand(0, 8)
    assert desk.amounts() == {"merged": 80}


def test_what_is_overwritten_without_having_been_merged_is_excluded() -> None:
    desk = merged()
    desk.step(1, 3)
    desk.take(1)
    assert desk.amounts() == {"merged": 40, "pending": 20, "excluded": 30}


def test_carry_loses_nothing_and_is_merged_next_time() -> None:
    desk = merged()
    desk.step(1, 3)
    desk.take(1, settled=after(0))
    assert desk.amounts() == {"merged": 40, "pending": 50}
    desk.step(1, 5)
    (merge,) = only(desk.hand(1, 8), Merge)
    assert (merge.tokens, merge.steps) == (80, 8)
    assert desk.amounts() == {"merged": 120, "pending": 20}


def test_what_was_refused_and_is_then_overwritten_is_refused() -> None:
    desk = Desk(2)
    desk.all_step(4)
    desk.hand(0, 4, flaw="non-finite values")
    assert desk.amounts() == {"pending": 80}
    desk.take(0)
    assert desk.amounts() == {"pending": 40, "refused": 40}


def test_after_a_refusal_the_next_loss_has_its_own_cause() -> None:
    desk = Desk(2)
    desk.all_step(4)
    desk.hand(0, 4, flaw="non-finite values")
    desk.take(0)
    desk.hand(1, 4)
    desk.step(0)
    desk.take(0)
    assert desk.amounts() == {"merged": 40, "refused": 40, "excluded": 10}


def test_what_a_superseded_generation_left_is_died() -> None:
    desk = merged()
    desk.die(0)
    assert desk.amounts() == {"merged": 40, "pending": 20}, "death alone loses nothing"
    desk.join(0)
    assert desk.amounts() == {"merged": 40, "died": 20}


def test_the_last_count_of_a_learner_that_leaves_is_processed() -> None:
    desk = Desk(1)
    desk.learners[0].steps = 3
    desk.leave(0)
    assert desk.amounts() == {"pending": 30}
    desk.join(0)
    assert desk.amounts() == {"died": 30}


def test_after_the_end_nothing_is_pending() -> None:
    desk = Desk(2, steps=3)
    desk.step(1, 2)
    desk.step(0, 3)
    desk.hand(0, 4)
    assert only(desk.nothing(1, 4), RunOver)
    assert desk.amounts() == {"merged": 30, "died": 20}


# ------------------------------------------------------------------ orders of events that must not matter


def test_a_generation_superseded_while_its_contribution_is_in_an_open_round_is_merged_still() -> None:
    desk = Desk(2, quorum=2)
    desk.all_step(4)
    desk.hand(0, 4)
    desk.step(0)
    desk.join(0)
    assert desk.amounts() == {"pending": 90}
    (close,) = only(desk.hand(1, 4), Close)
    assert who(close) == (0, 1)
    assert desk.amounts() == {"merged": 80, "died": 10}


def test_one_superseded_whose_round_is_cancelled_is_lost() -> None:
    desk = Desk(2, quorum=2, round_timeout=5.0)
    desk.all_step(4)
    desk.hand(0, 4)
    desk.join(0)
    desk.wait(5.0)
    assert desk.amounts() == {"pending": 40, "died": 40}


def test_a_take_over_told_of_while_its_hand_over_is_in_an_open_round_is_seen_to_afterwards() -> None:
    desk = Desk(2, quorum=2)
    desk.all_step(4)
    desk.hand(0, 4)
    assert desk.amounts() == {"pending": 80}
    at = desk.learners[0]
    desk.step(0, 2)
    desk.feed(TakenOver(**at.name, fragment=0, version=1, clock=at.clock, settled=after(6), count=after(6)))
    assert desk.amounts() == {"pending": 100}
    desk.hand(1, 4)
    assert desk.amounts() == {"merged": 80, "overlap": 20}


def test_a_take_over_told_of_by_the_next_contribution_is_as_good() -> None:
    desk = merged()
    at = desk.learners[0]
    at.base[0], at.settled[0] = 1, after(6)  # its TakenOver is lost
    desk.step(0, 2)
    assert only(desk.hand(0, 8), Merge)
    assert desk.amounts() == {"merged": 60, "overlap": 20}


def test_telling_twice_changes_nothing() -> None:
    desk = merged()
    for _ in range(2):
        desk.take(0)
        desk.report(0)
        desk.rejoin(0)
        assert desk.amounts() == {"merged": 40, "overlap": 20}


def test_older_counters_change_nothing() -> None:
    ledger = Ledger([2, 3])
    account = ledger.open(0, 1)
    ledger.counted(account, Count(3, 30, 300))
    ledger.counted(account, Count(2, 20, 200))
    assert account.count == Count(3, 30, 300) and ledger.tokens == 30
    ledger.counted(account, Count(4, 25, 200))
    assert account.count == Count(4, 30, 300) and ledger.tokens == 30, "counters that fall are held where they were"


def test_the_take_over_from_before_a_refusal_is_not_taken_for_the_one_after_it() -> None:
    desk = Desk(2)
    old = TakenOver(**desk.learners[0].name, fragment=0, version=0, clock=0, settled=after(0), count=after(0))
    desk.all_step(4)
    desk.hand(0, 4, flaw="non-finite values")
    desk.feed(old)  # overtaken by the body on the other connection
    desk.take(0)
    assert desk.amounts() == {"pending": 40, "refused": 40}


# ------------------------------------------------------------------ amounts


def test_amounts_are_tokens_times_parameters_and_time_is_kept_alike() -> None:
    ledger = Ledger([2, 3])
    account = ledger.open(7, 1)
    ledger.counted(account, Count(4, 40, 4000))
    ledger.promise(account, 0)
    ledger.keep(account, 0, Count(3, 30, 3000), 1)
    ledger.moved(account, 0, 1, Count(4, 40, 4000))
    tally = ledger.tallies[7]
    assert (tally.tokens, tally.processed, tally.merged, tally.lost["overlap"]) == (40, 200, 60, 20)
    assert (tally.busy_processed, tally.busy_merged, tally.busy_lost["overlap"]) == (20000, 6000, 2000)
    assert ledger.pending(account) == 120
    ledger.retire(account)
    assert ledger.pending(account) == 0 and tally.lost["died"] == 120 and tally.busy_lost["died"] == 12000


def test_the_total_is_over_all_learners_and_generations() -> None:
    ledger = Ledger([1])
    for learner, tokens in ((0, 10), (1, 20), (0, 5)):
        ledger.counted(ledger.open(learner, 1), Count(1, tokens, 1))
    assert ledger.tokens == 35 and ledger.total().processed == 35
    assert ledger.tallies[0].tokens == 15
