"""Scavenging: by hand where nothing is random, by renewal theory where it is, and `skerry simulate scavenging`."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.cli import main
from skerry.cli.simulate.scavenging import ScavengingCommand, fleet_of
from skerry.errors import ConfigError
from skerry.simulate.scavenging import PUBLISHED, Fleet, decoupled, elastic

BASE_S = 1e6
FOREVER = 1e15


def fleet(**changes):
    """A million seconds of the base, in ten cycles; nobody goes before its window ends."""
    return Fleet(**{"tokens": 8e6, "rate": 1.0, "learners": 8, "window_s": 1e5, "stay_s": FOREVER, "join_s": 0.0, **changes})


def test_half_the_tokens_at_double_speed():
    assert decoupled(fleet(share=1.0)).seconds == pytest.approx(0.75 * BASE_S)
    assert decoupled(fleet(share=3.0, offered=0.4)).seconds == pytest.approx((0.6 + 0.4 / 4) * BASE_S)


def test_half_the_time_at_double_speed():
    # a cycle of 1e5 s makes 1.5e5 s of the base's work: six cycles, 5e4 s without and 2.5e4 s with them
    assert decoupled(fleet(share=1.0, clock="time")).seconds == pytest.approx(6e5 + 5e4 + 2.5e4)


def test_weaker_learners_bring_less():
    assert decoupled(fleet(share=1.0, offered=1.0, efficiency=0.5)).seconds == pytest.approx(BASE_S / 1.5)


def test_who_comes_works_after_joining():
    # 60 s of each of ten windows are lost to joining, in which the base alone works
    late = decoupled(fleet(share=1.0, join_s=60.0))
    assert late.seconds == pytest.approx(0.75 * BASE_S + 10 * 60 / 2) and late.changes == 80


def test_elastic_stalls_when_a_window_begins_and_ends():
    # windows begin and end at checkpoints here, the last one with the run: 19 stalls
    outcome = elastic(fleet(share=1.0, stall_s=700.0, checkpoint_s=500.0))
    assert outcome.changes == 19 and outcome.stalled == 19 * 700
    assert outcome.seconds == pytest.approx(0.75 * BASE_S + 19 * 700)


def test_elastic_takes_newcomers_up_at_the_checkpoint():
    # a window begins 100 s before a checkpoint: so long they stand by
    outcome = elastic(fleet(share=1.0, offered=0.501, clock="time", tokens=8 * 9e4, stall_s=0.0, checkpoint_s=1e4))
    assert outcome.changes == 1 and outcome.seconds == pytest.approx(5e4 + (9e4 - 5e4) / 2)


@given(st.floats(0, 4), st.floats(0, 1), st.sampled_from(("time", "tokens")), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_without_stalls_and_joining_both_are_the_same(share, offered, clock, seed):
    # but for who is taken away and is replaced at the next checkpoint only: so nobody is
    one = fleet(share=share, offered=offered, clock=clock, seed=seed, stall_s=0.0, checkpoint_s=0.0)
    assert elastic(one).seconds == pytest.approx(decoupled(one).seconds, rel=1e-9)


@given(st.floats(0, 4), st.floats(0, 1), st.floats(100, 1e5), st.floats(0, 1e4), st.sampled_from((0.0, 600.0, 7e3)))
@settings(max_examples=40, deadline=None)
def test_decoupled_is_never_slower_than_the_base_and_nothing_is_faster_than_all_of_it(share, offered, stay, join, checkpoint):
    one = fleet(tokens=8e4, window_s=1e3, share=share, offered=offered, stay_s=stay, join_s=join, checkpoint_s=checkpoint)
    free, held = decoupled(one), elastic(one)
    assert one.base_s / (1 + share) * (1 - 1e-9) <= free.seconds <= one.base_s * (1 + 1e-9)
    assert held.seconds - held.stalled >= one.base_s / (1 + share) * (1 - 1e-9)


def test_decoupled_in_the_long_run_as_renewal_theory_has_it():
    # a place is productive for E[max(0, stay - join)] of E[stay] seconds, stay being exponential
    one = fleet(share=1.0, offered=1.0, stay_s=1000.0, join_s=500.0)
    assert decoupled(one).seconds == pytest.approx(BASE_S / (1 + math.exp(-0.5)), rel=0.01)


def test_elastic_in_the_long_run_as_renewal_theory_has_it():
    # 8 members that stay 8000 s: somebody is gone after 600 s with 1 - exp(-0.6); then all stall for 900 s
    one = fleet(share=1.0, offered=1.0, stay_s=8000.0, stall_s=900.0, checkpoint_s=600.0)
    present = (1 - math.exp(-600 / 8000)) / (600 / 8000)
    stalls = 900 / 600 * (1 - math.exp(-8 * 600 / 8000))
    assert elastic(one).seconds == pytest.approx(BASE_S / (1 + present) * (1 + stalls), rel=0.02)
    # at once: a member goes every 1000 s of training
    assert elastic(fleet(share=1.0, offered=1.0, stay_s=8000.0, stall_s=900.0, checkpoint_s=0.0)).seconds == pytest.approx(
        BASE_S / 2 * 1.9, rel=0.03)  # fmt: skip


def test_the_defaults_come_near_the_published_table():
    for share, figures in PUBLISHED.items():
        for seed in range(3):
            one = Fleet(share=share, seed=seed)
            found = (decoupled(one).seconds / one.base_s, elastic(one).seconds / one.base_s)
            assert found == pytest.approx(figures, rel=0.03)


def test_equal_seeds_give_equal_runs():
    one, other = Fleet(tokens=1e11), Fleet(tokens=1e11, seed=1)
    assert decoupled(one) == decoupled(one) and elastic(one) == elastic(one)
    assert decoupled(one) != decoupled(other) and elastic(one) != elastic(other)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("tokens", 0.0, "above 0"), ("rate", -1.0, "above 0"), ("stay_s", 0.0, "above 0"), ("window_s", math.nan, "above 0"),
        ("share", -0.5, "0 or more"), ("join_s", -1.0, "0 or more"), ("stall_s", math.inf, "0 or more"),
        ("checkpoint_s", -1.0, "0 or more"), ("offered", 1.5, "0 to 1"), ("efficiency", -0.1, "0 to 1"),
        ("learners", 0, "1 or more"), ("extra_learners", 0, "1 or more"), ("clock", "sun", "time, tokens"),
        ("seed", -1, "0 or more"), ("tokens", 1e20, "at most"),
    ],
)  # fmt: skip
def test_a_fleet_that_cannot_be(field, value, allowed):
    with pytest.raises(ConfigError) as error:
        Fleet(**{field: value})
    assert f"{field} = {value!r}" in error.value.message and allowed in error.value.remedy


def test_more_checkpoints_than_can_be_gone_through_are_an_error():
    with pytest.raises(ConfigError) as error:
        Fleet(checkpoint_s=1e-6)
    assert "checkpoint_s = 1e-06" in error.value.message and "checkpoints are too many" in error.value.remedy


# ---------------------------------------------------------------------- the command


def run(capsys, *arguments):
    code = main(["simulate", "scavenging", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_json_is_one_line_a_row_for_each_share(capsys):
    code, out, _ = run(capsys, "--json", "--runs", "2", "--shares", "0", "1")
    rows = json.loads(out)["rows"]
    assert code == 0 and out.count("\n") == 1
    assert [row["share"] for row in rows] == [0, 1] and rows[0]["decoupled"] == rows[0]["data_parallel"] == 1
    assert rows[1]["decoupled"] < rows[1]["data_parallel"] and rows[1]["extra_learners"] == 8


def test_the_options_defaults_are_the_fleets():
    for share in (0.25, 3.0):
        assert fleet_of(ScavengingCommand(), share) == Fleet(share=share)


def test_published_stands_beside_the_shares_that_it_has(capsys):
    _, out, _ = run(capsys, "--json", "--runs", "1", "--published", "--shares", "0.5,0.7")
    known, unknown = json.loads(out)["rows"]
    assert (known["published_decoupled"], known["published_data_parallel"]) == PUBLISHED[0.5]
    assert known["off"] < 0.05 and unknown["off"] is None


def test_out_has_all_three_forms(capsys, tmp_path):
    code, out, _ = run(capsys, "--runs", "1", "--tokens", "1e11", "--published", "--out", str(tmp_path))
    assert code == 0 and "time relative to that" in out
    assert len((tmp_path / "scavenging.csv").read_text().splitlines()) == 5
    assert len(json.loads((tmp_path / "scavenging.json").read_text())["rows"]) == 4
    assert (tmp_path / "scavenging.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--shares -1", "--shares = '-1' cannot work; give 0 or more"),
        ("--learners 0", "--learners = 0 cannot work; give a whole number, 1 or more"),
        ("--rate -3", "--rate = '-3' cannot work; give a number above 0"),
        ("--offered 2", "--offered = 2.0 cannot work; give a share, 0 to 1"),
        ("--tokens 1e22", "--tokens = '1e22' cannot work; 1e+16 s with"),
        ("--stay=-5min", "--stay = '-5min' cannot work; give more than 0 with its unit"),
        ("--stall 7", "--stall = '7' cannot work; give 0 or more with its unit"),
        ("--shares 1,1e6", "--shares = '1,1e6' cannot work; 1e+06 s with"),
        ("--window 1ms", "--window = '1ms' cannot work; 1e+06 s with"),
        ("--stay 1ms", "--stay = '1ms' cannot work; 1e+06 s with"),
        ("--checkpoint 1ms", "--checkpoint = '1ms' cannot work; 1e+06 s with"),
        ("--extra-learners 100000000", "--extra-learners = 100000000 cannot work; 1e+06 s with"),
        ("--extra-learners 100000000 --stay 1000000y", "--extra-learners = 100000000 cannot work; 1e+06 s with"),
        ("--runs 0", "--runs = 0 cannot work; give 1 to 1000"),
    ],
)
def test_bad_input_gets_one_line(capsys, arguments, line):
    code, out, err = run(capsys, *arguments.split())
    assert code == 2 and not out
    assert err.startswith("skerry: ") and err.count("\n") == 1 and line in err
