"""`skerry lab sweep`: what a file comes to, what a run's key depends on, and that no run is made twice."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import skerry
from skerry.cli import main
from skerry.core.policy import Policy
from skerry.errors import ConfigError
from skerry.lab.sweep import Cell, Sweep
from skerry.lab.table import Outcome, rows_csv, table
from skerry.recipe.sweep import plan

CODE = Path(skerry.__file__).parent
BASE = """
[base]
learners = 2
evals = 2
policy = {steps = 6, fragments = 4, interval = 4}
recipe = {context = 16, batch = 1, eval_windows = 4, data = ["text.txt"]}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of our own with a little data, to which the sweeps' paths are relative."""
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _sweep(text: str) -> Sweep:
    return Sweep.read(tomllib.loads(text), "sweep.toml", {"learners": "world.learners"})


def _keys(text: str, code: Path = CODE) -> list[str]:
    return [one.key for one in plan(_sweep(f'name = "x"\n{text}'), code)]


# ---------------------------------------------------------------- what it comes to


def test_runs_times_grid_times_seeds():
    cells = list(_sweep("""
name = "x"
seeds = [0, 3]
base.method = "diloco"
grid = {learners = [2, 4], "policy.outer_lr" = [0.5, 0.7]}
runs = [{label = "a"}, {label = "b", recipe.lr = 1e-3, method = "streaming"}]
""").cells())  # fmt: skip
    assert (len(cells), len({cell.label for cell in cells})) == (16, 8)
    assert cells[0] == Cell(label="a learners=2 outer_lr=0.5", seed=0, varied={"world.learners": 2, "policy.outer_lr": 0.5},
                            values={"method": "diloco", "world.learners": 2, "policy.outer_lr": 0.5})  # fmt: skip
    assert (cells[1].label, cells[1].seed) == (cells[0].label, 3)
    assert cells[-1].label == "b learners=4 outer_lr=0.7"
    assert cells[-1].values == {"method": "streaming", "world.learners": 4, "policy.outer_lr": 0.7, "recipe.lr": 1e-3}


def test_without_grid_and_runs_it_is_the_base():
    assert [(c.label, c.seed, c.values) for c in _sweep('name = "x"\nseeds = [1]\nbase.evals = 3').cells()] \
        == [("x", 1, {"evals": 3})]  # fmt: skip


