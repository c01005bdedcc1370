"""The report from a run's files: a small written-out run, whose figures can be checked by hand."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from skerry.report.figures import draw
from skerry.report.html import page
from skerry.report.summary import FAULT_KEYS, KEYS, LEARNER_KEYS, summarise
from skerry.report.write import write_report
from skerry.store.metrics import read_figures, read_run
from skerry.store.records import (
    Amounts,
    Begin,
    Evaluation,
    FaultFigures,
    FaultNote,
    Figures,
    LearnerFigures,
    Record,
    Round,
    Sample,
    Started,
    Summary,
    encode,
    pretty,
)

BEGAN = 1_700_000_000.0
DOCS = Path(__file__).parents[2] / "docs"


def _write(path: Path, records: list[Record]) -> None:
    path.write_bytes(b"".join(encode(record) + b"\n" for record in records) + b'{"cut off by a k')


def _round(t: float, *included: int, open_s: float = 0.2) -> Round:
    return Round(t=t, fragment=int(t) % 4, step=4 * int(t), version=int(t) // 4, open_s=open_s, grace_s=0.1, included=included,
                 contributors=len(included), learners=2)  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two learners for 40 s, a round each second; learner 1's trainer is killed at 10 s and back at 15 s."""
    samples = [
        Sample(t=t + 0.5, learner=m, generation=1, steps=5 * t, clock=5 * t, tokens=t, tokens_s=1.0, loss=5.0 - t / 20,
               state="dead" if m == 1 and 10 <= t < 15 else "training")
        for t in range(40) for m in (0, 1)
    ]  # fmt: skip
    rounds = [_round(float(t), *((0,) if 10 < t < 16 else (0, 1))) for t in range(1, 40)]
    _write(tmp_path / "metrics.jsonl", [Begin(t=0.0, unix=BEGAN), *sorted([*samples, *rounds], key=lambda record: record.t)])
    _write(tmp_path / "eval.jsonl", [Evaluation(t=t, step=4 * t, rounds=t, loss=5.5 - t / 10) for t in (0, 20, 40)])
    stop = FaultNote(unix=BEGAN + 20, event="strike", learner=0, kind="stop", target="0", fault="stop:0@18s+5s")
    _write(tmp_path / "faults.jsonl", [
        Started(unix=BEGAN, learner=0, pid=1),
        FaultNote(unix=BEGAN + 9.9, event="strike", learner=1, kind="kill", target="1.trainer", fault="kill:1.trainer@8s"),
        stop, msgspec.structs.replace(stop, event="end", unix=BEGAN + 25),
    ])  # fmt: skip
    (tmp_path / "figures.json").write_bytes(pretty(Figures(
        run="r", phase="ended", params=1000, learners=2, step=160, rounds=39, rounds_cancelled=0, rounds_skipped=0,
        mean_contributors=1.9, wall_s=40.0, tokens_processed=4.0, tokens_merged=1.0, tokens_lost=3.0, tokens_pending=0.0,
        goodput=0.95, lost_by_cause={"overlap": 3.0}, ledger=Amounts(processed=4000, merged=1000, lost=3000), bytes_up=10**9,
        bytes_down=2 * 10**9, data_parallel_bytes=10**11,
        per_learner=(LearnerFigures(learner=0, generations=1, steps=200, tokens=4, lost_by_cause={}, median_step_s=0.2),),
    )))  # fmt: skip
    return tmp_path


def _summary(run_dir: Path, data_sha256: str | None = None) -> Summary:
    return summarise(read_figures(run_dir), read_run(run_dir, keep=None), data_sha256)


def test_recovery_counts_only_rounds_opened_after_the_strike(run_dir):
    state = read_run(run_dir, keep=None)
    kill, stop = state.faults
    # The round that closed at 10.0 with learner 1 was open before the strike at 9.9.
    assert kill.t == pytest.approx(9.9) and kill.recovered_s == pytest.approx(16 - 9.9)
    assert [(fault.note.target, fault.t, end) for fault, end in state.lasting("stop")] == [("0", 20.0, 25.0)]
    assert stop.recovered_s == pytest.approx(1.0)


