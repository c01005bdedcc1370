"""The virtual event queue: the order of events, those of one time above all, and that time never goes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.world.queue import Queue


def test_time_goes_from_event_to_event():
    queue, seen = Queue(), []
    queue.at(2.5, lambda name: seen.append((name, queue.now)), "b")
    queue.after(1.0, lambda name: seen.append((name, queue.now)), "a")
    assert len(queue) == 2 and queue.now == 0.0
    assert queue.advance() and seen == [("a", 1.0)] and queue.now == 1.0 and len(queue) == 1
    assert queue.advance() and seen[1:] == [("b", 2.5)] and len(queue) == 0
    assert not queue.advance() and queue.now == 2.5


def test_after_counts_from_now():
    queue, seen = Queue(), []
    queue.at(10.0, lambda: queue.after(5.0, lambda: seen.append(queue.now)))
    while queue.advance():
        pass
    assert seen == [15.0]


def test_what_is_asked_for_at_one_time_during_that_time_comes_last():
    queue, seen = Queue(), []
    queue.at(1.0, lambda: (seen.append("first"), queue.after(0.0, seen.append, "asked for by first")))
    queue.at(1.0, seen.append, "second")
    while queue.advance():
        pass
    assert seen == ["first", "second", "asked for by first"]


def test_nothing_happens_in_the_past():
    queue = Queue()
    queue.at(1.0, lambda: None)
    queue.advance()
    for ask in (lambda: queue.at(0.5, print), lambda: queue.after(-0.1, print), lambda: queue.at(float("nan"), print)):
        with pytest.raises(AssertionError, match="past"):
            ask()
    assert len(queue) == 0


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 1.0, 2.0]), st.booleans())))
def test_events_of_one_time_happen_in_the_order_asked_for(asked):
    queue, seen = Queue(), []
    for number, (time, by_after) in enumerate(asked):
        (queue.after if by_after else queue.at)(time, seen.append, (time, number))
    while queue.advance():
        assert queue.now == seen[-1][0]
    assert seen == sorted((time, number) for number, (time, _) in enumerate(asked))
