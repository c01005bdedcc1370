"""Plans: figures by hand, which choice is taken, what limits it; and `skerry plan`, whose config.toml loads."""

import csv
import json
import math
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.cli import main
from skerry.cli.plan import EXAMPLES
from skerry.config.toml import read
from skerry.config.tree import load
from skerry.errors import ConfigError
from skerry.recipe.tree import TrainConfig
from skerry.report.pictures.plan import picture
from skerry.simulate.advice import front, limits, neighbours, one_more, take, why_not, why_not_decoupled
from skerry.simulate.fleet import ChoicesPart, Fleet, GoalPart, ModelPart, Site, SyncerPart, read_fleet
from skerry.simulate.goodput import Job, simulate
from skerry.simulate.plan import DAY, METHODS, NEAR, Choice, Planner
from skerry.simulate.returns import Returns
from skerry.simulate.rounds import simulate_rounds
from skerry.world.world import World

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fleet.toml"
NEVER = 1e15  # hours: no chip fails
# 6e9 flops a token, a million tokens a step, 10 chips of 100 TFLOP/s: 6 s a step
MODEL = ModelPart(params=1e9, tokens=1e12, batch=1e6)
ONE = ChoicesPart(learners_per_site=(1,))


def site(name="a", **changes):
    return Site(**{"name": name, "chips": 10, "speed": 100.0, "price": 2.0, "mtbi": NEVER, **changes})


def fleet(*sites, **changes):
    return Fleet(**{"model": MODEL, "sites": sites or (site(),), "choices": ONE, **changes})


def taken(*sites, **changes):
    """The plan of that fleet."""
    planner = Planner(fleet(*sites, **changes))
    return take(planner, planner.choices())


def only(planner, name="decoupled", per_site=1):
    """The choice of all sites."""
    choice = planner.evaluate(name, planner.fleet.sites, per_site)
    assert choice is not None
    return choice


def test_time_is_tokens_over_speed_and_cost_is_chips_for_that_time():
    alone = only(Planner(fleet()))
    assert alone.days == pytest.approx(1e12 / (1e6 / 6) / DAY)
    assert alone.cost == pytest.approx(alone.days * 24 * 10 * 2)
    both = only(Planner(fleet(site(), site("b", chips=30, price=1.0))))
    assert both.days == pytest.approx(alone.days / 4)
    assert both.cost == pytest.approx(both.days * 24 * (10 * 2 + 30 * 1))


def test_a_site_that_is_there_half_of_the_time_does_and_costs_half():
    full, half = only(Planner(fleet())), only(Planner(fleet(site(availability=0.5))))
    assert half.days == pytest.approx(2 * full.days) and half.cost == pytest.approx(full.cost)


def test_goodput_is_that_of_simulate_goodput():
    one = site(chips=64, mtbi=10.0, back=3600.0)
    expected = simulate(Job(chips=64, learners=2, mtbi=36000.0, days=2000 / (32 / 10 * 24), slice_chips=8,
                            returns=Returns(mean=3600.0)), 0).goodput  # fmt: skip
    choices = replace(ONE, learners_per_site=(2,))
    choice = only(Planner(fleet(one, choices=choices)), per_site=2)
    assert choice.goodput == expected < 0.8
    perfect = only(Planner(fleet(replace(one, mtbi=NEVER), choices=choices)), per_site=2)
    assert choice.days == pytest.approx(perfect.days / expected)


def test_the_smallest_interval_that_the_link_carries_with_headroom():
    # a step of 6 s; H = 24: 1e9 * 32 bit down in 144 s are 0.2222 Gbit/s, of which 80 % may be used
    for bandwidth, interval, codec in ((280, 24, "fp32"), (276, 24, "bf16"), (140, 24, "bf16"), (138, 48, "bf16")):
        policy = only(Planner(fleet(site(link=f"1ms,{bandwidth}Mbit")))).policy
        assert (policy.interval, policy.codec_down) == (interval, codec), bandwidth


