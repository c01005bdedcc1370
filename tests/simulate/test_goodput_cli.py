"""`skerry simulate goodput`: its figures over seeds, in processes, its fit, its forms and its refusals."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from skerry.cli import main
from skerry.simulate.goodput import Job, simulate
from skerry.simulate.goodput_fit import Target, fit
from skerry.simulate.goodput_grid import reckon, work
from skerry.simulate.pool import Pool
from skerry.simulate.returns import Returns
from skerry.simulate.student import mean95, t95

ENDLESS = ["--chips", "2.4M", "--learners", "16", "--days", "40000", "--seeds", "4", "--jobs", "2"]


def _run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["simulate", "goodput", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


# ---------------------------------------------------------------- over seeds


def test_students_t():
    assert [round(t95(n), 3) for n in (1, 2, 4, 10, 30)] == [12.706, 4.303, 2.776, 2.228, 2.042]
    assert [t95(n) for n in (31, 60, 120, 10**6)] == pytest.approx([2.039513, 2.000298, 1.979930, 1.959966], abs=1e-5)
    assert mean95([1.0, 2.0, 3.0]) == (2.0, pytest.approx(4.302653 / 3**0.5))
    assert mean95([1.0]) == (1.0, None)


def test_means_over_the_seeds():
    job = Job(chips=150_000, learners=2, days=2)
    (found,) = reckon([job], [3, 4, 9])
    single = [simulate(job, seed) for seed in (3, 4, 9)]
    assert (found.goodput, found.goodput_ci) == mean95([one.goodput for one in single])
    assert (found.uptime, found.uptime_ci) == mean95([one.uptime for one in single])


def test_one_job_is_followed_once_for_all_learners():
    jobs = [Job(chips=150_000, learners=m, kind="rigid", days=2) for m in (1, 2, 4)]
    heard = []
    found = reckon(jobs, [0], heard=heard.append)
    assert found[0] == found[1] == found[2]
    assert sum(heard) == simulate(jobs[0], 0).failures
    assert work(jobs, [0]) == work(jobs[:1], [0])


def test_processes_come_to_the_same(monkeypatch):
    monkeypatch.setattr("skerry.simulate.goodput_grid.IN_PROCESSES_FROM", 0)
    jobs = [Job(chips=chips, learners=2, days=1) for chips in (300_000, 150_000)]
    heard = []
    with Pool(2) as pool:
        assert reckon(jobs, [0, 1], pool, heard.append) == reckon(jobs, [0, 1])
    assert sum(heard) == sum(simulate(job, seed).failures for job in jobs for seed in (0, 1))


# ---------------------------------------------------------------- the fit


def _goodputs(jobs):
    return [figures.goodput for figures in reckon(jobs, [0])]


def test_the_fit_finds_the_times_behind_the_figures():
    truth = Job(days=20, learners=1, returns=Returns(mean=60.0), shrink=25.0, grow=10.0)
    sizes = [("rigid", 150_000), ("rigid", 600_000), *(("elastic", chips) for chips in (150_000, 300_000, 600_000, 1_200_000))]
    jobs = [replace(truth, chips=chips, kind=kind) for kind, chips in sizes]
    given = [Target(chips=job.chips, learners=1, kind=job.kind, goodput=goodput)
             for job, goodput in zip(jobs, _goodputs(jobs), strict=True)]  # fmt: skip
    found = fit(given, Job(days=20), _goodputs)
    assert found.times == pytest.approx({"mean_return": 60.0, "shrink": 25.0, "grow": 10.0}, rel=0.01)
    assert found.undetermined == ()
    assert found.goodputs == pytest.approx([target.goodput for target in given], abs=1e-3)


def test_the_fit_leaves_what_it_cannot_know():
    given = [Target(chips=300_000, learners=1, kind="rigid", goodput=0.5)]
    found = fit(given, Job(days=20, grow=0.0), _goodputs)
    assert found.goodputs[0] == pytest.approx(0.5, abs=1e-4)
    assert found.undetermined == ("shrink",) and found.times["shrink"] == pytest.approx(Job().shrink)
    assert found.times["grow"] == 0.0


# ---------------------------------------------------------------- the command


def test_rows_as_json(capsys):
    code, out, _ = _run(capsys, "--chips", "150k,300k", "--learners", "1,2", "--kind", "rigid,decoupled", "--days", "1",
                        "--seeds", "2", "--json")  # fmt: skip
    rows = json.loads(out)["rows"]
    assert code == 0 and len(rows) == 8
    assert {(row["chips"], row["learners"], row["kind"]) for row in rows} == {
        (chips, m, kind) for chips in (150_000, 300_000) for m in (1, 2) for kind in ("rigid", "decoupled")}  # fmt: skip
    assert all(0 < row["goodput"] <= row["uptime"] + 1e-12 <= 1 + 1e-12 and row["ci"] > 0 for row in rows)
    (figures,) = reckon([Job(chips=300_000, learners=2, days=1)], [0, 1])
    assert (rows[-1]["goodput"], rows[-1]["uptime"], rows[-1]["ci"]) == (figures.goodput, figures.uptime, figures.goodput_ci)


def test_table_csv_and_files(capsys, tmp_path):
    options = ["--chips", "0.15M,300k", "--learners", "1,2", "--kind", "elastic,decoupled", "--days", "0.5", "--seeds", "1"]
    _, text, _ = _run(capsys, *options, "--out", str(tmp_path))
    goodput = text.split("goodput, %:\n")[1].split("\n")
    assert goodput[0].split() == ["chips", "elastic", "M", "=", "1", "M", "=", "2"]
    assert [line.split()[0] for line in goodput[1:3]] == ["150,000", "300,000"]
    assert "±" not in text  # one seed says nothing of the spread
    assert (tmp_path / "goodput.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "goodput.json").read_text())["model"]["mtbi_s"] == 365 * 86400
    _, out, _ = _run(capsys, *options, "--csv")
    assert out == (tmp_path / "goodput.csv").read_text()
    rows = list(csv.DictReader(out.splitlines()))
    assert len(rows) == 8 and rows[0]["ci"] == ""
    assert f"{100 * float(rows[0]['goodput']):.4g}" == goodput[1].split()[1]


def test_fit_of_its_own_table(capsys, tmp_path):
    options = ["--days", "5", "--seeds", "1"]
    _run(capsys, *options, "--chips", "150k,600k", "--learners", "1", "--kind", "rigid,elastic", "--mean-return", "100s",
         "--out", str(tmp_path))  # fmt: skip
    code, out, _ = _run(capsys, *options, "--fit", str(tmp_path / "goodput.csv"), "--json", "--out", str(tmp_path / "fit"))
    result = json.loads(out)
    assert code == 0 and result["fitted"]["mean_return_s"] == pytest.approx(100.0, rel=0.02)
    assert result["worst_error"] == max(abs(row["residual"]) for row in result["rows"]) < 0.005
    assert (tmp_path / "fit" / "goodput-fit.png").exists()
    _, text, _ = _run(capsys, *options, "--fit", str(tmp_path / "goodput.csv"))
    assert f"--mean-return {result['fitted']['mean_return_s']:.4g}s" in text


@pytest.mark.parametrize(("arguments", "said"), [
    ("--learners 0", "--learners = '0' cannot work; give a whole number"),
    ("--chips 4 --learners 5", "--learners = '5' cannot work; give at most one a chip (4)"),
    ("--chips -5", "chips = '-5'"), ("--chips 1.5", "chips = '1.5'"), ("--chips ,", "chips = ','"),
    ("--chips 2G", "chips = '2G'"),
    ("--chips 1.2.3k", "chips = '1.2.3k'"), ("--mtbi -1y", "mtbi = '-1y' cannot work; give more than 0"),
    ("--mtbi 0", "mtbi = '0' cannot work"), ("--mtbi 3", "mtbi = '3' cannot work"), ("--shrink -1s", "shrink = '-1s'"),
    ("--mean-return 1fortnight", "--mean-return = '1fortnight'"), ("--days 0", "days = 0.0"), ("--days nan", "days = nan"),
    ("--kind soft", "kind = 'soft' cannot work; choose one of rigid, elastic, decoupled"), ("--seeds 0", "seeds = 0"),
    ("--seed -1", "seed = -1"), ("--jobs -1", "jobs = -1"), ("--shape 0", "shape = 0.0"), ("--fit nowhere.csv", "nowhere.csv"),
    ("--slice-chips 0", "--slice-chips = 0"),
    ("--mean-return 1e300y", "--mean-return = '1e300y' cannot work; give 0 to 1e+12 seconds"), ("--mtbi 1s", "days = 30.0"),
])  # fmt: skip
def test_bad_input_is_one_clear_line(capsys, arguments, said):
    code, out, err = _run(capsys, *arguments.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err and "; " in err


@pytest.mark.parametrize(("text", "said"), [
    ("chips,kind\n", "no column 'learners'"), ("chips,learners,kind,goodput\n", "holds no figures"),
    ("chips,learners,kind,goodput\n1k,1,rigid,0.9\n1k,1,rigid,88\n", "line 3: goodput = '88'"),
    ("chips,learners,kind,goodput\n1k,,rigid,0.9\n", "line 2: learners = ''"),
    ("chips,learners,kind,goodput\n1k,1,soft,0.9\n", "given.csv, line 2: kind = 'soft' cannot work; choose one of"),
    ("chips,learners,kind,goodput\n1k,2k,rigid,0.9\n", "given.csv, line 2: learners = 2000 cannot work; give at most"),
    ("chips,learners,kind,goodput\n1k,1\n", "line 2: goodput = ''"),
])  # fmt: skip
def test_bad_tables(capsys, tmp_path, text, said):
    path = tmp_path / "given.csv"
    path.write_text(text)
    code, _, err = _run(capsys, "--fit", str(path))
    assert (code, err.count("\n")) == (2, 1) and said in err


# ---------------------------------------------------------------- how it ends


def _started() -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A long one, once its two processes are at work."""
    process = subprocess.Popen([sys.executable, "-m", "skerry.cli", "simulate", "goodput", *ENDLESS], start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        workers = [one for one in psutil.Process(process.pid).children() if one.cpu_times().user > 0.5]
        if len(workers) >= 2:
            return process, psutil.Process(process.pid).children()
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"it never got to work: {process.communicate()}")


@pytest.mark.processes
def test_ctrl_c_ends_it_at_once():
    process, workers = _started()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "skerry: interrupted; nothing of it is kept\n")
    assert not psutil.wait_procs(workers, timeout=30)[1]


@pytest.mark.processes
def test_its_processes_end_with_it():
    process, workers = _started()
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(workers, timeout=30)[1]
