"""simulate rounds: the real core in virtual time without tensors; the published pattern of unequal hardware."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest

from skerry.cli import main
from skerry.cli.simulate.rounds import RoundsCommand, read_config
from skerry.codecs import get_codec
from skerry.core.layout import TensorSpec, build_layout
from skerry.core.messages import Merge
from skerry.core.policy import ALL
from skerry.core.presets import preset
from skerry.errors import ConfigError
from skerry.lab import run
from skerry.simulate.rounds import Learner, Versions, simulate_rounds
from skerry.world.run import VirtualRun
from skerry.world.world import World
from support.toy import ToyTask

PATIENT = {"round_timeout": 1e9, "final_timeout": 1e9}
UNEQUAL = World(learners=8, speeds=(1, 1, 1, 1, 0.82, 0.82, 0.82, 0.82), jitter=0.1)


def test_the_pattern_of_unequal_hardware() -> None:
    """Published: K = M far below 100% goodput; K = 1 at 100% with few contributors; with grace at 100% with nearly all."""
    policy = preset("decoupled", steps=300)
    waits = simulate_rounds(policy.replace(synchronous=True, quorum=ALL), UNEQUAL, params=10**6)
    none = simulate_rounds(policy.replace(grace=0.0), UNEQUAL, params=10**6)
    grace = simulate_rounds(policy, UNEQUAL, params=10**6)
    assert waits.figures.goodput < 0.93 and waits.wait_share > 0.07
    assert waits.figures.mean_contributors > 7.9
    assert none.figures.goodput > 0.99 and none.figures.mean_contributors < 2
    assert grace.figures.goodput > 0.99 and grace.figures.mean_contributors > 7.5
    assert none.wait_share == grace.wait_share == 0


def test_a_slow_learner_in_step_with_the_others_misses_no_fragment_for_ever() -> None:
    """Four times slower to the microsecond: without answers ahead it would be in a quarter of the rounds, always the same."""
    policy = preset("decoupled", steps=400)
    result = simulate_rounds(policy, World(learners=4, speeds=(1, 1, 1, 0.25)), params=10**6)
    assert result.figures.mean_contributors > 3.85
    jittery = simulate_rounds(policy, World(learners=4, speeds=(1, 1, 1, 0.25), jitter=0.1), params=10**6)
    assert jittery.figures.mean_contributors > 3.7


def test_it_meets_the_rounds_that_the_lab_meets() -> None:
    """One virtual driver: with the same layout, policy and world, tensors change nothing of what the core sees."""
    from skerry.core.layout import build_layout
    from skerry.numerics.parameters import Parameters

    task, policy = ToyTask(), preset("decoupled", fragments=4, interval=8, steps=60)
    world = World(learners=3, speeds=(1, 0.8, 0.3), jitter=0.2, link="200ms,10kbit", fault_rate=0.1, downtime=6, seed=3)
    real = run(task, policy, world)
    layout = build_layout(Parameters(task.model(0)).specs, 4, policy.fragmentation)
    virtual = simulate_rounds(policy, world, layout=layout, tokens=task.tokens)
    figures = virtual.figures
    assert (figures.rounds, figures.mean_contributors) == (real.rounds, real.mean_contributors)
    assert (figures.bytes_up, figures.bytes_down) == (real.bytes["up"], real.bytes["down"])
    assert figures.tokens_merged == real.tokens["merged"]
    assert (round(virtual.virtual_s, 6), virtual.wait_share) == (real.virtual_s, real.wait_share)


def test_traffic_adds_up_and_is_what_the_rounds_need() -> None:
    policy = preset("decoupled", steps=240)
    result = simulate_rounds(policy, World(learners=4), params=24_000, tokens=8)
    up, down = result.traffic.sent.sum(axis=(0, 1))
    assert (up, down) == (result.figures.bytes_up, result.figures.bytes_down)
    body_up, body_down = get_codec(policy.codec_up).nbytes(1000), get_codec(policy.codec_down).nbytes(1000)
    rounds = result.figures.rounds
    assert result.figures.mean_contributors == 4
    # Up: every contribution, and the first model. Down: every version to all, the first one too.
    assert up == 4 * rounds * body_up + 24 * 4000
    assert down == 4 * (rounds + 24) * body_down


def test_ages_say_how_stale_what_was_merged_is() -> None:
    policy = preset("decoupled", steps=200, interval=8, fragments=4, grace=0.0, max_staleness=3)
    result = simulate_rounds(policy, World(learners=4, speeds=(1, 1, 1, 0.1)), params=4000)
    assert sum(result.ages.values()) == pytest.approx(result.figures.mean_contributors * result.figures.rounds)
    assert result.staleness == sum(age * n for age, n in result.ages.items()) / sum(result.ages.values())


def test_an_age_is_how_many_versions_came_since_the_one_it_is_measured_from() -> None:
    versions = Versions(2)
    for version in (1, 2, 3):
        versions.close(1, 10 * version, version)
        versions.publish(1)
    merge = Merge(learner=0, generation=1, fragment=1, step=40, tokens=1, steps=1, weight=1.0)
    for base in (1, 3, 3):
        versions.add(merge, base, None)
    assert versions.ages == {2: 1, 0: 2} and (versions.body(0), versions.body(1)) == (0, 3)


@pytest.mark.parametrize("on", [True, False])
def test_parameters_that_do_not_go_even_are_counted_and_garbage_is_collected_as_before(on: bool) -> None:
    """31 over 24 fragments: seven have two."""
    before = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        result = simulate_rounds(preset("decoupled", steps=24, codec_up="fp32"), World(learners=1), params=31)
        assert gc.isenabled() == on
    finally:
        (gc.enable if before else gc.disable)()
    assert result.figures.params == 31


def test_garbage_is_collected_again_after_a_run_that_failed() -> None:
    with pytest.raises(ConfigError, match="standstill"):
        simulate_rounds(preset("decoupled", steps=50), World(learners=1, faults="leave:0@3s"), params=24)
    assert gc.isenabled()


def test_the_command_prints_a_row_for_each_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "rounds", "--steps", "48", "--params", "1e6", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["rule"] for row in rows] == ["K=M", "K=1", "grace"]
    assert all(row["tokens"] > 0 for row in rows)


def test_amounts_and_lists_are_written_as_in_the_other_simulations(capsys: pytest.CaptureFixture[str]) -> None:
    for step_time in ("90s", "1.5min", "90"):
        assert read_config(RoundsCommand(step_time=step_time))[1].step_s == 90
    for speeds in (("1", "0.5"), ("1,0.5",), ("1,", "0.5"), ("1 0.5",)):
        assert read_config(RoundsCommand(speeds=speeds))[1].speeds == (1, 0.5)
    given = ["--rule", "grace", "--step-time", "2s", "--speeds", "1", "0.5", "--learners", "2"]
    written, plain = (_printed(capsys, *given, "--params", params)["rows"] for params in ("0.012B", "12e6"))
    assert written == plain and written[0]["GB_up"] > 0.012 and 2 * 48 <= written[0]["virtual_s"] < 2 * 52


@pytest.mark.parametrize(("given", "says"), [
    (["--speeds", "1,0"], "world.speeds = (1.0, 0.0) cannot work"),
    (["--params", "0"], "--params = '0' cannot work"),
    (["--params", "nan"], "--params = 'nan' cannot work"),
    (["--params", "inf"], "--params = 'inf' cannot work"),
    (["--params", "1e300"], "--params = '1e300' cannot work; give a whole number"),
    (["--params", "2000T"], "--params = '2000T' cannot work; give at most 1e+15 parameters"),
    (["--step-time", "0s"], "--step-time = '0s' cannot work; give more than 0"),
    (["--step-time", "5x"], "--step-time = '5x' cannot work"),
    (["--learners", "1000000"], "world.learners = 1000000 cannot work"),
    (["--speeds", "1,2,3,4,5,6,7,8,9"], "give at most one a learner (8)"),
    (["--speeds", ""], "speeds = '' cannot work; give numbers apart by commas"),
    (["--speeds", "1,,1"], "speeds = '1,,1' cannot work"),
    (["--link", ";"], "link ';' has an empty part"),
    (["--faults", "join:0@3s"], "there is a learner 0 by then"),
    (["--step-time", "600", "--rule", "grace"], "policy.round_timeout = 60.0 cannot work"),
    (["--rule", "grace", "--set", "policy.quorum=4"], "--set policy.quorum = 4, but --rule grace settles that itself"),
    (["--rule", "all", "--set", "policy.synchronous=false"], "but --rule all settles that itself"),
    (["--params", "5"], "params = 5 cannot work; give at least one a fragment (24)"),
    (["--rule", "K=2"], "--rule 'K=2' is none that there is; choose one of all, K=M, K=1, grace, policy"),
    (["--set", "policy.quorums=2"], "unknown key policy.quorums"),
    (["--set", "recipe.lr=2"], "--set: unknown key recipe = {'lr': 2}; allowed in the top level are policy, world"),
    (["--faults", "kill:9@3s"], "there is no learner 9"),
    (["--learners", "0"], "world.learners = 0 cannot work"),
    (["--link", "5"], "link '5': cannot read '5'"),
])  # fmt: skip
def test_what_cannot_be_is_one_line(given: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "rounds", *given]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def _printed(capsys: pytest.CaptureFixture[str], *given: str) -> dict[str, Any]:
    assert main(["simulate", "rounds", "--steps", "48", "--params", "1e6", "--json", *given]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_a_rule_would_overwrite_asks_for_the_policy_itself(capsys: pytest.CaptureFixture[str]) -> None:
    [row] = _printed(capsys, "--set", "policy.quorum=4")["rows"]
    assert row == _printed(capsys, "--set", "policy.quorum=4", "--rule", "policy")["rows"][0]
    assert row["rule"] == "policy" and row["contributors"] >= 4
    assert len(_printed(capsys, "--set", "policy.interval=12")["rows"]) == 3


@pytest.mark.parametrize("learners", [1, 4, 5, 8])
def test_unless_told_otherwise_half_of_the_learners_are_slower(learners: int) -> None:
    world = read_config(RoundsCommand(learners=learners))[1]
    assert sorted(world.speeds) == [0.82] * (learners // 2) + [1.0] * (learners - learners // 2)


def test_no_link_carries_more_than_it_can(capsys: pytest.CaptureFixture[str]) -> None:
    told = _printed(capsys, "--speeds", "1,0.5", "--link", "50ms,1Mbit; 100ms,200kbit", "--rule", "grace", "--learners", "20")
    traffic, row = told["traffic"]["grace"], told["rows"][0]
    assert len(traffic["links"]) == 20 and sum("up_gbit" in link for link in traffic["links"]) == 16
    for link in traffic["links"]:
        assert 0 < max(link["peak_up_gbit"], link["peak_down_gbit"]) <= link["link_gbit"] * (1 + 1e-5)
        if "up_gbit" in link:
            assert max(link["down_gbit"]) == link["peak_down_gbit"]
    assert sum(link["GB_up"] for link in traffic["links"]) == pytest.approx(row["GB_up"])
    sent = [link["GB_up"] + link["GB_down"] for link in traffic["links"]]
    assert sent == sorted(sent, reverse=True)
    before, gigabits = 0.0, 0.0
    for at, rate in zip(traffic["t_s"], traffic["down_gbit"], strict=True):
        before, gigabits = at, gigabits + rate * (at - before)
    assert gigabits / 8 == pytest.approx(row["GB_down"], rel=1e-3)


def test_what_a_dead_learner_had_not_sent_does_not_count() -> None:
    """Killed while its first model, 4 MB over 1 Mbit/s, was on its way up for 2.1 seconds."""
    world = World(learners=1, link="50ms,1Mbit", faults="kill:0@2.2s+1000s")
    live = VirtualRun(preset("decoupled", steps=9), _layout(10**6), world, Versions(24), lambda m: Learner(1, 24))
    live._start(0)
    live.queue.at(2.2, live.islands[0].kill, "")
    while live.queue.now < 60 and live.queue.advance():
        pass
    assert live.hub.bytes_up[0] == pytest.approx(2.1e6 / 8, rel=1e-3)


def test_samples_stay_few_however_long_a_run_takes() -> None:
    world = World(learners=2, link="50ms,50kbit")
    result = simulate_rounds(preset("streaming", steps=240), world, params=10**6)
    assert result.virtual_s > 10 * 240
    assert 100 < len(result.traffic.times) <= 241 and result.traffic.times[-1] == result.virtual_s
    assert result.traffic.sent.sum(axis=(0, 1)).tolist() == [result.figures.bytes_up, result.figures.bytes_down]


def test_shares_of_the_time() -> None:
    """A learner that loads its model over a slow link stands for that alone, under a policy where nobody waits."""
    result = simulate_rounds(
        preset("decoupled", steps=48), World(learners=2, link="50ms,1Mbit", faults="kill:0@99s"), params=10**6
    )
    assert result.wait_share == result.load_share > 0 and result.lost_share > 0
    assert result.figures.goodput + result.wait_share + result.lost_share < 1
    waits = simulate_rounds(preset("streaming", steps=48), World(learners=2, speeds=(1, 0.5)), params=10**6)
    assert waits.wait_share > 0.2 and waits.load_share == 0


def test_faults_that_the_run_did_not_live_to_see_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["simulate", "rounds", "--steps", "48", "--params", "1e6", "--json", "--rule", "grace"]
    assert main([*given, "--faults", "kill:0@3s+10s stop:0@5s+1s kill:1@999s"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["faults"]["grace"] == {"struck": 1, "missed": 1, "unfired": ["kill:1@999s"]}
    assert "grace: the run was over after" in said.err and "before kill:1@999s" in said.err


@pytest.mark.parametrize(("changes", "world", "says"), [
    ({"tokens": 10**5}, {"learners": 2, "faults": "leave:0@3s leave:1@3s"}, "0 learners live, a round needs 1; lower policy"),
    ({"steps": 50, **PATIENT}, {"learners": 2, "link": "1s,10bit"},
     "after 5,0.. s 2 learners have not got the whole model yet; give world.link more bandwidth"),
    ({"tokens": 10**5, **PATIENT}, {"learners": 2, "link": "1s,10bit"}, "have not got the whole model"),
    ({"steps": 50}, {"learners": 1, "faults": "slow:0x0.0001@3s"}, "1 learners live, and the run made no step for 5,0.. s"),
])  # fmt: skip
def test_a_run_that_stands_still_ends_and_says_why(changes: dict[str, Any], world: dict[str, Any], says: str) -> None:
    policy = preset("decoupled", **changes)
    with pytest.raises(ConfigError, match=says):
        simulate_rounds(policy, World(**world), params=10**5)


def test_learners_without_a_quorum_still_come_nearer_to_a_budget_of_tokens() -> None:
    policy = preset("decoupled", tokens=20_000, quorum=2)
    result = simulate_rounds(policy, World(learners=2, faults="leave:1@3s"), params=10**5, tokens=1)
    assert result.virtual_s > 3 * 5000


def test_a_step_of_no_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokens = 0"):
        simulate_rounds(preset("decoupled", steps=5), World(), params=100, tokens=0)


def _layout(params: int) -> Any:
    return build_layout([TensorSpec(name=f"{p}.weight", shape=(params // 24,)) for p in range(24)], 24, "balanced")