def test_learners_of_one_site_share_its_link():
    # half as many rounds a second, for twice as many learners
    two = replace(ONE, learners_per_site=(2,))
    for bandwidth, codec in ((280, "fp32"), (276, "bf16")):
        choice = only(Planner(fleet(site(link=f"1ms,{bandwidth}Mbit"), choices=two)), per_site=2)
        assert choice.policy.codec_down == codec
    assert choice.traffic == pytest.approx(16e9 / 144)


def test_the_syncers_link_is_shared_by_all():
    sites = [site(name) for name in "abcd"]  # 4 * 0.2222 Gbit/s
    assert only(Planner(fleet(*sites, syncer=SyncerPart(link="0s,1.2Gbit")))).policy.codec_down == "fp32"
    planner = Planner(fleet(*sites, syncer=SyncerPart(link="0s,1.1Gbit")))
    choice = only(planner)
    assert choice.policy.codec_down == "bf16" and choice.syncer == pytest.approx(4 * choice.traffic)
    assert "the syncer's link" in limits(planner, choice)


def test_the_overlap_gives_the_slowest_time_to_answer():
    # its step takes three of the fastest's: more than an overlap of 2, and 24 / 8 = 3 is not among the overlaps
    planner = Planner(fleet(site(), site("slow", chips=3)))
    choice = only(planner)
    assert (choice.policy.interval, choice.policy.overlap) == (48, 4)
    assert "slow would need steps of less than 12 s, the overlap of 2, instead of 20 s" in limits(planner, choice)


def test_what_is_overwritten_is_not_kept():
    # no latency, no limit: a take-over one step after the hand-over, every 24
    assert only(Planner(fleet())).kept == pytest.approx(1 - 1 / 24)


def test_what_sites_keep_counts_by_what_they_compute():
    # a has steps of 6 s and takes over one after the hand-over, 6 s of 24 * 6; b has steps of 12 s and takes over after 12,
    # but it is a third of the work
    choice = only(Planner(fleet(site(), site("b", chips=5), choices=replace(ONE, overlaps=(3,)))))
    assert (choice.policy.interval, choice.policy.overlap) == (24, 3)
    assert choice.kept == pytest.approx(1 - (2 / 3 * 6 + 1 / 3 * 12) / (24 * 6))


def test_one_job_on_two_sites_has_the_failures_of_both():
    # 64 chips of 10 hours fail 6.4 times an hour, 128 of 40 hours 3.2 times: 192 chips of 20 hours each; slices and returns
    # are those of the first
    sites = site(chips=64, mtbi=10.0, back=1800.0, slice_chips=4), site("b", chips=128, mtbi=40.0, back=60.0, slice_chips=16)
    expected = simulate(Job(chips=192, learners=1, kind="elastic", mtbi=72000.0, days=2000 / (192 / 20 * 24), slice_chips=4,
                            returns=Returns(mean=1800.0)), 0).goodput  # fmt: skip
    planner = Planner(fleet(*sites))
    for name in ("data-parallel", "diloco"):
        assert only(planner, name).goodput == pytest.approx(expected) and expected < 0.9


def test_synchronous_methods_wait_for_the_slowest_and_for_its_link():
    planner = Planner(fleet(site(), site("slow", chips=5)))
    assert only(planner, "diloco").days == pytest.approx(1e12 / (2 * 1e6 / 12) / DAY)
    narrow = Planner(fleet(site(), site("slow", chips=5, link="1s,100Mbit")))
    choice = only(narrow, "diloco")
    # H = 384, in 4608 s: 16e9 bit up and down at 80 Mbit/s, twice a second of latency
    assert (choice.policy.interval, choice.policy.codec_down) == (384, "bf16")
    assert choice.utilisation == pytest.approx(4608 / (4608 + 200 + 200 + 2))
    assert choice.days == pytest.approx(only(planner, "diloco").days / choice.utilisation)
    assert "the speed of slow" in limits(narrow, choice)


