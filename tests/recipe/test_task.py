"""The recipe as a Task: rates, batches, losses; that it learns; the configuration's checks."""

import math

import pytest
import torch

from skerry.errors import ConfigError
from skerry.numerics.task import Task
from skerry.recipe.config import RecipeConfig
from skerry.recipe.task import schedule
from support.pattern import PATTERN, task_on, train

torch.set_num_threads(1)


def test_it_learns():
    task: Task = PATTERN
    assert task.evaluate(task.model(0)) > 5
    assert task.evaluate(train(task, 60)) < 1.5


def test_the_loss_is_per_byte_and_says_how_many():
    model = PATTERN.model(0)
    batch = PATTERN.batch(0, 0)
    loss, tokens = PATTERN.loss(model, batch)
    assert tokens == 4 * 16 and batch.shape == (4, 17)
    logits = model(batch[:, :-1])
    chances = torch.softmax(logits, -1).gather(-1, batch[:, 1:, None])
    assert loss.item() == pytest.approx(-chances.log().mean().item(), rel=1e-5)


def test_batches_of_learners_and_steps_differ_and_repeat():
    other = task_on(b"the same again and " * 200)
    assert torch.equal(PATTERN.batch(3, 7), other.batch(3, 7))
    assert not torch.equal(PATTERN.batch(3, 7), PATTERN.batch(3, 8))
    assert not torch.equal(PATTERN.batch(3, 7), PATTERN.batch(4, 7))


def test_evaluation_changes_nothing_and_repeats():
    model = PATTERN.model(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert PATTERN.evaluate(model) == PATTERN.evaluate(model)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not PATTERN.model(0).eval().training and math.isfinite(PATTERN.evaluate(model.eval())) and not model.training


def test_only_matrices_decay():
    model = PATTERN.model(0)
    groups = PATTERN.optimizer(model).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, plain = ({names[id(p)] for p in group["params"]} for group in groups)
    assert {g["weight_decay"] for g in groups} == {PATTERN.config.weight_decay, 0.0}
    assert decayed | plain == set(names.values()) and not decayed & plain
    assert "embed.weight" in plain and "norm.weight" in plain and "head.weight" in decayed
    assert all("norm" in name or "embed" in name for name in plain)


def test_rates():
    config = RecipeConfig(warmup=0.1, lr_final=0.25, rewarmup=9)
    late = 1000
    assert schedule(config, 0.05, late) == pytest.approx(0.5)
    assert schedule(config, 0.1, late) == pytest.approx(1.0)
    assert schedule(config, 0.55, late) == pytest.approx((1 + 0.25) / 2)
    assert schedule(config, 1.0, late) == schedule(config, 1.7, late) == pytest.approx(0.25)
    assert 0 < schedule(config, 0.0, 0) < 0.01
    rates = [schedule(config, 0.5, since) for since in range(12)]
    assert rates[0] == pytest.approx(rates[-1] / 10) and rates == sorted(rates) and rates[9] == rates[-1]
    assert schedule(RecipeConfig(warmup=0, rewarmup=0), 0.0, 0) == 1.0
    optimizer = PATTERN.optimizer(PATTERN.model(0))
    PATTERN.set_rate(optimizer, 0.5, late)
    expected = PATTERN.config.lr * schedule(PATTERN.config, 0.5, late)
    assert [group["lr"] for group in optimizer.param_groups] == [expected] * 2


@pytest.mark.parametrize(
    "wrong",
    [{"model": "huge"}, {"lr": 0}, {"lr": math.inf}, {"context": 1}, {"batch": 0}, {"warmup": 1.5}, {"lr_final": -1},
     {"betas": (0.9, 1.0)}, {"seed": -1}, {"threads": 0}, {"eval_windows": 0}, {"shards": -1}, {"rewarmup": -1}],
)  # fmt: skip
def test_impossible_configurations(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))) as caught:
        RecipeConfig(**wrong)
    assert caught.value.remedy
