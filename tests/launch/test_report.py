"""The report from a run's files: a small written-out run, whose figures can be checked by hand."""

import json
import re
from pathlib import Path

import pytest

from skerry.errors import RunDirError
from skerry.report.figures import draw
from skerry.report.html import page
from skerry.report.record import RunRecord
from skerry.report.summary import FAULT_KEYS, KEYS, LEARNER_KEYS, summarise, write_summary

BEGAN = 1_700_000_000.0
DOCS = Path(__file__).parents[2] / "docs"


def _write(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"cut off by a k')


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Two learners for 40 s, a round each second; learner 1's trainer is killed at 10 s and back at 15 s."""
    learner = [
        {"t": t + 0.5, "kind": "learner", "learner": m, "generation": 1, "steps": 5 * t, "loss": 5.0 - t / 20,
         "state": "dead" if m == 1 and 10 <= t < 15 else "training"}
        for t in range(40) for m in (0, 1)
    ]  # fmt: skip
    rounds = [
        {"t": float(t), "kind": "round", "fragment": t % 4, "step": 4 * t, "version": t // 4, "open_s": 0.2,
         "grace_s": 0.1, "included": (ids := [0] if 10 < t < 16 else [0, 1]), "contributors": len(ids), "learners": 2}
        for t in range(1, 40)
    ]  # fmt: skip
    start = {"t": 0.0, "kind": "event", "event": "begin", "unix": BEGAN}
    _write(tmp_path / "metrics.jsonl", [start, *sorted(learner + rounds, key=lambda line: line["t"])])
    _write(tmp_path / "eval.jsonl", [{"t": t, "step": 4 * t, "rounds": t, "loss": 5.5 - t / 10} for t in (0, 20, 40)])
    strike = {"unix": BEGAN + 9.9, "event": "strike", "learner": 1, "kind": "kill", "target": "1.trainer",
              "fault": "kill:1.trainer@8s"}  # fmt: skip
    stop = {"unix": BEGAN + 20, "learner": 0, "kind": "stop", "target": "0", "fault": "stop:0@18s+5s"}
    _write(tmp_path / "faults.jsonl", [
        {"unix": BEGAN, "event": "start", "learner": 0, "pid": 1}, strike,
        {**stop, "event": "strike"}, {**stop, "event": "end", "unix": BEGAN + 25},
    ])  # fmt: skip
    (tmp_path / "figures.json").write_text(json.dumps({
        "params": 1000, "learners": 2, "rounds": 39, "mean_contributors": 1.9, "wall_s": 40.0, "goodput": 0.95,
        "lost_by_cause": {"overlap": 3.0}, "bytes_up": 10**9, "bytes_down": 2 * 10**9, "data_parallel_bytes": 10**11,
        "per_learner": [{"learner": 0, "steps": 200, "median_step_s": 0.2}],
    }))  # fmt: skip
    return tmp_path


def test_recovery_counts_only_rounds_opened_after_the_strike(run_dir):
    record = RunRecord.read(run_dir)
    kill, stop = record.strikes
    # The round that closed at 10.0 with learner 1 was open before the strike at 9.9.
    assert kill["t"] == pytest.approx(9.9) and record.recovered_s(kill) == pytest.approx(16 - 9.9)
    assert record.spans("stop") == [(0, "0", 20.0, 25.0)]
    assert record.recovered_s(stop) == pytest.approx(1.0)


def test_what_a_resumption_has_undone_is_left_out(tmp_path):
    """A first start until 10 s, killed; a second one from the snapshot at 6 s, 100 s later."""

    def rounds(*times: float) -> list[dict]:
        return [{"t": t, "kind": "round", "open_s": 0.1, "included": [0], "contributors": 1} for t in times]

    begin = {"kind": "event", "event": "begin"}
    _write(tmp_path / "metrics.jsonl", [{**begin, "t": 0.0, "unix": BEGAN}, *rounds(2, 5, 7, 10),
                                        {**begin, "t": 6.0, "unix": BEGAN + 110}, *rounds(8, 9)])  # fmt: skip
    strikes = [{"unix": BEGAN + at, "event": "strike", "learner": 0, "kind": "kill"} for at in (4, 8, 112)]
    _write(tmp_path / "faults.jsonl", strikes)
    record = RunRecord.read(tmp_path)
    assert [line["t"] for line in record.rounds] == [2, 5, 8, 9]
    assert [line["t"] for line in record.strikes] == [4, 8]  # the one at 8 s of the first start was undone with its time


def test_summary_has_every_key_and_no_other(run_dir):
    summary = summarise(RunRecord.read(run_dir), data_sha256="ab")
    assert list(summary) == list(KEYS)
    assert (summary["eval_loss_first"], summary["eval_loss"], summary["data_sha256"]) == (5.5, 1.5, "ab")
    assert summary["faults"][0] == {"kind": "kill", "target": "1.trainer", "at_s": 9.9, "recovered_s": 6.1}
    assert summary["tokens_lost"] is None  # not known: null, never left out
    assert json.loads(write_summary(run_dir, summary).read_text()) == summary


def test_every_key_is_documented():
    text = (DOCS / "summary.md").read_text()
    for keys in (KEYS, LEARNER_KEYS, FAULT_KEYS):
        assert [key for key in keys if f"| `{key}` |" not in text] == []
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.M)) <= {*KEYS, *LEARNER_KEYS, *FAULT_KEYS, "learner"}


def test_picture_and_page(run_dir):
    record = RunRecord.read(run_dir)
    summary = summarise(record)
    picture = draw(record, summary)
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000
    text = page("demo & co", summary, 'name = "demo"', picture)
    assert "demo &amp; co" in text and "data:image/png;base64," in text
    assert not re.search(r"(src|href)='?\"?(http|/)", text)  # self-contained
    assert all(f">{key}<" in text for key in KEYS if key not in ("per_learner", "faults"))


def test_an_interrupted_run_has_a_report_too(run_dir):
    for name in ("figures.json", "eval.jsonl", "faults.jsonl"):
        (run_dir / name).unlink()
    record = RunRecord.read(run_dir)
    summary = summarise(record)
    assert summary["faults"] == [] and summary["eval_loss"] is None
    assert draw(record, summary) and page("x", summary, "", None)


def test_no_run_no_report(tmp_path):
    with pytest.raises(RunDirError, match="no run"):
        RunRecord.read(tmp_path)