@pytest.mark.parametrize(
    ("sites", "syncer", "line"),
    [
        ([site(link="1ms,5Mbit")], "", "the bandwidth of a's link, for which all wait 7"),
        ([site(), site("b", link="5000s,1Gbit")], "", "the latency of b's link, for which all wait 8"),
        ([site(), site("b", link="1ms,5Mbit"), site("c", chips=9)], "", "the bandwidth of b's link, for which all wait 7"),
        ([site(link="0s,1Gbit")], "0s,5Mbit", "the bandwidth of the syncer's link, for which all wait 7"),
        ([site(), site("slow", chips=5)], "", "the speed of slow, for which all wait; links take 0 % of the time"),
        ([site(), site("b")], "", "computing; links take 0 % of the time"),
    ],
)
def test_what_costs_synchronous_runs_most_limits_them(sites, syncer, line):
    planner = Planner(fleet(*sites, syncer=SyncerPart(link=syncer)))
    assert limits(planner, only(planner, "diloco")).startswith(line)


def test_a_run_of_more_than_ten_years_is_refused_unless_it_is_wanted():
    line = r"goal.max_days = 3650.0 cannot work; the fastest choice \(a\) takes .* days, limited by the bandwidth of a's link"
    with pytest.raises(ConfigError, match=line):
        taken(site(link="1ms,1kbit"))
    assert taken(site(link="1ms,1kbit"), goal=GoalPart(max_days=1e9)).days > 3650


def test_data_parallel_pays_the_ring_at_every_step():
    # 1e9 * 16 bit once around between two: 16e9 bit at 0.8 of 1 Gbit/s, and two hops
    choice = only(Planner(fleet(site(link="1s,1Gbit"), site("b", link="0s,2Gbit"))), "data-parallel")
    assert choice.utilisation == pytest.approx(6 / (6 + 20 + 2)) and choice.policy is None


def test_least_time_and_least_cost():
    sites = site("fast", chips=40, price=4.0), site("cheap", price=1.0)
    quick, frugal = taken(*sites), taken(*sites, goal=GoalPart(least="cost"))
    assert quick.names == "fast cheap" and frugal.names == "cheap"
    assert (quick.method, quick.learners) == ("decoupled", 2)
    bounded = taken(*sites, goal=GoalPart(least="cost", max_days=frugal.days / 2))
    assert bounded.days <= frugal.days / 2 and bounded.cost > frugal.cost


def test_what_brings_less_than_a_hundredth_is_left_out():
    sites = site("large", chips=1000), site("tiny", chips=5)
    chosen = taken(*sites, choices=replace(ONE, learners_per_site=(1, 2)))
    assert (chosen.names, chosen.learners) == ("large", 1)


def test_of_equal_costs_the_faster_is_taken():
    twins = [site(name, chips=512, speed=400.0, mtbi=8760.0, link="20ms,10Gbit") for name in "abc"]
    chosen = taken(*twins, goal=GoalPart(least="cost"), choices=ChoicesPart())
    assert (chosen.names, chosen.learners) == ("a b c", 3)  # each alone costs as much and takes three times as long
    free = taken(site("small", chips=8, price=0.0), site("large", chips=512, price=0.0), goal=GoalPart(least="cost"))
    assert "large" in free.names


@st.composite
def some_choices(draw):
    figures = st.floats(0.5, 2.0) | st.sampled_from([0.0, 1.0, 1.005, 1.01, 1.02])
    one = st.tuples(figures.map(lambda days: days or 1.0), figures, st.sampled_from(METHODS[:3]), st.integers(1, 4))
    policy = only(Planner(fleet())).policy
    return [Choice(method=name, sites=(site(),), per_site=learners, policy=policy, days=days, cost=cost, goodput=1.0,
                   utilisation=1.0, kept=1.0, traffic=0.0, syncer=0.0)
            for days, cost, name, learners in draw(st.lists(one, min_size=1, max_size=12))]  # fmt: skip


