"""Deadlines."""

from __future__ import annotations

from skerry.core.timers import Timers


class Bell:
    def __init__(self, rung: list[str], name: str) -> None:
        self.rung, self.name, self.off = rung, name, False

    def wants(self) -> bool:
        return not self.off

    def look(self, now: float) -> None:
        self.rung.append(self.name)


def test_what_is_due_is_looked_at_in_order_and_once() -> None:
    timers, rung = Timers(), []
    for when, name in ((3.0, "c"), (1.0, "a"), (1.0, "b"), (9.0, "d")):
        timers.at(when, Bell(rung, name))
    assert timers.next() == 1.0
    timers.run(0.5)
    assert rung == []
    timers.run(3.0)
    assert rung == ["a", "b", "c"] and timers.next() == 9.0
    timers.run(3.0)
    assert rung == ["a", "b", "c"]


def test_what_does_not_matter_any_more_is_passed_over() -> None:
    timers, rung = Timers(), []
    first, second = Bell(rung, "first"), Bell(rung, "second")
    timers.at(1.0, first)
    timers.at(2.0, second)
    first.off = True
    assert timers.next() == 2.0
    second.off = True
    timers.run(5.0)
    assert rung == [] and timers.next() is None


def test_a_subject_may_set_itself_anew_while_looked_at() -> None:
    timers, rung = Timers(), []

    class Again(Bell):
        def look(self, now: float) -> None:
            super().look(now)
            if len(rung) < 3:
                timers.at(now, self)

    timers.at(1.0, Again(rung, "x"))
    timers.run(1.0)
    assert rung == ["x", "x", "x"]
