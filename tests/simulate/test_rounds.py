"""simulate rounds: the real core in virtual time without tensors; the published pattern of unequal hardware."""

from __future__ import annotations

import json

import pytest

from skerry.cli import main
from skerry.codecs import get_codec
from skerry.core.policy import ALL
from skerry.core.presets import preset
from skerry.errors import ConfigError
from skerry.lab import run
from skerry.simulate.rounds import simulate_rounds
from skerry.world.world import World
from support.toy import ToyTask

UNEQUAL = World(learners=8, speeds=(1, 1, 1, 1, 0.82, 0.82, 0.82, 0.82), jitter=0.1)


def test_the_pattern_of_unequal_hardware() -> None:
    """Published: K = M far below 100% goodput; K = 1 at 100% with few contributors; with grace at 100% with nearly all."""
    policy = preset("decoupled", steps=300)
    waits = simulate_rounds(policy.replace(synchronous=True, quorum=ALL), UNEQUAL, params=10**6)
    none = simulate_rounds(policy.replace(grace=0.0), UNEQUAL, params=10**6)
    grace = simulate_rounds(policy, UNEQUAL, params=10**6)
    assert waits.figures["goodput"] < 0.93 and waits.wait_share > 0.07
    assert waits.figures["mean_contributors"] > 7.9
    assert none.figures["goodput"] > 0.99 and none.figures["mean_contributors"] < 2
    assert grace.figures["goodput"] > 0.99 and grace.figures["mean_contributors"] > 7.5
    assert none.wait_share == grace.wait_share == 0


def test_a_slow_learner_in_step_with_the_others_misses_no_fragment_for_ever() -> None:
    """Four times slower to the microsecond: without answers ahead it would be in a quarter of the rounds, always the same."""
    policy = preset("decoupled", steps=400)
    result = simulate_rounds(policy, World(learners=4, speeds=(1, 1, 1, 0.25)), params=10**6)
    assert result.figures["mean_contributors"] > 3.85
    jittery = simulate_rounds(policy, World(learners=4, speeds=(1, 1, 1, 0.25), jitter=0.1), params=10**6)
    assert jittery.figures["mean_contributors"] > 3.7


def test_it_meets_the_rounds_that_the_lab_meets() -> None:
    """One virtual driver: with the same layout, policy and world, tensors change nothing of what the core sees."""
    from skerry.core.layout import build_layout
    from skerry.learner.parameters import Parameters

    task, policy = ToyTask(), preset("decoupled", fragments=4, interval=8, steps=60)
    world = World(learners=3, speeds=(1, 0.8, 0.3), jitter=0.2, link="200ms,10kbit", fault_rate=0.1, downtime=6, seed=3)
    real = run(task, policy, world)
    layout = build_layout(Parameters(task.model(0)).specs, 4, policy.fragmentation)
    virtual = simulate_rounds(policy, world, layout=layout, tokens=task.tokens)
    figures = virtual.figures
    assert (figures["rounds"], figures["mean_contributors"]) == (real.rounds, real.mean_contributors)
    assert (figures["bytes_up"], figures["bytes_down"]) == (real.bytes["up"], real.bytes["down"])
    assert figures["tokens_merged"] == real.tokens["merged"]
    assert (round(virtual.virtual_s, 6), virtual.wait_share) == (real.virtual_s, real.wait_share)


def test_traffic_adds_up_and_is_what_the_rounds_need() -> None:
    policy = preset("decoupled", steps=240)
    result = simulate_rounds(policy, World(learners=4), params=24_000, tokens=8)
    up = sum(sample[0] for _, links in result.traffic for sample in links.values())
    down = sum(sample[1] for _, links in result.traffic for sample in links.values())
    assert (up, down) == (result.figures["bytes_up"], result.figures["bytes_down"])
    body_up, body_down = get_codec(policy.codec_up).nbytes(1000), get_codec(policy.codec_down).nbytes(1000)
    rounds = result.figures["rounds"]
    assert result.figures["mean_contributors"] == 4
    # Up: every contribution, and the first model. Down: every version to all, the first one too.
    assert up == 4 * rounds * body_up + 24 * 4000
    assert down == 4 * (rounds + 24) * body_down


def test_ages_say_how_stale_what_was_merged_is() -> None:
    policy = preset("decoupled", steps=200, interval=8, fragments=4, grace=0.0, max_staleness=3)
    result = simulate_rounds(policy, World(learners=4, speeds=(1, 1, 1, 0.1)), params=4000)
    assert sum(result.ages.values()) == pytest.approx(result.figures["mean_contributors"] * result.figures["rounds"])
    assert result.staleness == sum(age * n for age, n in result.ages.items()) / sum(result.ages.values())


def test_the_command_prints_a_row_for_each_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "rounds", "--steps", "48", "--params", "1e6", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["rule"] for row in rows] == ["K=M", "K=1", "grace"]
    assert all(row["tokens"] > 0 for row in rows)


@pytest.mark.parametrize(("given", "says"), [
    (["--speeds", "1,0"], "world.speeds = (1.0, 0.0) cannot work"),
    (["--params", "0"], "--params = 0 cannot work"),
    (["--params", "5"], "params = 5 cannot work; give at least one a fragment (24)"),
    (["--rule", "K=2"], "--rule 'K=2' is none that there is; choose one of all, K=M, K=1, grace, policy"),
    (["--set", "policy.quorums=2"], "unknown key policy.quorums"),
    (["--set", "recipe.lr=2"], "--set recipe: there is no such table here"),
    (["--faults", "kill:9@3s"], "there is no learner 9"),
    (["--learners", "0"], "world.learners = 0 cannot work"),
    (["--link", "5"], "link '5': cannot read '5'"),
])  # fmt: skip
def test_what_cannot_be_is_one_line(given: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "rounds", *given]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_a_step_of_no_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokens = 0"):
        simulate_rounds(preset("decoupled", steps=5), World(), params=100, tokens=0)