@given(choices=some_choices(), least=st.sampled_from(["time", "cost"]))
def test_no_choice_is_noticeably_better_than_the_chosen_one(choices, least):
    chosen = take(Planner(fleet(goal=GoalPart(least=least))), choices)
    for one in choices:
        if one.days <= chosen.days and one.cost <= chosen.cost:
            assert chosen.days <= one.days * NEAR and chosen.cost <= one.cost * NEAR
    best = front(choices, chosen)
    assert chosen in best  # and nothing beside it in that table is better in both
    assert not any(one.days < chosen.days and one.cost < chosen.cost for one in best)


@pytest.mark.parametrize("seed", range(8))
def test_the_plan_of_any_fleet_is_not_dominated(seed):
    draw = random.Random(seed)
    sites = [site(name, chips=draw.choice([8, 64, 512]), speed=draw.choice([100.0, 400.0]), price=draw.choice([0.0, 1.0, 2.0]),
                  link=draw.choice(["", "20ms,10Gbit", "80ms,300Mbit"])) for name in "abc"]  # fmt: skip
    goal = GoalPart(least=draw.choice(["time", "cost"]), max_days=math.inf)
    planner = Planner(fleet(*sites, choices=ChoicesPart(), goal=goal))
    choices = planner.choices()
    chosen = take(planner, choices)
    for one in choices:
        if one.policy is not None and one.days <= chosen.days and one.cost <= chosen.cost:
            assert chosen.days <= one.days * NEAR and chosen.cost <= one.cost * NEAR
        assert (why_not(one, chosen, goal) == "") == (one is chosen)


def test_nobody_is_faster_and_cheaper_than_the_front():
    planner = Planner(read_fleet(EXAMPLE))
    choices = planner.choices()
    best = front(choices, take(planner, choices))
    assert len(best) > 2 and all(later.cost < earlier.cost for earlier, later in pairwise(best))
    for choice in choices:
        assert any(one.days <= choice.days * NEAR and one.cost <= choice.cost * NEAR for one in best)


@pytest.mark.parametrize(
    ("goal", "line"),
    [
        (GoalPart(max_days=1.0),
         "goal.max_days = 1.0 cannot work; the fastest choice (a b) takes 34.72 days, limited by computing"),
        (GoalPart(max_cost=100.0), "goal.max_cost = 100.0 cannot work; the cheapest choice (b) costs 16,667"),
        (GoalPart(max_days=40.0, max_cost=20000.0),
         "goal.max_cost = 20000.0 cannot work; what ends within goal.max_days = 40 costs 25,000 at least (a b)"),
    ],
)  # fmt: skip
def test_a_budget_out_of_reach_says_how_far_it_is(goal, line):
    with pytest.raises(ConfigError) as error:
        taken(site(), site("b", price=1.0), goal=goal)
    assert str(error.value) == line


def test_one_more_gigabit_or_site():
    planner = Planner(fleet(site(link="1ms,100Mbit"), site("b")))
    chosen = only(planner)
    more = {one.change: one.choice for one in one_more(planner, chosen)}
    assert set(more) == {"1 Gbit/s at a", "a site like a", "a site like b"}
    assert chosen.policy.interval == 48 and more["1 Gbit/s at a"].policy.interval == 24
    assert more["1 Gbit/s at a"].days == chosen.days
    assert more["a site like b"].days == pytest.approx(chosen.days * 2 / 3)
    assert "a would need 0.278 Gbit/s instead of 0.1" in limits(planner, chosen)
    assert limits(planner, more["1 Gbit/s at a"]).startswith("computing: the links carry the closest coupling")


