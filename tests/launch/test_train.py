"""`skerry train` for real: small models, real processes, real faults; and what it says when it cannot run."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from skerry.cli import main
from skerry.core.members import Members
from skerry.launch.guardian import MARK
from skerry.report.summary import FAULT_KEYS, KEYS, LEARNER_KEYS
from skerry.store.tape import segments, verify

QUICK = ["--recipe.model", "nano", "--recipe.context", "32", "--recipe.batch", "4", "--recipe.eval-windows", "8",
         "--learners", "2", "--policy.wait-for", "2", "--syncer.snapshot-rounds", "10"]  # fmt: skip
PATIENCE = 240.0  # seconds after which a test gives up; nothing waits so long when all is well, with busy neighbours neither
pytestmark = pytest.mark.processes


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A little data of our own, so that nothing large is read."""
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 400)
    return path


@pytest.fixture
def start(tmp_path: Path, text: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `skerry train` on runs/x of the test's folder; whatever is left of it is killed afterwards."""
    started: list[subprocess.Popen[str]] = []

    def begin(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "skerry.cli", "train", "--name", "x", *options]
        if "--resume" not in options:
            command += ["--data", str(text), *QUICK]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()  # the guardian does the rest
        process.communicate()


def _lines(path: Path) -> list[dict]:
    data = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]


def _until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait until the condition holds, as long as the process lives."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "it did not come to pass"
        select.select([], [], [], 0.05)


def _left_alive(run_dir: Path) -> list[int]:
    """Processes of a run in that directory: they bear a mark and were started by its launcher. Waits a moment for them."""
    pids = {line["pid"] for line in _lines(run_dir / "faults.jsonl") if line["event"] == "start"}
    pids |= {line[key] for line in _lines(run_dir / "metrics.jsonl") for key in ("pid_trainer", "pid_agent") if line.get(key)}
    until = time.monotonic() + 60
    while alive := [pid for pid in pids if _marked(pid)]:
        if time.monotonic() > until:
            break
        select.select([], [], [], 0.05)
    return alive


def _marked(pid: int) -> bool:
    try:
        return MARK.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def test_a_run_with_faults_from_start_to_report(start, tmp_path, monkeypatch):
    # Quorum 2: the run's steps wait for whoever is away, so however slow the machine is, it sees every return.
    process = start("--policy.steps", "1000", "--policy.quorum", "2", "--chaos",
                    "kill:1.trainer@0.5s+2s kill:0.agent@1s stop:0@2s+1.5s")  # fmt: skip
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    run_dir = tmp_path / "runs/x"
    summary = json.loads((run_dir / "summary.json").read_text())
    assert list(summary) == list(KEYS)
    assert all(set(one) >= {"learner", *LEARNER_KEYS} for one in summary["per_learner"])
    ledger = summary["ledger"]
    assert ledger["processed"] == ledger["merged"] + ledger["lost"] and ledger["pending"] == 0
    assert summary["eval_loss"] < summary["eval_loss_first"] and len(summary["data_sha256"]) == 64
    assert [(f["kind"], f["target"]) for f in summary["faults"]] == [("kill", "1.trainer"), ("kill", "0.agent"), ("stop", "0")]
    assert all(list(f) == list(FAULT_KEYS) and f["recovered_s"] > 0 for f in summary["faults"])
    [killed] = [line["unix"] for line in _lines(run_dir / "faults.jsonl") if line.get("target") == "1.trainer"]
    starts = [line["unix"] for line in _lines(run_dir / "faults.jsonl") if (line["event"], line["learner"]) == ("start", 1)]
    assert starts[1] - killed > 1.5, "a killed trainer is started again 2 s later, not after launch.restart_after"
    assert (run_dir / "report.png").stat().st_size > 20_000 and "data:image/png" in (run_dir / "report.html").read_text()
    assert "report.html" in out and "eval loss" in out and "fault" in out
    assert _left_alive(run_dir) == []
    assert main(["sample", str(run_dir), "--bytes", "5"]) == 0
    [segment] = segments(run_dir / "tape")
    assert verify(segment).difference == ""
    monkeypatch.setattr(Members, "quorum", 1)
    assert verify(segment).difference, "a core with another rule must not pass for the one that ran"


def _starts(run_dir: Path, learner: int) -> int:
    return sum((line["event"], line.get("learner")) == ("start", learner) for line in _lines(run_dir / "faults.jsonl"))


