"""Which parameters a run trains, and moving them in and out of fp32 memory without a bit changed that should not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from skerry.core.layout import build_layout
from skerry.errors import ConfigError
from skerry.numerics.parameters import Fragments, Parameters


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight
        self.bag = nn.EmbeddingBag(3, 2)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)
        self.register_buffer("mask", torch.ones(2))


def test_tied_once_embeddings_direct_frozen_left_out() -> None:
    parameters = Parameters(Tied())
    assert [(s.name, s.shape, s.direct) for s in parameters.specs] == [
        ("embed.weight", (5, 4), True), ("body.weight", (4, 4), False), ("body.bias", (4,), False),
        ("bag.weight", (3, 2), True),
    ]  # fmt: skip
    assert parameters.aliases == {"head.weight": "embed.weight"}


def test_a_compiled_model_has_the_same_names() -> None:
    model = Tied()
    assert Parameters(torch.compile(model)).specs == Parameters(model).specs


def test_what_cannot_be_trained_is_said() -> None:
    with pytest.raises(ConfigError, match="no trainable parameters"):
        Parameters(nn.ReLU())
    with pytest.raises(ConfigError, match="complex64"):
        Parameters(nn.ParameterDict({"z": nn.Parameter(torch.ones(2, dtype=torch.complex64))}))


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _mixed() -> tuple[nn.ParameterDict, Fragments]:
    """One fragment of every dtype, one of its tensors not contiguous."""
    torch.manual_seed(1)
    model = nn.ParameterDict({f"p{i}": nn.Parameter(torch.randn(3, 5).to(d)) for i, d in enumerate(DTYPES)})
    model["q"] = nn.Parameter(torch.randn(4, 6).t())
    assert not model["q"].is_contiguous()
    parameters = Parameters(model)
    return model, Fragments(parameters, build_layout(parameters.specs, 1, "balanced"))


def _flat(model: nn.ParameterDict) -> torch.Tensor:
    return torch.cat([model[name].detach().reshape(-1).float() for name in sorted(model.keys())])


def test_out_and_in_again_changes_nothing() -> None:
    model, fragments = _mixed()
    before = _flat(model)
    area = np.empty(before.numel(), np.float32)
    fragments.copy_out(0, area)
    assert np.array_equal(area, before.numpy())
    with torch.no_grad():
        for parameter in model.values():
            parameter.zero_()
    fragments.overwrite(0, area)
    assert torch.equal(_flat(model), before)
    assert all(p.grad_fn is None and p.requires_grad for p in model.values())


def test_add_and_blend_round_once() -> None:
    for how in ("add", "blend"):
        model, fragments = _mixed()
        change = np.random.default_rng(2).standard_normal(_flat(model).numel()).astype(np.float32)
        expected, at = [], 0
        for name in sorted(model.keys()):
            old = model[name].detach().float().reshape(-1)
            part = torch.from_numpy(change[at : at + old.numel()])
            new = old + part if how == "add" else torch.lerp(old, part, 0.25)
            expected.append(new.to(model[name].dtype).float())
            at += old.numel()
        if how == "add":
            fragments.add(0, change)
        else:
            fragments.blend(0, change, 0.25)
        assert torch.allclose(_flat(model), torch.cat(expected), rtol=0, atol=1e-7)
