"""The lab: it makes no decision of its own, it is the algorithm, and it survives any world."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skerry.core import fragment, grace
from skerry.core.policy import Policy
from skerry.core.presets import preset
from skerry.drive import syncer
from skerry.errors import ConfigError
from skerry.lab import World, run, run_data_parallel
from skerry.world.faults import FaultScript
from support.toy import ToyTask


def small(**changes: object) -> Policy:
    return preset("decoupled", **{"fragments": 4, "interval": 8, "steps": 60, **changes})


# ---------------------------------------------------------------- it is the algorithm


def test_it_equals_the_algorithm_written_out() -> None:
    """K = M, P = 1, no latency, equal speeds: the mean of the outer gradients, then Nesterov, every H steps."""
    task, m, h, lr, mu = ToyTask(), 3, 5, 0.7, 0.9
    policy = preset("diloco", interval=h, steps=4 * h, outer_lr=lr, outer_momentum=mu, codec_up="fp32")
    models = [task.model(0) for _ in range(m)]
    optimizers = [task.optimizer(model) for model in models]
    theta = [p.detach().clone() for p in models[0].parameters()]
    buffer = [torch.zeros_like(p) for p in theta]
    count = 0

    def outer_step() -> None:
        for i, (value, b) in enumerate(zip(theta, buffer, strict=True)):
            delta = sum(value - list(model.parameters())[i].detach() for model in models) / m
            b.mul_(mu).add_(delta)
            value.sub_(lr * (delta + mu * b))
            for model in models:
                list(model.parameters())[i].data.copy_(value)

    for step in range(4 * h + 1):
        for who, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            task.set_rate(optimizer, step / policy.steps, step)
            loss, tokens = task.loss(model, task.batch(who, step))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            count += tokens
        if (step + 1) % h == 0:
            outer_step()
        if step + 1 == policy.steps:
            break
    made = run(task, policy, World(learners=m), evals=1)
    reference = task.model(0)
    for parameter, value in zip(reference.parameters(), theta, strict=True):
        parameter.data.copy_(value)
    assert made.tokens["processed"] == count
    assert made.rounds == 4
    assert made.eval_loss == pytest.approx(task.evaluate(reference), abs=1e-6)


def test_data_parallel_is_plain_training_on_all_batches() -> None:
    task, m, steps = ToyTask(), 3, 20
    model = task.model(0)
    optimizer = task.optimizer(model)
    for step in range(steps):
        task.set_rate(optimizer, step / steps, step)
        rows = [task.batch(who, step) for who in range(m)]
        loss, _ = task.loss(model, tuple(torch.cat(part) for part in zip(*rows, strict=True)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    made = run_data_parallel(task, World(learners=m), steps=steps, evals=2)
    assert made.eval_loss == pytest.approx(task.evaluate(model), abs=1e-5)
    assert made.tokens["processed"] == m * steps * task.tokens
    assert [point.step for point in made.eval_curve] == [10, 20]


def test_data_parallel_in_time_and_bytes_by_hand() -> None:
    """Speeds 1 and 0.5 in turn: steps of 1 and 2 s. A quarter of the gradient's 4 * 77 bytes goes over six hops, each
    0.1 s and its 616 bits at 1 kbit/s."""
    made = run_data_parallel(ToyTask(), World(learners=4, speeds=(1, 0.5), link="100ms,1kbit"), steps=2)
    assert made.params == 4 * 5 + 5 * 6 + 6 + 6 * 3 + 3 == 77
    step = 2 + 6 * (0.1 + 77 * 8 / 1000)
    assert made.virtual_s == pytest.approx(2 * step)
    assert made.goodput == pytest.approx((1 + 2 + 1 + 2) / (4 * step)) and made.wait_share == 1 - made.goodput
    assert made.bytes == {"up": 2 * 6 * 77 * 4, "down": 2 * 6 * 77 * 4}
    assert (made.rounds, made.mean_contributors) == (2, 4)


def test_the_slowest_link_of_all_holds_data_parallel_up() -> None:
    made = run_data_parallel(ToyTask(), World(learners=2, link="1s;3s"), steps=5)
    assert made.virtual_s == pytest.approx(5 * (1 + 2 * 3))


# ---------------------------------------------------------------- no decision of its own


def test_equal_arguments_give_equal_bits_and_another_seed_others() -> None:
    world = World(learners=3, jitter=0.2, link="100ms,1Mbit", fault_rate=0.1, downtime=8.0, seed=5)
    first, again = (run(ToyTask(), small(), world, evals=3) for _ in range(2))
    assert first == again
    assert run(ToyTask(seed=1), small(), world).model_hash != first.model_hash
    assert run(ToyTask(), small(), replace(world, seed=6)).model_hash != first.model_hash


CHANGED = {
    "no grace": (grace.Grace, "window", lambda self: 0.0),
    "nobody hears that it was included": (syncer.Newest, "of", lambda self, learner, generation: 0),
    "always overwrite": (fragment.Fragment, "rule", lambda self, delivery, included: "overwrite"),
    "rounds fall due in another order": (Policy, "offset", lambda self, p: self.interval - 1 - p),
}


@pytest.mark.parametrize("name", CHANGED)
def test_a_core_changed_in_one_rule_changes_the_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, world = small(max_staleness=0), World(learners=4, speeds=(1, 1, 0.7, 0.3), jitter=0.1, link="300ms")
    before = run(ToyTask(), policy, world)
    where, rule, instead = CHANGED[name]
    monkeypatch.setattr(where, rule, instead)
    after = run(ToyTask(), policy, world)
    assert after.model_hash != before.model_hash
    assert (after.rounds, after.mean_contributors, after.tokens) != (before.rounds, before.mean_contributors, before.tokens)


# ---------------------------------------------------------------- what it shows


def test_slow_learners_stay_useful_under_the_default_rules() -> None:
    policy = small(steps=200)
    made = run(ToyTask(), policy, World(learners=4, speeds=(1, 1, 1, 0.25)))
    assert made.goodput == pytest.approx(1.0, abs=0.02) and made.wait_share == 0  # the slow one's last step is cut off
    slow = made.per_learner[3]
    assert slow["tokens"] == pytest.approx(made.per_learner[0]["tokens"] / 4, rel=0.05)
    assert sum(slow["lost_by_cause"].values()) < 0.3 * slow["tokens"]
    assert slow["lost_by_cause"]["excluded"] == 0


def test_synchronous_learners_wait_for_the_slowest() -> None:
    made = run(ToyTask(), preset("streaming", fragments=4, interval=8, steps=80), World(learners=4, speeds=(1, 1, 1, 0.5)))
    assert made.virtual_s == pytest.approx(160, rel=0.1)
    assert made.wait_share == pytest.approx(3 / 8, abs=0.05)
    assert made.mean_contributors == 4


def test_a_link_delays_bodies_by_their_bytes() -> None:
    policy = preset("diloco", interval=10, steps=40, codec_up="fp32")
    free = run(ToyTask(), policy, World(learners=2))
    slow = run(ToyTask(), policy, World(learners=2, link="1s,1kbit"))
    body = 8 * 4 * free.params / 1000 + 1  # seconds
    assert slow.model_hash == free.model_hash
    # Join, Welcome, Seed; the first model up and down; four rounds, each up and down
    assert slow.virtual_s - free.virtual_s == pytest.approx(3 + 2 * body + 4 * 2 * body)


@pytest.mark.parametrize("fault", [
    "kill:1@10s", "kill:1.trainer@10s", "kill:1.agent@10s", "stop:1@10s+20s", "stop:1.trainer@10s+7s", "stop:1.agent@10s+7s",
    "slow:1x0.25@10s+20s", "leave:1@10s", "join:3@10s", "kill:1@10s+30s",
])  # fmt: skip
@pytest.mark.parametrize("method", ["decoupled", "streaming"])
def test_every_fault_strikes_and_the_run_ends_whole(fault: str, method: str) -> None:
    policy = preset(method, fragments=4, interval=8, steps=60)
    quiet = run(ToyTask(), policy, World(learners=3))
    made = run(ToyTask(), policy, World(learners=3, faults=fault))
    assert [f["struck"] for f in made.faults] == [True]
    assert made.model_hash != quiet.model_hash
    whole(made)


@pytest.mark.parametrize(("faults", "down"), [
    ("kill:1@10s+7s", 7),
    ("kill:1.trainer@10s", 4),  # world.restart
    ("kill:1@50s+100s", 40),  # until the end: the last round, after the 60th step, waits final_timeout for whose link broke
    ("kill:1@10s+7s kill:1@12s+9s", (7, 0)),  # the second finds nobody
    ("kill:1.agent@10s", 0), ("stop:1@10s+20s", 0), ("slow:1x0.5@10s+20s", 0), ("leave:1@10s", 0), ("join:3@10s", 0),
])  # fmt: skip
def test_how_long_a_kill_took_its_learner_away(faults: str, down: int | tuple[int, ...]) -> None:
    made = run(ToyTask(), small(), World(learners=3, faults=faults, restart=4.0), evals=1)
    assert tuple(one["down_s"] for one in made.faults) == (down if isinstance(down, tuple) else (down,))


@pytest.mark.parametrize("evals", [1, 3, 12])
def test_the_curve_has_as_many_points_as_asked_for(evals: int) -> None:
    policy = small(steps=96)
    for made in (run(ToyTask(), policy, World(), evals=evals), run_data_parallel(ToyTask(), World(), steps=96, evals=evals)):
        steps = [point.step for point in made.eval_curve]
        assert len(steps) == evals and steps == sorted(set(steps))
        assert made.eval_curve[-1].loss == made.eval_loss and made.eval_curve[-1].virtual_s == made.virtual_s


def whole(made: object) -> None:
    """What holds at the end of every run."""
    tokens = made.tokens
    assert tokens["pending"] == 0
    assert tokens["processed"] == pytest.approx(tokens["merged"] + sum(tokens["lost"].values()), abs=0.01)
    assert math.isfinite(made.eval_loss) and 0 <= made.goodput <= 1 + 1e-9 and 0 <= made.wait_share <= 1


def can_strike(faults: str) -> bool:
    """Whether a script of three learners is taken: it lets nobody join who is there."""
    try:
        FaultScript.parse(faults).check_learners(3)
    except ConfigError:
        return False
    return True


POLICIES = st.builds(
    lambda preset_, changes: (preset_, changes),
    st.sampled_from(["decoupled", "streaming", "diloco"]),
    st.fixed_dictionaries({
        "interval": st.integers(4, 12), "on_included": st.sampled_from(["overwrite", "blend"]),
        "on_excluded": st.sampled_from(["overwrite", "carry"]), "codec_up": st.sampled_from(["fp32", "bf16"]),
        "merge": st.sampled_from(["rda", "direct"]), "max_staleness": st.integers(0, 3),
    }),
)  # fmt: skip
FAULTS = st.lists(
    st.builds(
        lambda kind, who, at: kind.format(who=who, at=at),
        st.sampled_from(["kill:{who}@{at}s", "kill:{who}.trainer@{at}s+3s", "kill:{who}.agent@{at}s", "stop:{who}@{at}s+9s",
                         "stop:{who}.agent@{at}s+2s", "stop:{who}.trainer@{at}s+2s", "slow:{who}x0.3@{at}s+9s",
                         "join:{who}@{at}s"]),
        st.integers(0, 2), st.floats(0.1, 40).map(lambda x: round(x, 2)),
    ), max_size=6,
).map(" ".join).filter(can_strike)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chosen=POLICIES, faults=FAULTS, jitter=st.sampled_from([0.0, 0.3]), link=st.sampled_from(["", "200ms", "50ms,20kbit"]),
       seed=st.integers(0, 3))  # fmt: skip
def test_any_world_ends_with_every_token_accounted_for(
    chosen: tuple[str, dict], faults: str, jitter: float, link: str, seed: int) -> None:  # fmt: skip
    name, changes = chosen
    changes["fragments"] = 1 if name == "diloco" else 4
    world = World(learners=3, faults=faults, jitter=jitter, link=link, seed=seed)
    made = run(ToyTask(), preset(name, **changes, steps=40), world, evals=1)
    whole(made)


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(("policy", "world", "words"), [
    ({"steps": 0}, {}, "policy.steps = 0 and policy.tokens = 0"),
    ({"quorum": 5}, {}, "policy.quorum = 5 is more than learners = 3"),
    ({"wait_for": 4}, {}, "policy.wait_for = 4 is more than learners = 3"),
    ({}, {"faults": "leave:0@3s leave:1@3s leave:2@3s"}, "standstill at step"),
])  # fmt: skip
def test_a_run_that_could_not_end_is_refused(policy: dict, world: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run(ToyTask(), small(**policy), World(learners=3, **world))


def test_data_parallel_has_no_faults() -> None:
    with pytest.raises(ConfigError, match="fault_rate"):
        run_data_parallel(ToyTask(), World(learners=2, fault_rate=0.1), steps=5)
    with pytest.raises(ConfigError, match="evals = 0"):
        run(ToyTask(), small(), World(), evals=0)
