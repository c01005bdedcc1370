"""Deadlines."""

from __future__ import annotations

from skerry.core.timers import Alarm, Subject, Timers


def test_what_is_due_is_looked_at_in_order_and_once() -> None:
    timers = Timers(lambda alarm: True)
    for when, key in ((3.0, 2), (1.0, 0), (1.0, 1), (9.0, 3)):
        timers.at(when, Subject.ROUND, key, 0)
    assert timers.next() == 1.0
    assert not list(timers.due(0.5))
    assert [alarm.key for alarm in timers.due(3.0)] == [0, 1, 2] and timers.next() == 9.0
    assert not list(timers.due(3.0))


def test_what_does_not_matter_any_more_is_passed_over() -> None:
    off: set[int] = set()
    timers = Timers(lambda alarm: alarm.key not in off)
    timers.at(1.0, Subject.MEMBER, 0, 7)
    timers.at(2.0, Subject.MEMBER, 1, 7)
    off.add(0)
    assert timers.next() == 2.0
    off.add(1)
    assert not list(timers.due(5.0)) and timers.next() is None


def test_whether_it_matters_is_asked_when_its_turn_comes() -> None:
    off: set[int] = set()
    timers = Timers(lambda alarm: alarm.key not in off)
    timers.at(1.0, Subject.ROUND, 0, 0)
    timers.at(1.0, Subject.ROUND, 1, 0)
    seen = []
    for alarm in timers.due(1.0):
        seen.append(alarm.key)
        off.add(1)
    assert seen == [0]


def test_a_subject_may_be_set_anew_while_looked_at() -> None:
    timers, rung = Timers(lambda alarm: True), []
    timers.at(1.0, Subject.ROUND, 0, 0)
    for alarm in timers.due(1.0):
        rung.append(alarm)
        if len(rung) < 3:
            timers.at(1.0, Subject.ROUND, 0, 0)
    assert [type(alarm) for alarm in rung] == [Alarm] * 3
