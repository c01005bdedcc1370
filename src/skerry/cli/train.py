"""`skerry train`: a whole run on this machine, from the first process to the report."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from skerry.cli.options import Maybe, Shown, parse, start_from
from skerry.errors import RunDirError, SkerryError
from skerry.launch.local import Job, LocalRun
from skerry.recipe.data import Corpus, load_corpus
from skerry.recipe.tree import TrainConfig
from skerry.report.write import write_report

EXAMPLES = """
skerry train                                                   four learners, a small model, Python's own sources
skerry train --name mine --data ~/texts --recipe.model small   your text, a larger model, in runs/mine
skerry train --preset diloco --policy.steps 500                synchronous DiLoCo
skerry train --learners 4 --chaos "kill:2.trainer@30s stop:1@45s+20s kill:3.agent@80s"
skerry train --learners 3 --chaos "kill:syncer@30s cut:2@20s+5s halfopen:1@40s+30s"
skerry train --name mine --resume --policy.steps 2000          go on from the last snapshot
skerry train --config examples/demo.toml --force
"""


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a model on this machine: a syncer and several learners, from start to report.

    Everything a run writes is in its directory: config.toml (what it ran with), model/ (the trained model), summary.json,
    report.html and report.png. Ctrl-C saves the model and ends everything; a second one ends at once."""

    config: Maybe[Path] = None  # TOML file to start from; flags change single values of it
    preset: Maybe[str] = None  # policy to start from: decoupled, streaming or diloco
    name: Maybe[str] = None  # short for --syncer.run-dir runs/NAME
    force: bool = False  # remove the run's directory if it is there
    resume: bool = False  # go on with the run in its directory; its config.toml is where the options start from
    tree: Annotated[Shown[TrainConfig], tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


def main(arguments: list[str]) -> int:
    """The command."""
    command = read_command(arguments)
    config = replace(command.tree, recipe=command.tree.recipe.shared_by(command.tree.learners))
    corpus = load_corpus(config.recipe.data, config.recipe.context)
    run_dir = config.syncer.run_dir
    _prepare(run_dir, force=command.force, resume=command.resume)
    config.write(run_dir / "config.toml")
    run = LocalRun(job(config, resume=command.resume), config.launch, config.faults)
    try:
        run.run()
    except SkerryError:
        if (run_dir / "figures.json").exists():
            finish(run_dir, corpus)
        raise
    finish(run_dir, corpus)
    return 0


def read_command(arguments: list[str]) -> TrainCommand:
    """The command line over the file it names."""
    tree, rest = start_from(TrainConfig, arguments)
    default = TrainCommand(tree=tree, **rest)
    command = parse(TrainCommand, arguments, command="train", examples=EXAMPLES, default=default)
    syncer = replace(command.tree.syncer, resume=False)  # it is this start's and not the run's, so not for config.toml
    if command.name is not None:
        syncer = replace(syncer, run_dir=Path("runs") / command.name)
    resume = command.resume or command.tree.syncer.resume
    return replace(command, resume=resume, tree=replace(command.tree, syncer=syncer))


def job(config: TrainConfig, *, resume: bool) -> Job:
    """The command lines of a run's processes; each reads the run's own config.toml."""
    run_dir = config.syncer.run_dir
    this = (sys.executable, "-m", "skerry.cli")
    tree = ("--config", str(run_dir / "config.toml"))
    token = ("--token-file", str(config.syncer.token_file or run_dir / "token"))
    linked = config.faults.linked  # they know no other way to the syncer than the link that is struck
    syncer = (*this, "syncer", *tree)
    return Job(
        run_dir=run_dir, learners=config.learners,
        syncer=(*syncer, "--resume") if resume else syncer, resume=(*syncer, "--resume"),
        learner=lambda address, learner: (*this, "join", address, *tree, *token, "--id", str(learner),
                                          *(("--fixed",) if learner in linked else ())),
        evaluator=(sys.executable, "-m", "skerry.recipe.evaluate", str(run_dir)) if config.launch.evaluate else None,
    )  # fmt: skip


def _prepare(run_dir: Path, *, force: bool, resume: bool) -> None:
    """Make the run's directory. Raises RunDirError if it is there and that was not asked for, or the reverse."""
    if resume:
        if not (run_dir / "run").exists():
            raise RunDirError(f"{run_dir} holds no run to go on with", remedy="leave out --resume, or name another run")
        (run_dir / "figures.json").unlink(missing_ok=True)  # those of the earlier end; there will be new ones
        return
    if run_dir.exists():
        if not force:
            raise RunDirError(f"{run_dir} exists already",
                              remedy="--resume goes on with it, --force removes it, --name NAME takes another")  # fmt: skip
        if any(run_dir.iterdir()) and not (run_dir / "config.toml").exists():
            raise RunDirError(f"{run_dir} does not look like a run, so --force does not remove it",
                              remedy="name another directory")  # fmt: skip
        shutil.rmtree(run_dir)
    run_dir.mkdir(parents=True)


def finish(run_dir: Path, corpus: Corpus) -> None:
    """Summary and report, and the last lines on the terminal."""
    written = write_report(run_dir, corpus.sha256)
    print(written.text)