def test_neighbours_differ_in_one_knob_and_say_why_they_are_not_taken():
    planner = Planner(fleet(site(link="1ms,200Mbit"), site("b", chips=5, availability=0.5), site("c", availability=0.8)))
    chosen = only(planner)
    assert (chosen.policy.interval, chosen.policy.overlap, chosen.policy.codec_down) == (48, 4, "fp32")
    near = {one.change: one for one in neighbours(planner, chosen)}
    assert near["H = 24"].why == "a would need 0.278 Gbit/s instead of 0.2 (and 1 more)"
    assert near["H = 96"].why == "could work; choices.intervals has 48 first"
    assert near["H = 96"].choice.traffic == pytest.approx(chosen.traffic / 2)
    assert near["tau = 8"].why == "may overwrite more than choices.max_overlap = 0.125 of H"
    assert near["down = bf16"].why == "could work; choices.codecs_down has fp32 first"
    assert near["P = 12"].why == near["P = 48"].why == "could work; choices.fragments is 24"
    assert near["up = fp32"].why == "could work; choices.codec_up is bf16"
    assert near["K = 3"].why == "choices.quorum is 1; 3 or more are there 40 % of the time"
    assert near["K = 3"].choice.traffic == pytest.approx(chosen.traffic / 2)  # at the pace of b
    for change, one in near.items():
        knob = {"H": "interval", "P": "fragments", "tau": "overlap", "down": "codec_down", "up": "codec_up", "K": "quorum"}
        name, _, value = change.partition(" = ")
        assert str(getattr(one.choice.policy, knob[name])) == value != str(getattr(chosen.policy, knob[name]))


def test_neighbours_of_a_synchronous_plan():
    planner = Planner(fleet(site(link="1ms,20Mbit")))
    chosen = only(planner, "diloco")
    near = {one.change: one for one in neighbours(planner, chosen)}
    assert set(near) == {"H = 24", "H = 48", "H = 96", "H = 192", "up = fp32", "down = fp32"}
    assert near["H = 24"].choice.days > chosen.days
    assert near["H = 24"].why.startswith("slower, limited by the bandwidth of a's link, for which all wait 9")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sites": (site(link="1ms,1Mbit"),)}, "a would need 0.00868 Gbit/s instead of 0.001"),
        ({"sites": (site(link="200s,1Gbit"),)}, "a would need less latency than 200000 ms"),
        ({"syncer": SyncerPart(link="0s,1kbit")}, "the syncer's link, which all learners share, is too narrow"),
    ],
)
def test_where_nothing_decoupled_works_it_says_why(changes, why):
    planner = Planner(fleet(**changes, goal=GoalPart(max_days=math.inf)))
    choices = planner.choices()
    assert {choice.method for choice in choices} == {"streaming", "diloco", "data-parallel"}
    assert take(planner, choices).utilisation < 0.95
    assert why_not_decoupled(planner) == f"no decoupled run: even with H = 384 and bf16 down {why}"


@pytest.mark.parametrize(
    ("name", "sites", "syncer"),
    [
        ("decoupled", [site(link="35ms,4Gbit"), site("b", chips=6, link="110ms,150Mbit")], ""),
        ("decoupled", [site(), site("slow", chips=2, link="1s,1Gbit")], ""),
        ("decoupled", [site(name) for name in "abcd"], "0s,600Mbit"),
        ("streaming", [site(link="20ms,30Mbit"), site("b", link="20ms,30Mbit")], ""),
        ("diloco", [site(link="20ms,20Mbit"), site("b", chips=3, link="20ms,100Mbit")], ""),
    ],
)
def test_the_last_round_waits_for_the_slowest_link(name, sites, syncer):
    planner = Planner(fleet(*sites, syncer=SyncerPart(link=syncer)))
    chosen = only(planner, name)
    assert plan_died(planner, chosen, steps=2 * chosen.policy.interval + 5) == 0


def plan_died(planner, chosen, steps):
    """Tokens lost in the last round of the run that the plan writes, through the real core."""
    each = [planner.step_s(one, 1) for one in chosen.sites]
    shared = planner.fleet.syncer.link_.bandwidth / len(chosen.sites)  # the virtual world has no link that learners share
    links = [f"{one.link_.latency}s,{min(one.link_.bandwidth, shared, 1e15)}bit" for one in chosen.sites]
    world = World(learners=len(each), step_s=min(each), speeds=tuple(min(each) / step for step in each), jitter=0.1,
                  link=";".join(links))  # fmt: skip
    policy = chosen.policy.replace(steps=steps, tokens=0, **planner.patience(chosen))
    return simulate_rounds(policy, world, params=int(planner.fleet.model.params)).figures.lost_by_cause["died"]


