"""Whatever tyro refuses is one line: the option, its value, what is allowed; and --help says nothing that is not so."""

from __future__ import annotations

import pytest

from skerry.cli import main


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("lab --learners abc", "--learners = 'abc' cannot work; give a whole number"),
        ("lab --steps=1e3", "--steps = '1e3' cannot work; give a whole number"),
        ("lab --steps --json", "--steps has no value; give a whole number"),
        ("lab --lr 1 --lr x", "--lr = 'x' cannot work; give a number"),
        ("lab --model huge", "--model = 'huge' cannot work; choose one of nano, tiny, small"),
        ("lab --method None", "--method = 'None' cannot work; choose one of decoupled, streaming, diloco, data-parallel"),
        ("lab --learner 3", "lab has no option --learner; did you mean --learners or --lr? skerry lab --help tells all"),
        ("lab --qqqqqqqq=3", "lab has no option --qqqqqqqq; skerry lab --help tells all"),
        ("lab x y", "lab takes no argument 'x' here; skerry lab --help tells what it takes"),
        ("lab sweep", "lab sweep needs FILE: TOML file that describes the sweep; skerry lab sweep --help tells more"),
        ("simulate goodput --seeds 1.5", "--seeds = '1.5' cannot work; give a whole number"),
        ("simulate goodput --law foo", "--law = 'foo' cannot work; choose one of constant, exponential, weibull"),
        ("simulate bandwidth --step-s 5s", "--step-s = '5s' cannot work; give a number"),
        ("simulate bandwidth --codec_up x", "--codec_up = 'x' cannot work; choose one of fp32, bf16"),
        ("plan --qqqqqqqq", "plan has no option --qqqqqqqq; skerry plan --help tells all"),
        ("plan", "plan needs FLEET: TOML file with the model, the sites and the goal; skerry plan --help tells more"),
        ("join", "join needs HOST:PORT: the syncer's address; skerry join --help tells more"),
        ("join x:1", "join needs --token-file: file with the run's token; skerry join --help tells more"),
        ("train --learner 3",
         "train has no option --learner; did you mean --learners or --learner.shm-dir or --syncer.max-learners? "
         "skerry train --help tells all"),
        ("train --recipe.betas 1", "--recipe.betas = '1' cannot work; give 2 values apart by spaces, each a number"),
        ("syncer --policy.merge foo", "--policy.merge = 'foo' cannot work; choose one of rda, direct"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong(command, says, capsys):
    assert main(command.split()) == 2
    assert capsys.readouterr() == ("", f"skerry: {says}\n")


@pytest.mark.parametrize("command", ["lab", "simulate bandwidth", "simulate goodput", "train", "syncer"])
def test_help_offers_no_none(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    options = capsys.readouterr().out.partition("╭")[2]
    assert ended.value.code == 0 and "{None" not in options
    assert command in ("train", "syncer") or "(default: None)" not in options  # what is none in their tree is none
