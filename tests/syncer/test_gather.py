"""Events of one kind that come in crowds are few lines: the first at once, the others counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from skerry.store.metrics import MetricsLog, read
from skerry.store.records import Event
from skerry.syncer.gather import MOST, PAUSE, Gatherer
from skerry.syncer.journal import Journal


def refused(t: float, text: str = "x", code: str = "token") -> Event:
    return Event(t=t, event="refused", text=text, code=code)


def test_the_first_of_a_kind_is_said_at_once_and_the_others_counted() -> None:
    gatherer = Gatherer()
    assert gatherer.take(0.0, refused(0.0)) == refused(0.0)
    for i in range(96_000):
        assert gatherer.take(0.001, refused(0.001, f"peer {i}")) is None
    assert list(gatherer.due(PAUSE - 0.01)) == []
    (said,) = gatherer.due(PAUSE)
    assert (said.times, said.text) == (96_000, "96,000 more, last: peer 95999")
    assert list(gatherer.due(PAUSE)) == []
    assert gatherer.take(2 * PAUSE - 0.1, refused(0.0)) is None, "a kind that goes on is said once in that time"
    assert [event.times for event in gatherer.rest()] == [1]


def test_kinds_are_apart_and_what_counts_elsewhere_is_never_gathered() -> None:
    gatherer = Gatherer()
    for event in (refused(0.0), refused(0.0, code="silent"), Event(t=0.0, event="dead", learner=1),
                  Event(t=0.0, event="dead", learner=2), Event(t=0.0, event="trouble", text="cannot write a: full"),
                  Event(t=0.0, event="trouble", text="cannot write b: full")):  # fmt: skip
        assert gatherer.take(0.0, event) == event
        assert gatherer.take(0.0, event) is None
    cancelled = Event(t=0.0, event="cancelled", text="round")
    assert [gatherer.take(0.0, cancelled) for _ in range(3)] == [cancelled] * 3


def test_many_kinds_take_no_more_memory_than_some() -> None:
    gatherer = Gatherer()
    for learner in range(3 * MOST):
        gatherer.take(0.0, Event(t=0.0, event="join", learner=learner))
    assert len(gatherer._kinds) <= MOST + 1


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from("ab")), max_size=60))
def test_nothing_is_said_twice_and_nothing_is_forgotten(happened: list[tuple[float, str]]) -> None:
    gatherer, now, said = Gatherer(), 0.0, 0
    for wait, code in happened:
        now += wait
        said += sum(event.times for event in gatherer.due(now))
        said += gatherer.take(now, refused(now, code=code)) is not None
    assert said + sum(event.times for event in gatherer.rest()) == len(happened)


def test_ninety_six_thousand_refusals_are_a_few_lines_of_both_files(tmp_path: Path) -> None:
    class Log:
        def __init__(self) -> None:
            self.lines: list[tuple[str, dict[str, Any]]] = []

        def warning(self, event: str, **said: Any) -> None:
            self.lines.append((event, said))

    clock, log = [0.0], Log()
    journal = Journal(log, MetricsLog(tmp_path / "metrics.jsonl", log.warning), lambda: clock[0])
    for i in range(96_000):
        clock[0] = i / 4800  # 20 s
        journal.event("refused", f"127.0.0.1:{i}: " + "y" * 10_000, code="protocol")
        if i % 4800 == 0:
            journal.flush()
    journal.close()
    assert 3 <= len(log.lines) <= 4 and sum(said.get("times", 1) for _, said in log.lines) == 96_000
    assert (tmp_path / "metrics.jsonl").stat().st_size < 4000
    assert sum(record.times for record in read(tmp_path / "metrics.jsonl") if isinstance(record, Event)) == 96_000
