"""`skerry status` of a run whose syncer is gone. (Of one that goes on: tests/launch/test_train.py.)"""

import shutil
import socket
from pathlib import Path

import msgspec
import pytest

from skerry.cli import main
from skerry.store.metrics import append
from skerry.store.records import Amounts, Event, Status

OLD = Path(__file__).parents[1] / "store" / "old_run"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A finished run, with the address that it had."""
    found = tmp_path / "run"
    shutil.copytree(OLD, found)
    (found / "token").write_text("a token that is long enough")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (found / "address").write_text(f"127.0.0.1:{free.getsockname()[1]}\n")
    return found


def test_a_finished_run_shows_how_it_ended(run_dir, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["status", str(run_dir)]) == 0
    shown = capsys.readouterr().out
    assert "ended, step 1601" in shown and "no syncer answers" in shown and "1,390" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    (run_dir / "address").unlink()
    assert main(["status", str(run_dir)]) == 0 and capsys.readouterr().out == shown


def test_the_last_status_is_shown_and_what_was_alarming(run_dir, capsys):
    last = Status(t=20.0, run="r", phase="ended", step=1600, params=10, rounds=201, ledger=Amounts(processed=70, merged=70))
    append(run_dir / "metrics.jsonl", last)
    append(run_dir / "metrics.jsonl", Event(t=20.0, event="trouble", text="the disk is full"))
    assert main(["status", str(run_dir)]) == 0
    shown = capsys.readouterr().out
    assert "rounds 201" in shown and "tokens 7 processed, 7 merged" in shown and "trouble: the disk is full" in shown
    assert main(["status", str(run_dir), "--json"]) == 0
    answer = msgspec.json.decode(capsys.readouterr().out, type=Status)
    assert msgspec.structs.replace(answer, learners=(), alarms=()) == last
    assert {sample.learner for sample in answer.learners} == {0, 1} and len(answer.alarms) == 1


def test_a_directory_without_a_run(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 6 and "holds no run" in capsys.readouterr().err