def test_what_a_resumption_has_undone_is_left_out(tmp_path):
    """A first start until 10 s, killed; a second one from the snapshot at 6 s, 100 s later."""
    first = [Begin(t=0.0, unix=BEGAN), *(_round(t, 0) for t in (2.0, 5.0, 7.0, 10.0))]
    _write(tmp_path / "metrics.jsonl", [*first, Begin(t=6.0, unix=BEGAN + 110), *(_round(t, 0) for t in (8.0, 9.0))])
    _write(tmp_path / "faults.jsonl", [
        FaultNote(unix=BEGAN + at, event="strike", learner=0, kind="kill", target="0", fault=f"kill:0@{at}s")
        for at in (4, 8, 112)
    ])  # fmt: skip
    state = read_run(tmp_path, keep=None)
    assert [record.t for record in state.closed] == [2, 5, 8, 9]
    assert [fault.t for fault in state.faults] == [4, 8]  # the one at 8 s of the first start was undone with its time


def test_summary_has_every_key_and_no_other(run_dir):
    summary = _summary(run_dir, "ab")
    assert list(json.loads(pretty(summary))) == list(KEYS)
    assert (summary.eval_loss_first, summary.eval_loss, summary.data_sha256) == (5.5, 1.5, "ab")
    assert summary.faults[0] == FaultFigures(kind="kill", target="1.trainer", at_s=9.9, recovered_s=6.1)
    assert (summary.goodput, summary.tokens_lost, summary.per_learner[0].max_gap_s) == (0.95, 3.0, None)
    assert write_report(run_dir, "ab").summary == summary
    assert msgspec.json.decode((run_dir / "summary.json").read_bytes(), type=Summary) == summary


def test_every_key_is_documented():
    text = (DOCS / "summary.md").read_text()
    for keys, record in ((KEYS, Summary), (LEARNER_KEYS, LearnerFigures), (FAULT_KEYS, FaultFigures)):
        assert set(keys) == set(record.__struct_fields__)
        assert [key for key in keys if f"| `{key}` |" not in text] == []
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.M)) == {*KEYS, *LEARNER_KEYS, *FAULT_KEYS}


def test_picture_and_page(run_dir):
    summary = _summary(run_dir)
    picture = draw("demo & co", read_run(run_dir, keep=None), summary)
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
    text = page("demo & co", summary, 'name = "demo"', picture)
    assert "demo &amp; co" in text and "data:image/png;base64," in text
    assert not re.search(r"(src|href)='?\"?(http|/)", text)  # self-contained
    assert all(f">{key}<" in text for key in KEYS if key not in ("per_learner", "faults"))
    assert ">processed 4,000<br>merged 1,000<br>" in text and "Record" not in text


def test_states_and_faults_of_a_newer_release_are_drawn(run_dir):
    with (run_dir / "metrics.jsonl").open("r+b") as file:
        text = file.read().replace(b'"state":"dead"', b'"state":"asleep"')
        file.seek(0)
        file.write(text)
        file.truncate()
    faults = run_dir / "faults.jsonl"
    faults.write_text(faults.read_text().replace('"kind":"kill"', '"kind":"tease"'))
    assert draw("x", read_run(run_dir, keep=None), _summary(run_dir))


def test_an_interrupted_run_has_a_report_too(run_dir):
    for name in ("figures.json", "eval.jsonl", "faults.jsonl"):
        (run_dir / name).unlink()
    summary = _summary(run_dir)
    assert summary.faults == () and summary.eval_loss is None and summary.rounds is None
    assert draw("x", read_run(run_dir, keep=None), summary) and page("x", summary, "", None)
    assert "ledger       -" in write_report(run_dir).text