def test_keys_with_the_same_last_part_are_told_apart():
    cells = _sweep('name = "x"\ngrid = {recipe.lr = [1], policy.steps = [2], world.steps = [[3, 4]]}').cells()
    assert [cell.label for cell in cells] == ["lr=1 policy.steps=2 world.steps=3,4"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nme = 'x'", "unknown key nme = 'x'; allowed are name, seeds, base, grid, runs"),
        ("seeds = [0]", "name = ''"),
        ("name = '../x'", "name = '../x'"),
        ("name = 'x'\nseeds = 3", "seeds = 3"),
        ("name = 'x'\nseeds = [1, 1]", "seeds = [1, 1]"),
        ("name = 'x'\nseeds = [true]", "seeds = [True]"),
        ("name = 'x'\ngrid = 3", "grid = 3 is no table"),
        ("name = 'x'\ngrid.evals = 3", "[grid] evals = 3; give a list"),
        ("name = 'x'\ngrid.evals = [3, 3]", "has a value twice"),
        ("name = 'x'\nruns = 3", "runs = 3 are no tables"),
        ("name = 'x'\nruns = [{evals = 3}]", "[[runs]] label = None"),
        ("name = 'x'\nruns = [{label = 'a'}, {label = 'a'}]", "[[runs]] label = 'a'"),
        ("name = 'x'\ngrid.evals = [3]\nruns = [{label = 'a', evals = 4}]", "evals is in [grid] and in run 'a'"),
        (
            "name = 'x'\ngrid = {learners = [2, 3], world.learners = [2]}",
            "[grid]: learners = [2, 3] and world.learners = [2] are one key; give it once",
        ),
        ("name = 'x'\nbase = {learners = 2, world.learners = 3}", "[base]: learners = 2 and world.learners = 3 are one key"),
        (
            "name = 'x'\nruns = [{label = 'a', learners = 2, world.learners = 2}]",
            "run 'a': learners = 2 and world.learners = 2 are",
        ),
        (
            "name = 'x'\ngrid.learners = [3]\nruns = [{label = 'a', world.learners = 4}]",
            "world.learners is in [grid] and in run 'a'",
        ),
        ("name = 'x'\nbase.seed = 3", "seed = 3 is not for a part of a sweep"),
    ],
)
def test_what_a_sweep_cannot_be(text, says):
    with pytest.raises(ConfigError) as error:
        _sweep(text)
    assert says in str(error.value)
    assert str(error.value).startswith("sweep.toml: ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("grid.policy.outer_rl = [0.1]", ["unknown key policy.outer_rl = 0.1", "allowed in [policy]", "run 'outer_rl=0.1'"]),
        ("grid.'policy.outer_lr' = [0.1, -1]", ["policy.outer_lr = -1.0 cannot work", "run 'outer_lr=-1'"]),
        ("runs = [{label = 'a', method = 'all'}]", ["method = 'all'", "run 'a'"]),
        ("runs = [{label = 'a', method = 'data-parallel'}]", ["policy.", "data-parallel has no policy", "run 'a'"]),
        ("runs = [{label = 'a', policy.fragments = 900}]", ["policy.fragments = 900 is more than the 39", "run 'a'"]),
        (
            "grid.recipe.model = ['small', 'nano']\ngrid.learners = [9000]",
            ["learners = 9000 with the small model need about 1,8", "GB of memory", "run 'model=small learners=9000'"],
        ),
        ("grid.learners = [4, 'two']", ["world.learners = 'two' has the wrong type", "run 'learners=two'"]),
    ],
)
def test_every_run_is_checked_before_the_first_begins(here, text, says, capsys):
    (here / "sweep.toml").write_text(f'name = "x"\n{text}\n{BASE}')
    assert main(["lab", "sweep", "sweep.toml", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert [part for part in ["sweep.toml", *says] if part not in error] == []
    assert not (here / "out").exists()


@pytest.mark.parametrize(("data", "says"), [
    ("none.txt", "no such file or folder: none.txt (in run 'a'); correct the path given with recipe.data"),
    ("/dev/zero", "/dev/zero is neither a file nor a folder (in run 'a'); name files or folders that hold text"),
])  # fmt: skip
def test_data_that_cannot_be_read_names_the_run(here, data, says, capsys):
    (here / "sweep.toml").write_text(f"name = 'x'\nruns = [{{label = 'a', recipe.data = ['{data}']}}]")
    assert main(["lab", "sweep", "sweep.toml", "--dry-run"]) == 3
    assert capsys.readouterr().err == f"skerry: sweep.toml: {says}\n"


# ---------------------------------------------------------------- what a key depends on


def test_a_key_is_the_settled_configuration():
    default = Policy().outer_lr
    keys = _keys(f"seeds = [0, 1]\ngrid = {{policy.outer_lr = [{default}, 0.9]}}\n{BASE}")
    assert len(set(keys)) == 4
    assert _keys(BASE)[0] == keys[0], "that is what it would be anyway"
    assert _keys(f"runs = [{{label = 'other', world = {{learners = 2}}}}]\n{BASE}")[0] == keys[0]
    assert _keys(f"runs = [{{label = 'x', world = {{jitter = 0}}}}]\n{BASE}")[0] == keys[0]


def test_a_key_is_what_the_data_holds_wherever_it_lies(here):
    before = _keys(BASE)
    (here / "elsewhere").mkdir()
    (here / "text.txt").rename(here / "elsewhere/text.txt")
    assert _keys(BASE.replace("text.txt", "elsewhere/text.txt")) == before
    (here / "text.txt").write_text("another text. " * 300)
    assert _keys(BASE) != before


def test_a_key_changes_with_the_code_of_a_dependency_but_not_with_a_comment(here):
    code = here / "skerry"
    shutil.copytree(CODE, code, ignore=shutil.ignore_patterns("__pycache__"))
    baseline = "method = 'data-parallel'\npolicy = {steps = 6}\n"
    policies, before = BASE, _keys(BASE)
    parallel = BASE.replace("[base]", f"[base]\n{baseline}").replace("policy = {steps = 6, fragments = 4, interval = 4}", "")
    before_parallel = _keys(parallel)
    with (code / "core/rounds.py").open("a") as file:
        file.write("\n# a comment\n")
    assert _keys(policies, code) == before
    with (code / "core/rounds.py").open("a") as file:
        file.write("\nMORE = 1\n")
    assert _keys(policies, code) != before
    assert _keys(parallel, code) == before_parallel, "the baseline has no rounds"
    with (code / "recipe/model.py").open("a") as file:
        file.write("\nMORE = 1\n")
    assert _keys(parallel, code) != before_parallel


@pytest.mark.processes
def test_a_key_is_the_same_in_every_process(here):
    (here / "sweep.toml").write_text(f'name = "x"\n{BASE}')
    command = [sys.executable, "-m", "skerry.cli", "lab", "sweep", "sweep.toml", "--dry-run"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=here).stdout.splitlines()
    assert [line.split() for line in shown] == [[_keys(BASE)[0][:12], "to", "do", "x", "seed", "0"],
                                                ["1", "runs,", "0", "of", "them", "done"]]  # fmt: skip


# ---------------------------------------------------------------- running them


@pytest.mark.processes
def test_what_is_finished_is_not_made_again_and_what_failed_is(here, capsys, monkeypatch):
    runs = "runs = [{label = 'good'}, {label = 'bad', world.faults = 'leave:0@1s leave:1@1s'}]\n"  # nobody is left
    (here / "sweep.toml").write_text(f'name = "x"\n{runs}{BASE}')
    assert main(["lab", "sweep", "sweep.toml", "--out", "out"]) == 1
    said = capsys.readouterr()
    assert "bad seed 0 failed: the run came to a standstill" in said.err
    assert "1 of 2 runs failed; the same command tries them again" in said.err
    result = next((here / "out/runs").glob("*.json"))
    assert json.loads(result.read_text())["tokens"]["processed"] > 0
    assert said.out.splitlines()[1].split()[:2] == ["good", "1"]
    assert (here / "out/x.png").read_bytes()[:4] == b"\x89PNG"
    first = (result.stat().st_ino, result.stat().st_mtime_ns)

    assert main(["lab", "sweep", "sweep.toml", "--out", "out"]) == 1
    said = capsys.readouterr().err
    assert "1 of 2 runs are there already" in said
    assert "bad seed 0 failed" in said

    # Another sweep that comes to the same run takes it as it is; without matplotlib all but the picture.
    (here / "other.toml").write_text(f'name = "other"\n{BASE}')
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["lab", "sweep", "other.toml", "--out", "out"]) == 0
    said = capsys.readouterr().err
    assert "1 of 1 runs are there already" in said
    assert "the picture needs matplotlib" in said
    row = next(csv.DictReader((here / "out/other.csv").open()))
    assert (row["label"], row["key"], row["steps"]) == ("other", result.stem, "6")
    assert (result.stat().st_ino, result.stat().st_mtime_ns) == first


@pytest.mark.processes
def test_ctrl_c_keeps_what_is_finished(here):
    runs = "runs = [{label = 'quick'}, {label = 'endless', policy.steps = 1000000000}]\n"
    (here / "sweep.toml").write_text(f'name = "x"\n{runs}{BASE}')
    command = [sys.executable, "-m", "skerry.cli", "lab", "sweep", "sweep.toml", "--out", "out", "--jobs", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _until(lambda: _stems("log") - _stems("json") and _stems("json"), process)
        children = psutil.Process(process.pid).children()
        process.send_signal(2)
        assert process.wait(30) == 130
        assert psutil.wait_procs(children, timeout=20)[1] == []
    finally:
        process.kill()
        output, said = process.communicate()
    assert said.splitlines()[-1] == "skerry: interrupted; 1 of 2 runs are finished and kept, the same command goes on"
    assert ("Traceback" in said, output, len(list(here.glob("out/runs/*.json")))) == (False, "", 1)
    assert list(here.glob("out/runs/*.log")) == []


def _stems(kind: str) -> set[str]:
    return {path.stem for path in Path("out/runs").glob(f"*.{kind}") if not path.name.startswith(".")}


def _until(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until and process.poll() is None
        try:
            process.wait(0.02)
        except subprocess.TimeoutExpired:
            pass


# ---------------------------------------------------------------- what came of it


def _outcome(label: str, seed: int, loss: float | None, varied: dict | None = None) -> Outcome:
    curve = [[1, 10, 1.0, 5.0], [2, 20 + seed, 2.0, loss]]
    result = {"eval_loss": loss, "goodput": 0.5, "mean_contributors": 1.5, "rounds": 7,
              "tokens": {"processed": 20, "lost": {"died": 2}}, "eval_curve": curve, "config": {"evals": 2}}  # fmt: skip
    cell = Cell(label=label, seed=seed, values=varied or {}, varied=varied or {})
    return Outcome(cell=cell, key=f"{label}{seed}", result=result)


def test_the_table_is_best_first_and_diverged_last():
    outcomes = [_outcome("bad", 0, 1.0), _outcome("bad", 1, None), _outcome("fair", 0, 2.0), _outcome("fair", 1, 3.0),
                _outcome("good", 0, 1.5)]  # fmt: skip
    assert [line.split() for line in table(outcomes).splitlines()[1:]] == [
        ["good", "1", "1.5000", "-", "0.0000", "0.500", "1.50"],
        ["fair", "2", "2.5000", "0.7071", "1.0000", "0.500", "1.50"],
        ["bad", "2", "diverged", "-", "diverged", "0.500", "1.50"],
    ]


def test_what_went_wrong_in_a_run_is_said_below_the_table():
    nothing, died, fine = (_outcome(label, 3, 2.0) for label in ("nothing", "died", "fine"))
    nothing.result.update(rounds=0, tokens={"processed": 20, "lost": {"refused": 16, "died": 4}})
    died.result.update(tokens={"processed": 20, "lost": {"died": 11, "overlap": 2}})
    fine.result.update(tokens={"processed": 20, "lost": {"overlap": 19}})
    assert table([nothing, died, fine]).splitlines()[4:] == [
        "! nothing, seed 3: no round was merged; tokens lost: 80 % refused, 20 % died",
        "! died, seed 3: tokens lost: 55 % died",
    ]


def test_the_csv_has_a_row_a_run_and_every_figure():
    rows = list(csv.DictReader(rows_csv([_outcome("a", 0, 1.0, {"policy.grace": 0.5}), _outcome("b", 1, None)]).splitlines()))
    figures = {"goodput": "0.5", "mean_contributors": "1.5", "rounds": "7", "tokens.processed": "20", "tokens.lost.died": "2"}
    assert rows[0] == {"label": "a", "seed": "0", "policy.grace": "0.5", "eval_loss": "1.0", **figures, "key": "a0"}
    assert rows[1] == {"label": "b", "seed": "1", "policy.grace": "", "eval_loss": "", **figures, "key": "b1"}


def test_two_numeric_axes_are_a_heat_map():
    from skerry.report.pictures.sweep import draw

    sweep = _sweep('name = "x"\nseeds = [0, 1]\ngrid = {a = [1, 2], b = [0.5]}')
    outcomes = [_outcome(cell.label, cell.seed, 2.0 if cell.seed else None, cell.varied) for cell in sweep.cells()]
    single = _sweep('name = "x"\nseeds = [0, 1]\ngrid = {a = [1, 2], b = ["c"]}')
    assert _width(draw(sweep, outcomes)) > _width(draw(single, outcomes)) > 0


def _width(png: bytes) -> int:
    assert png[:4] == b"\x89PNG"
    return int.from_bytes(png[16:20], "big")


def test_a_run_that_diverged_does_not_flatten_the_others(monkeypatch):
    from skerry.report.pictures import sweep as lab_picture

    limits = []
    monkeypatch.setattr(lab_picture, "png", lambda figure: limits.extend(figure.axes[0].get_ylim()))
    lab_picture.draw(_sweep('name = "x"'), [_outcome("a", 0, 2.0), _outcome("b", 0, 3.0), _outcome("c", 0, 1e9)])
    assert 1.9 < limits[0] < 2.0 and 5.0 < limits[1] < 7.0


def test_whether_the_gap_closes_is_said_in_words():
    from benchmarks._table import Row
    from benchmarks.quality import closing

    gaps = {4: (3.6, 3.1, 2.0), 8: (4.4, 3.4, 3.8)}
    rows = [
        Row(f"M={m}: above data-parallel at step {1000 * (i + 1)}", gap, "%") for m in gaps for i, gap in enumerate(gaps[m])
    ]
    assert "M = 4: yes (3.6, 3.1, 2.0 %); M = 8: no, not steadily (4.4, 3.4, 3.8 %)." in closing(rows)
