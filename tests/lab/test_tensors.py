"""The lab's learner on constant vectors: what each rule makes of a value, by hand, and the base it leaves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skerry.codecs import get_codec
from skerry.core.layout import build_layout
from skerry.core.messages import TakeOverRule
from skerry.core.presets import preset
from skerry.lab.tensors import LabTrainer
from skerry.numerics.parameters import Parameters

BLEND = 0.25


class Constant:
    """A Task whose one parameter starts at 0 and moves by 1 a step."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def model(self, seed: int) -> nn.Module:
        model = nn.Linear(4, 1, bias=False).to(self.dtype)
        nn.init.zeros_(model.weight)
        return model

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1.0)

    def set_rate(self, optimizer: torch.optim.Optimizer, progress: float, since_start: int) -> None:
        pass

    def batch(self, learner: int, step: int) -> None:
        pass

    def loss(self, model: nn.Module, batch: object) -> tuple[Tensor, int]:
        return -model.weight.sum(), 1

    def evaluate(self, model: nn.Module) -> float:
        return 0.0


def trainer(dtype: torch.dtype = torch.float32) -> LabTrainer:
    policy = preset("diloco", steps=9, blend=BLEND, codec_up="fp32", codec_down="fp32")
    task = Constant(dtype)
    return LabTrainer(task, 0, policy, build_layout(Parameters(task.model(0)).specs, 1, policy.fragmentation), 0)


def body(value: float) -> np.ndarray:
    codec, encoded = get_codec("fp32"), np.empty(16, np.uint8)
    codec.encode(np.full(4, value, np.float32), memoryview(encoded))
    return encoded


def base(learner: LabTrainer) -> list[float]:
    """What hand-overs are measured from."""
    delta = np.empty(4, np.float32)
    get_codec("fp32").decode(memoryview(learner.hand_over(0, np.zeros(4, np.float32))), delta)
    return delta.tolist()


@pytest.mark.parametrize(("rule", "parameters"), [
    ("overwrite", 10),
    ("blend", BLEND * 10 + (1 - BLEND) * 5),
    ("carry", 5 + (10 - 2)),  # all that it did since its base is kept
    ("rebase", 5 + (10 - 4)),  # only what it did since the hand-over
])  # fmt: skip
def test_each_rule_by_hand(rule: TakeOverRule, parameters: float) -> None:
    """The base is 2, two steps lead to 4, which is handed over, one more to 5; then 10 is delivered."""
    learner = trainer()
    learner.take_over(0, "overwrite", body(2), None)
    for step in range(2):
        learner.step(step, 0.0, step)
    copy = learner.copy_out(0)
    assert copy.tolist() == [4] * 4 and base(learner) == [2] * 4
    learner.step(2, 0.0, 2)
    learner.take_over(0, rule, body(10), copy)
    assert learner.copy_out(0).tolist() == [parameters] * 4
    assert copy.tolist() == [4] * 4 and base(learner) == [10] * 4


def test_the_base_is_what_the_parameters_can_hold() -> None:
    """1.001 is 1 in bfloat16: without that a learner that made no step would hand the rounding over as its work."""
    learner = trainer(torch.bfloat16)
    learner.take_over(0, "overwrite", body(1.001), None)
    assert base(learner) == learner.copy_out(0).tolist() == [1] * 4
