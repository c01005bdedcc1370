"""Records and their files: what is written is read back, whatever else lies in the file."""

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.errors import RunDirError
from skerry.store import records
from skerry.store.metrics import MetricsLog, Tail, append, read, read_figures, read_run
from skerry.store.records import (
    Begin,
    Evaluation,
    Event,
    Exited,
    FaultNote,
    Figures,
    LearnerFigures,
    Record,
    Round,
    Sample,
    Started,
    Status,
    Summary,
    Unfired,
    decode,
    encode,
    pretty,
)

LINES = (Begin, Event, Round, Sample, Status, Evaluation, FaultNote, Started, Exited, Unfired)
EVENT = Event(t=1.0, event="join", learner=2)

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(int, st.integers(-(1 << 63), (1 << 64) - 1))
st.register_type_strategy(str, st.text(st.characters(exclude_categories=["Cs"])))


def of(cls: type[Record]) -> st.SearchStrategy[Record]:
    """Any record of that class."""
    return st.builds(cls, **{field.name: _values(field.type) for field in msgspec.structs.fields(cls)})


def _values(hint) -> st.SearchStrategy:
    if isinstance(hint, type) and issubclass(hint, Record):
        return of(hint)
    args = getattr(hint, "__args__", ())
    if args and isinstance(args[0], type) and issubclass(args[0], Record):
        several = st.lists(of(args[0]), max_size=3).map(tuple)
        return several if Ellipsis in args else st.none() | of(args[0])
    return st.from_type(hint)


@pytest.mark.parametrize("cls", LINES)
def test_every_line_is_read_back_as_it_was(cls):
    @given(of(cls).filter(lambda record: getattr(record, "event", "") != "begin" or cls is Begin))
    def check(record):
        line = encode(record)
        assert b"\n" not in line and decode(line) == record and json.loads(line)

    check()


@pytest.mark.parametrize("cls", [Figures, Summary, LearnerFigures])
def test_every_file_is_read_back_as_it_was(cls):
    @given(of(cls))
    def check(record):
        assert msgspec.json.decode(pretty(record), type=cls) == record

    check()


def test_no_kind_of_record_is_left_out_here():
    known = {cls for cls in vars(records).values() if isinstance(cls, type) and issubclass(cls, Record)}
    parts = {Record, records.Amounts, records.Budget, records.Pace, records.FaultFigures}
    assert known - parts == {*LINES, Figures, Summary, LearnerFigures}


def test_no_number_is_null():
    sample = Sample(t=1, learner=0, generation=1, state="training", clock=1, steps=1, tokens=1, tokens_s=0.0, loss=float("inf"))
    assert json.loads(encode(sample))["loss"] is None
    assert decode(encode(sample)) == msgspec.structs.replace(sample, loss=None)


@pytest.mark.parametrize("line", [
    b'{"t":1.0,"kind":"dream","event":"join"}', b'{"unix":1.0,"event":"wished","learner":1}', b'{"kind":"forecast"}',
])  # fmt: skip
def test_kinds_of_a_newer_release_are_passed_over(line, tmp_path):
    assert decode(line) is None
    (tmp_path / "f").write_bytes(line + b"\n" + encode(EVENT) + b"\n")
    assert list(read(tmp_path / "f")) == [EVENT]


def test_what_a_newer_release_adds_to_a_kind_is_passed_over():
    plain = json.loads(encode(EVENT))
    assert decode(json.dumps({**plain, "mood": {"x": 1}}).encode()) == EVENT
    assert decode(json.dumps({**plain, "event": "overtaken"}).encode()) == Event(t=1.0, event="overtaken", learner=2)


@pytest.mark.parametrize("line", [
    b"", b"garbage", b"[1]", b"7", b'{"t":1.0,"kind":"round"}', b'{"t":"soon","kind":"event","event":"join"}', b"\xff\xfe",
    b'{"t":1.0,"kind":"ev{"t":1.0,"kind":"event","event":"join"}', b"\0\0\0\0", b'{"x":1}',
])  # fmt: skip
def test_a_damaged_line_is_named_and_a_live_view_passes_over_it(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(encode(EVENT) + b"\n" + line + b"\n" + encode(EVENT) + b"\n")
    found = read(path)
    assert next(found) == EVENT
    with pytest.raises(RunDirError, match=r"line 2 of .*metrics\.jsonl is damaged"):
        next(found)
    assert Tail(path).new() == [EVENT, EVENT]


@given(st.binary())
def test_garbage_is_a_value_error_or_nothing(line):
    try:
        assert decode(line) is None or isinstance(decode(line), Record)
    except ValueError:
        pass


def test_a_torn_last_line_is_left_out_and_cut_off_by_who_adds(tmp_path):
    whole = encode(EVENT) + b"\n"
    for cut in range(1, len(whole)):
        path = tmp_path / f"{cut}.jsonl"
        path.write_bytes(whole + whole[:cut])
        assert list(read(path)) == [EVENT] and Tail(path).new() == [EVENT]
        append(path, EVENT)
        assert path.read_bytes() == whole * 2
        path.write_bytes(whole[:cut])
        log = MetricsLog(path, print)
        log.add(EVENT)
        log.close()
        assert path.read_bytes() == whole


def test_a_torn_line_may_be_long(tmp_path):
    path, whole = tmp_path / "f", encode(EVENT) + b"\n"
    path.write_bytes(whole + b"x" * 200_000)
    append(path, EVENT)
    assert path.read_bytes() == whole * 2


def test_a_tail_sees_what_is_added(tmp_path):
    path = tmp_path / "f"
    assert Tail(path).new() == []
    append(path, EVENT)
    tail, late = Tail(path), Tail(path, skip=True)
    assert tail.new() == [EVENT] and late.new() == []
    with path.open("ab") as file:
        file.write(encode(EVENT)[:9])
        file.flush()
        assert tail.new() == []
        file.write(encode(EVENT)[9:] + b"\n")
    assert tail.new() == [EVENT] and late.new() == [EVENT]


def test_damaged_figures_are_named(tmp_path):
    assert read_figures(tmp_path) == Summary()
    (tmp_path / "figures.json").write_text('{"params": "many"}')
    with pytest.raises(RunDirError, match=r"figures\.json is damaged"):
        read_figures(tmp_path)


def test_no_run(tmp_path: Path):
    with pytest.raises(RunDirError, match="no run"):
        read_run(tmp_path)
