"""RunState: what a run's records come to. What the release before the records showed of `old_run`, a small real run with a
killed syncer, is in expected.json."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from skerry.launch.display import learners_table
from skerry.launch.view import RunView, told
from skerry.report.figures import _losses, _states, _title, _words
from skerry.report.summary import summarise
from skerry.report.write import _lines
from skerry.store.fold import KEEP, RunState
from skerry.store.metrics import read, read_figures, read_run
from skerry.store.records import Begin, Evaluation, Event, FaultNote, Round, Sample, Status, encode, pretty

OLD = Path(__file__).parent / "old_run"
EXPECTED = json.loads((OLD / "expected.json").read_text())
BEGAN = 1_700_000_000.0


def begin(t=0.0, unix=BEGAN, **more):
    return Begin(t=t, unix=unix, run="r", **more)


def closed(t, *included, step=1, open_s=0.1):
    return Round(t=t, fragment=0, step=step, version=1, contributors=len(included), included=included, learners=2,
                 open_s=open_s, grace_s=0.0)  # fmt: skip


def sample(t, learner, **more):
    known = {"generation": 1, "state": "training", "clock": 1, "steps": 1, "tokens": 1, "tokens_s": 5.0}
    return Sample(t=t, learner=learner, **{**known, **more})


def note(t, event="strike", learner=0, kind="stop", fault="stop:0@1s+2s"):
    return FaultNote(unix=BEGAN + t, event=event, learner=learner, kind=kind, target=str(learner), fault=fault)


def folded(*records, keep=KEEP):
    state = RunState(keep)
    for record in records:
        state.take(record)
    return state


def shown(state):
    """All that it holds."""
    public = {name: value for name, value in vars(state).items() if not name.startswith("_")}
    return public | {"answer": state.answer(), "lasting": state.lasting("stop")}


# ---------------------------------------------------------------- an old run


@pytest.mark.parametrize("start", [0, 1])
def test_the_launcher_shows_what_it_showed_before(start):
    """Of each start of the syncer; only the second one came to an end."""
    lines = list(read(OLD / "metrics.jsonl"))
    second = [i for i, record in enumerate(lines) if isinstance(record, Begin)][1]
    view, expected = RunView("x"), EXPECTED["views"][start]
    words = [view.take(record) for record in (lines[second:] if start else lines[:second])]
    state = view.state
    assert [word.split("s  ", 1)[1] for word in words if word] == expected["told"]  # the run is older every day
    assert (state.ended, state.exported, state.step, state.rounds) == tuple(
        expected[key] for key in ("ended", "exported", "step", "rounds")
    )
    assert (state.t, state.began, state.all_train(2)) == (expected["t"], expected["began"], expected["all_train"])
    assert (state.contributors, state.grace_s, state.tokens_s) == pytest.approx(
        tuple(expected[key] for key in ("contributors", "grace_s", "tokens_s"))
    )
    assert expected["learners"] == {
        str(m): [one.generation, one.state, one.clock, one.steps, one.tokens, one.loss, one.median_step_s, one.max_gap_s]
        for m, one in state.learners.items()
    }


def test_the_report_shows_what_it_showed_before():
    state, expected = read_run(OLD, keep=None), EXPECTED["report"]
    summary = summarise(read_figures(OLD), state, "ab")
    assert state.t == expected["wall_s"]
    assert [found.t for found in state.closed] == expected["rounds"]
    assert [found.contributors for found in state.closed] == expected["contributors"]
    assert [[f.t, f.note.target, f.note.kind, _words(f), f.recovered_s] for f in state.faults] == expected["strikes"]
    for kind, spans in expected["spans"].items():
        assert [[f.note.learner, f.note.target, f.t, end] for f, end in state.lasting(kind)] == spans
    assert [[found.t, found.step, found.loss] for found in state.losses] == expected["evals"]
    assert [event.event for event in state.events] == [name for name in expected["events"] if name != "begin"]
    for m in (0, 1):
        samples = [found for found in state.samples if found.learner == m]
        assert [list(span) for span in _states(samples)] == expected["states"][str(m)]
        losses = [None if loss != loss else loss for _, loss in _losses(samples)]
        assert losses == expected["losses"][str(m)]
    assert _title("old_run", state, summary) == expected["title"]
    assert [list(line) for line in _lines(summary)] == expected["text"]
    now, before = json.loads(pretty(summary)), EXPECTED["summary"]
    assert now == before and list(now) == list(before)


# ---------------------------------------------------------------- what follows from what


def test_the_fold_holds_the_same_whether_much_is_kept_or_little():
    """But for what is kept: the last ones."""
    much, little = read_run(OLD, keep=None), read_run(OLD, keep=5)
    assert list(much.closed)[-5:] == list(little.closed) and list(much.samples)[-5:] == list(little.samples)
    for name in ("t", "step", "rounds", "cancelled", "phase", "exported", "learners", "faults", "begin"):
        assert getattr(much, name) == getattr(little, name), name
    assert all(len(kept) <= 5 for kept in (little.closed, little.samples, little.events, little.alarms, little.losses))


def test_phases():
    state, seen = RunState(), []
    for record in (begin(), closed(1.0, 0), Event(t=2.0, event="budget_reached"), Event(t=3.0, event="run_over"),
                   begin(2.5, BEGAN + 9, resumed=True)):  # fmt: skip
        state.take(record)
        seen.append(state.phase)
    assert seen == ["waiting", "running", "ending", "ended", "running"]


def test_a_status_says_how_the_run_stands():
    """Also where what came before was not seen, as after a resumption."""
    status = Status(t=2.0, run="r", phase="final", step=7, rounds=40, rounds_cancelled=2)
    state = folded(begin(), closed(1.0, 0, step=9), status, closed(3.0, 0, step=8))
    assert (state.phase, state.step, state.rounds, state.cancelled) == ("final", 8, 41, 2)
    answer = state.answer()
    assert (answer.t, answer.phase, answer.step, answer.rounds) == (3.0, "final", 8, 41)


def test_an_answer_to_an_observer_is_all_that_is_needed():
    one, two = sample(1.0, 0), sample(1.0, 1, state="dead")
    alarm = Event(t=0.5, event="refused", text="why")
    answer = Status(t=1.0, run="r", phase="running", step=3, rounds=2, learners=(one, two), alarms=(alarm,))
    state = folded(answer, answer)
    assert state.answer() == answer and state.tokens_s == 5.0 and list(state.alarms) == [alarm]


def test_alarms_are_what_somebody_should_look_at():
    events = [Event(t=1.0, event=name) for name in ("join", "trouble", "dead", "refused")]
    state = folded(*events)
    assert [alarm.event for alarm in state.alarms] == ["trouble", "refused"] and list(state.events) == events


def test_recovery_counts_only_rounds_opened_after_the_strike():
    hurt = note(10.0)
    assert folded(begin(), hurt, closed(10.05, 0), closed(11.0, 1)).faults[0].recovered_s is None
    state = folded(begin(), hurt, closed(10.05, 0), closed(11.0, 1), closed(12.5, 1, 0), closed(13.0, 0))
    assert state.faults[0].recovered_s == 2.5


def test_a_fault_lasts_until_its_end_or_the_last_record():
    state = folded(begin(), note(1.0), sample(4.0, 0))
    assert [end for _, end in state.lasting("stop")] == [4.0] and state.lasting("slow") == []
    state.take(note(3.0, "end"))
    assert [(fault.t, end) for fault, end in state.lasting("stop")] == [(1.0, 3.0)]
    state.take(note(9.0, "end", fault="another"))
    assert [end for _, end in state.lasting("stop")] == [3.0]


def test_a_newer_evaluation_takes_the_place_of_later_ones():
    state = folded(*(Evaluation(t=t, step=0, rounds=0, loss=t) for t in (1.0, 5.0, 9.0, 4.0)))
    assert [found.t for found in state.losses] == [1.0, 4.0]


def test_all_train():
    state = folded(sample(1.0, 0), sample(1.0, 1, steps=0))
    assert state.all_train(1) and not state.all_train(2) and not state.all_train(3)


times = st.integers(1, 30).map(float)
anything = st.one_of(
    st.builds(closed, times, st.integers(0, 2), step=st.integers(1, 9)), st.builds(sample, times, st.integers(0, 2)),
    st.builds(Event, t=times, event=st.sampled_from(["join", "cancelled", "trouble", "refused"])),
    st.builds(note, times, learner=st.integers(0, 2)), st.builds(note, times, event=st.just("end")),
)  # fmt: skip


@given(st.lists(anything), st.integers(0, 31).map(float), st.lists(anything))
def test_a_resumption_undoes_what_was_told_of_later_times(before, t, after):
    """The run goes on as if nobody had ever told of it."""

    def when(record):
        return record.unix - BEGAN if isinstance(record, FaultNote) else record.t

    def moved(record):  # to after the resumption, with the clock that then holds
        later = {"unix": record.unix + 100 + t} if isinstance(record, FaultNote) else {"t": record.t + t}
        return msgspec.structs.replace(record, **later)

    before.sort(key=when)
    rest = [begin(t, BEGAN + 100 + t, resumed=True), *map(moved, sorted(after, key=when))]
    undone = folded(begin(), *before, *rest, keep=None)
    kept = folded(begin(), *(record for record in before if when(record) <= t), *rest, keep=None)
    kept.learners = undone.learners  # as last heard of, until the next second
    assert shown(undone) == shown(kept)


def test_a_killed_syncers_fault_is_kept_and_over_with_the_next_version():
    """It struck at 7.5 s, after the last record, which is where the second start goes on; that one is there 4 s later."""
    fault = note(7.5, learner=-1, kind="kill", fault="kill:syncer@3s")
    state = folded(begin(), closed(7.0, 0), fault, begin(7.0, BEGAN + 11.5, resumed=True), closed(8.0, 0), keep=None)
    (found,) = state.faults
    assert (found.t, found.recovered_s) == (7.0, 5.0), "by the machine's clock"
    again = folded(begin(), closed(7.0, 0), fault, begin(7.0, BEGAN + 11.5, resumed=True), closed(8.0, 0),
                   note(9.0, learner=-1, kind="kill", fault="kill:syncer@9s"), begin(8.0, BEGAN + 20, resumed=True),
                   closed(8.5, 0), keep=None)  # fmt: skip
    assert [found.recovered_s for found in again.faults] == [5.0, 11.5]


# ---------------------------------------------------------------- what people see


def test_each_record_in_words():
    assert told(Event(t=0.0, event="dead", text="why", learner=3)) == "learner 3 dead: why"
    assert told(note(1.0)) == "fault: stop 0" and told(note(1.0, "end")) == "fault over: stop 0"
    assert told(Evaluation(t=1.0, step=2, rounds=1, loss=None)) == "step 2: eval loss not a number"
    assert told(sample(1.0, 0)) == told(closed(1.0, 0)) == ""


def test_the_table_fits_a_terminal(capsys):
    big = sample(1.0, 12, steps=1_234_567, tokens_s=123_456.7, loss=10.123, median_step_s=12.345, max_gap_s=123.456)
    console = Console(width=80)
    console.print(learners_table(folded(big)))
    told = capsys.readouterr().out
    assert all(word in told for word in ("1,234,567", "123,457", "10.123", "12.345 s", "123.456 s", "training"))
    assert all(len(line) <= 80 for line in told.splitlines())


def test_records_of_an_old_run_are_written_as_they_were():
    """All keys that a line had have their old names and values."""
    for name in ("metrics.jsonl", "faults.jsonl", "eval.jsonl"):
        lines = (OLD / name).read_text().splitlines()
        for line, record in zip(lines, read(OLD / name), strict=True):
            had, has = json.loads(line), json.loads(encode(record))
            assert {key: has.get(key, "") for key in had} == had