def test_the_examples_last_round_is_whole():
    planner = Planner(read_fleet(EXAMPLE))
    chosen = take(planner, planner.choices())
    assert plan_died(planner, chosen, steps=101) == 0


def test_values_given_twice_are_weighed_once():
    twice = ChoicesPart(learners_per_site=(1, 1), intervals=(24, 24), overlaps=(2, 2), codecs_down=("fp32", "fp32"))
    planner = Planner(fleet(choices=twice))
    assert len(planner.choices()) == len(METHODS) and len(planner.policies["decoupled"]) == 1


@pytest.mark.parametrize("counts", [(1, 2), (2, 1), (2,)])
def test_data_parallel_is_compared_whatever_learners_per_site_says(counts):
    choices = ChoicesPart(learners_per_site=counts, min_chips=10 if 1 in counts else 5)
    assert [one.per_site for one in Planner(fleet(choices=choices)).choices() if one.method == "data-parallel"] == [1]


@pytest.mark.parametrize("price", [0.0, 2.0])
def test_the_picture_leaves_out_what_is_far_off(price):
    planner = Planner(fleet(*(site(name, price=price, link="50ms,300Mbit") for name in "ab")))
    choices = planner.choices()
    assert picture(choices, take(planner, choices)).startswith(b"\x89PNG")


def test_a_quorum_that_no_choice_has():
    with pytest.raises(ConfigError, match=r"choices\.quorum = 2 cannot work; the fleet has 1 learners at most"):
        Planner(fleet(choices=replace(ONE, quorum=2)))


# ---------------------------------------------------------------------- the command