def test_a_killed_syncer_is_started_again_and_the_run_ends_well(start, tmp_path):
    process = start("--policy.steps", "800", "--chaos", "kill:syncer@1s", "--syncer.snapshot-rounds", "4")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    run_dir = tmp_path / "runs/x"
    assert _starts(run_dir, -1) == 2 and _starts(run_dir, 0) == _starts(run_dir, 1) == 1, "nobody else is started again"
    assert "the syncer was ended by SIGKILL; it is started again" in out
    exits = [line["code"] for line in _lines(run_dir / "faults.jsonl") if (line["event"], line["learner"]) == ("exit", -1)]
    assert exits == [-signal.SIGKILL, 0]
    summary = json.loads((run_dir / "summary.json").read_text())
    [fault] = summary["faults"]
    assert (fault["kind"], fault["target"]) == ("kill", "syncer") and fault["recovered_s"] > 0
    assert summary["ledger"]["pending"] == 0 and summary["eval_loss"] < summary["eval_loss_first"]
    begins = [line["address"] for line in _lines(run_dir / "metrics.jsonl") if line.get("event") == "begin"]
    assert len(begins) == 2 and len(set(begins)) == 1, "at the same port"
    assert (run_dir / "model/model.safetensors").exists() and _left_alive(run_dir) == []


def test_links_are_cut_and_go_mute_and_the_run_ends_well(start, tmp_path):
    process = start("--policy.steps", "1000", "--policy.quorum", "2", "--chaos",
                    "cut:1@0.5s+0.5s halfopen:0@1.5s+1.5s stop:syncer@3.5s+0.5s full:syncer@4.5s+1s")  # fmt: skip
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    run_dir = tmp_path / "runs/x"
    notes = [(line["event"], line["kind"], line["target"]) for line in _lines(run_dir / "faults.jsonl") if "kind" in line]
    assert [note for note in notes if note[0] == "strike"] == [
        ("strike", "cut", "1"), ("strike", "halfopen", "0"), ("strike", "stop", "syncer"), ("strike", "full", "syncer"),
    ]  # fmt: skip
    assert [note[1] for note in notes if note[0] == "end"] == ["halfopen", "stop", "full"]
    assert [_starts(run_dir, learner) for learner in (-1, 0, 1)] == [1, 1, 1]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["lost_by_cause"].get("died", 0) == 0 and summary["ledger"]["pending"] == 0
    assert {one["generations"] for one in summary["per_learner"]} == {1}, "a link that breaks is no new generation"
    assert _left_alive(run_dir) == []