def run(capsys, *arguments):
    code = main(["plan", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_example_is_planned_and_its_config_loads(capsys, tmp_path):
    code, out, _ = run(capsys, EXAMPLE, "--out", tmp_path)
    assert code == 0
    for text in ("the plan:", "limited by computing", "by each method", "what one more would bring", "one knob set otherwise"):
        assert text in out
    result = json.loads((tmp_path / "plan.json").read_text())
    assert {row["method"] for row in result["rows"]} == {"decoupled", "streaming", "diloco", "data-parallel"}
    assert [row["sites"] for row in result["rows"] if row["chosen"]] == [result["chosen"]["sites"]]
    assert result["chosen"]["days"] <= 21 and math.isfinite(result["chosen"]["cost"])
    rows = list(csv.DictReader((tmp_path / "plan.csv").open()))
    assert len(rows) == len(result["rows"]) and all((row["why_not"] == "") == (row["chosen"] == "True") for row in rows)
    assert [row["why_not"] for row in result["neighbours"]] == [row["why_not"] for row in rows[-len(result["neighbours"]) :]]
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert "--host 0.0.0.0 --port 7000 --tls.cert" in (tmp_path / "config.toml").read_text()
    config = load(TrainConfig, ("config.toml", read(tmp_path / "config.toml")))
    assert (config.syncer.host, config.syncer.insecure) == ("127.0.0.1", False)
    assert config.learners == result["chosen"]["M"]
    assert (config.policy.steps, config.policy.tokens) == (0, 5 * 10**12)
    for name, short in (("interval", "H"), ("fragments", "P"), ("overlap", "tau"), ("quorum", "K"), ("codec_down", "down")):
        assert getattr(config.policy, name) == result["chosen"][short]


def test_json_is_one_line(capsys, tmp_path):
    code, out, _ = run(capsys, EXAMPLE, "--json", "--out", tmp_path)
    assert code == 0 and out.count("\n") == 1
    assert {"rows", "chosen", "limit", "sites", "more", "neighbours"} == set(json.loads(out))


def test_the_help_tries_the_policy_with_a_budget_for_this_machine():
    assert "skerry train --config runs/plan/config.toml --policy.tokens 2000000" in EXAMPLES


GOOD = EXAMPLE.read_text()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("params = 12e9", "", "model.params is missing"),
        ("[model]", "model = 3\n[other]", "model is a table; write [model]"),
        ("params = 12e9", "params = -1.0", "model.params = -1.0 cannot work; give a whole number, 1 or more"),
        ("params = 12e9", 'params = "big"', "model.params = 'big' has the wrong type"),
        ("batch = 4e6", "batch = 0.5", "model.batch = 0.5 cannot work; give a whole number, 1 or more"),
        ("tokens = 5e12", "tokens = 1e30", "model.tokens = 1e+30 cannot work"),
        ("chips = 512", "chips = 0", "sites.oregon.chips = 0 cannot work; give a whole number, 1 or more"),
        ("chips = 512", "", "sites.oregon has no chips; every site needs chips and speed"),
        ("chips = 512", "gpus = 512", "sites.oregon has no chips"),
        ("mtbi = 500", "mtbf = 500", "unknown key sites.spare.mtbf = 500"),
        ("price = 2.50", "price = -2.5", "sites.oregon.price = -2.5 cannot work; give 0 or more"),
        ("mtbi = 500", "mtbi = 0", "sites.spare.mtbi = 0.0 cannot work; give a number above 0"),
        ("availability = 0.45", "availability = 0", "sites.spare.availability = 0.0 cannot work"),
        ("20ms,5Gbit", "20ms,5GB", "sites.oregon: link '20ms,5GB': cannot read '5GB'"),
        ('name = "iowa"', 'name = "oregon"', "sites.name = 'oregon' cannot work; give every site a name of its own"),
        ("min_chips = 64", "min_chips = 4096", "choices.min_chips = 4096 cannot work; no site has so many"),
        ("min_chips = 64", "intervals = []", "choices.intervals = [] cannot work; give at least one"),
        ("min_chips = 64", "overlaps = [100]", "choices.overlaps = [100] cannot work; give one of at most 48"),
        ("min_chips = 64", "overlaps = [0]", "choices.overlaps = [0] cannot work; give whole numbers, 1 or more"),
        (
            "min_chips = 64",
            "learners_per_site = [1000]",
            "choices.learners_per_site = [1000] cannot work; the largest site has chips for 512 learners at most",
        ),
        ("mtbi = 500", "mtbi = 1e-6", "sites.spare.mtbi = 1e-06 cannot work; its chips would fail 9.2e+09 times a day"),
        (
            "chips = 512",
            "chips = 1_000_000_000_000",
            "sites.finland.chips = 1000000000000 cannot work; its chips would fail 2e+09",
        ),
        ("min_chips = 64", "headroom = 1.5", "choices.headroom = 1.5 cannot work; give a share"),
        ("min_chips = 64", "fragments = 0", "choices.fragments = 0 cannot work; give a whole number, 1 or more"),
        ("[goal]", '[syncer]\nlink = "5s,1Gbit"\n[goal]', "syncer.link = '5s,1Gbit' cannot work; give it no latency (0s)"),
        ("max_days = 21", "max_days = -1", "goal.max_days = -1.0 cannot work; give a number above 0"),
        ("max_days = 21", "max_days = 0.5", "goal.max_days = 0.5 cannot work; the fastest choice"),
        ("max_days = 21", "max_cost = 10", "goal.max_cost = 10.0 cannot work; the cheapest choice"),
        ('least = "cost"', 'least = "carbon"', "goal.least = 'carbon'"),
        ("[goal]", "[aim]", "unknown key aim"),
        ("[[sites]]", "[[places]]", "unknown key places"),
    ],
)
def test_bad_input_gets_one_line(capsys, tmp_path, old, new, line):
    path = tmp_path / "fleet.toml"
    path.write_text(GOOD.replace(old, new))
    code, out, err = run(capsys, path, "--out", tmp_path / "out")
    assert path.read_text() != GOOD and code == 2 and not out
    assert err.startswith("skerry: ") and err.count("\n") == 1 and line in err
    assert not (tmp_path / "out").exists()


def test_a_fleet_without_sites(capsys, tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_text("[model]\nparams = 1e9\ntokens = 1e9\n")
    assert "sites = '0 of them' cannot work; give 1 to 10 tables [[sites]]" in run(capsys, path)[2]
    assert "cannot read" in run(capsys, tmp_path / "none.toml")[2]