def test_ctrl_c_while_the_syncer_is_down(start, tmp_path):
    run_dir = tmp_path / "runs/x"
    process = start("--policy.steps", "100000", "--chaos", "kill:syncer@1s+600s")
    _until(lambda: any(line["event"] == "exit" for line in _lines(run_dir / "faults.jsonl")), process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "stopped while the syncer was down; --resume goes on" in err
    assert _left_alive(run_dir) == []


def test_a_syncer_that_cannot_live_is_given_up(start, tmp_path):
    run_dir = tmp_path / "runs/x"
    process = start("--policy.steps", "100000", "--launch.syncer-restarts", "1")
    _until(lambda: _lines(run_dir / "metrics.jsonl"), process)

    def strike() -> bool:
        notes = [line for line in _lines(run_dir / "faults.jsonl") if line["event"] == "start"]
        pids = [line["pid"] for line in notes if line["learner"] == -1]
        for pid in pids[-1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return process.poll() is not None

    until = time.monotonic() + PATIENCE
    while not strike():
        assert time.monotonic() < until
        select.select([], [], [], 0.02)
    _, err = process.communicate()
    assert process.returncode == 1 and "the syncer died 2 times in a row without a new version" in err, err
    assert _left_alive(run_dir) == []


def test_ctrl_c_saves_and_resume_goes_on(start, tmp_path):
    run_dir = tmp_path / "runs/x"
    began = time.monotonic()
    process = start("--policy.steps", "100000")
    _until(lambda: any(line["kind"] == "round" and line["step"] > 30 for line in _lines(run_dir / "metrics.jsonl")), process)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "the model is saved" in err, out + err
    assert time.monotonic() - asked < 20 + (asked - began), "it ends in seconds, beside what the machine needed to begin"
    assert (run_dir / "model/model.safetensors").exists() and (run_dir / "report.html").exists()
    assert _left_alive(run_dir) == []
    reached = max(line["step"] for line in _lines(run_dir / "metrics.jsonl") if line["kind"] == "round")
    process = start("--resume", "--policy.steps", str(reached + 100))
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    rounds = [line for line in _lines(run_dir / "metrics.jsonl") if line["kind"] == "round"]
    assert max(line["step"] for line in rounds) >= reached + 100
    for fragment in {line["fragment"] for line in rounds}:  # each by itself: rounds of several may end in any order
        its = [line for line in rounds if line["fragment"] == fragment]
        assert [line["version"] for line in its] == list(range(1, len(its) + 1)), "no round is lost or made twice"
        steps = [line["step"] for line in its]
        assert steps == sorted(set(steps))
    assert len(segments(run_dir / "tape")) == 2


def test_kill_9_of_the_launcher_leaves_nothing_alive_not_even_what_is_frozen(start, tmp_path):
    run_dir = tmp_path / "runs/x"
    process = start("--policy.steps", "100000", "--chaos", "stop:1@0s+600s")
    _until(lambda: any(line["event"] == "strike" for line in _lines(run_dir / "faults.jsonl")), process)
    process.kill()
    process.communicate()
    assert _left_alive(run_dir) == []


def test_two_interrupts_end_it_at_once(start, tmp_path):
    process = start("--policy.steps", "100000", "--chaos", "stop:1@0s+600s")
    _until(lambda: (tmp_path / "runs/x/address").exists(), process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "ended at once" in err and _left_alive(tmp_path / "runs/x") == []


def test_syncer_and_learner_by_hand_the_syncer_interrupted_and_resumed(tmp_path, text):
    command = [sys.executable, "-m", "skerry.cli"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True, "cwd": tmp_path}
    syncer = subprocess.Popen([*command, "syncer", "--run-dir", "s", "--policy.interval", "30"], **pipes)
    learner = None
    try:
        joins = syncer.stdout.readline().split()  # it prints the command line that joins a learner
        assert joins[:2] == ["skerry", "join"]
        options = ["--data", str(text), "--recipe.model", "nano", "--recipe.context", "32", "--recipe.batch", "4"]
        learner = subprocess.Popen([*command, *joins[1:], *options], **pipes)
        _until(lambda: any(line["kind"] == "round" for line in _lines(tmp_path / "s/metrics.jsonl")), syncer)
        syncer.send_signal(signal.SIGINT)
        assert syncer.wait(PATIENCE) == 130 and learner.poll() is None  # the learner trains on, and waits for its return
        syncer = subprocess.Popen([*command, "syncer", "--run-dir", "s", "--resume", "--policy.tokens", "25000"], **pipes)
        assert learner.wait(PATIENCE) == 0 and syncer.wait(PATIENCE) == 0
        assert main(["sample", str(tmp_path / "s"), "--bytes", "3"]) == 0
        assert "interval = 30" in (tmp_path / "s/config.toml").read_text()
    finally:
        for process in filter(None, (syncer, learner)):
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--policy.quorum", "5"], 2, "policy.quorum = 5 is more than learners = 4"),
        (["--policy.overlap", "24"], 2, "tau must be below interval"),
        (["--chaos", "kill:1"], 2, "fault 'kill:1'"),
        (["--chaos", "kill:7@1s"], 2, "no learner 7"),
        (["--config", "none.toml"], 2, "cannot read none.toml"),
        (["--preset", "none"], 2, "no preset 'none'"),
        (["--data", "no/such/path"], 3, "no/such/path"),
        (["--data", "empty"], 3, "empty"),
        (["--data", "short.txt"], 3, "too short"),
        (["--resume", "--name", "none"], 6, "runs/none holds no run to go on with"),
        (["--syncer.run-dir", "there"], 6, "there exists already"),
        (["--syncer.run-dir", "there", "--force"], 6, "does not look like a run"),
        (["--syncer.run-dir", "there", "--resume"], 6, "no run to go on with"),
    ],
)
def test_what_cannot_work_is_one_line_and_an_exit_code(options, code, says, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/precious").write_text("keep")
    (tmp_path / "short.txt").write_text("x" * 40)
    assert main(["train", *options]) == code
    out, err = capfd.readouterr()
    assert err.startswith("skerry: ") and err.count("\n") == 1 and says in err and out == ""
    assert (tmp_path / "there/precious").exists() and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--syncer.port", "PORT"], 5, "cannot listen on"),
        (["--policy.fragments", "100"], 2, "policy.fragments = 100 is more than"),
    ],
)
def test_what_a_process_of_the_run_finds_out(options, code, says, start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(*(str(taken.getsockname()[1]) if option == "PORT" else option for option in options))
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code and err.startswith("skerry: ") and says in err, out + err
    assert err.count("\n") == 1


def test_every_command_has_help_with_examples(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for command in ("train", "syncer", "join", "sample", "status"):
        assert command in listed
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert f"skerry {command}" in capsys.readouterr().out.partition("examples:")[2]
    assert main(["trian"]) == 2 and "there is no command 'trian'" in capsys.readouterr().err


def test_status_of_a_run(start, tmp_path, capsys):
    process = start("--policy.steps", "100000")
    _until(lambda: _lines(tmp_path / "runs/x/metrics.jsonl")[-1:] and (tmp_path / "runs/x/address").exists(), process)
    assert main(["status", str(tmp_path / "runs/x"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["phase"] in ("waiting", "running")
    assert main(["status", str(tmp_path / "runs/x")]) == 0
    assert re.match(r"run \w+: (waiting|running), step \d+", capsys.readouterr().out)
