"""The decoder: its sizes, its beginning, what a byte may see."""

import math

import pytest
import torch

from skerry.errors import ConfigError
from skerry.recipe.model import Decoder
from skerry.recipe.sizes import SIZES, ModelConfig

torch.set_num_threads(1)
SMALLEST = ModelConfig(width=16, layers=2, heads=2, hidden=24)


@pytest.mark.parametrize(("size", "about"), [("nano", 0.25e6), ("tiny", 1e6), ("small", 10e6)])
def test_sizes(size, about):
    model = Decoder(SIZES[size], context=16)
    parameters = list(model.parameters())
    assert sum(p.numel() for p in parameters) == pytest.approx(about, rel=0.1)
    assert len(parameters) >= 24, "the default policy wants 24 fragments of whole tensors"
    assert not [name for name in model.state_dict() if name not in dict(model.named_parameters())]


def test_the_first_predictions_are_nearly_uniform():
    model = Decoder(SIZES["nano"], context=64)
    bytes_ = torch.randint(256, (8, 65), generator=torch.Generator().manual_seed(1))
    loss = torch.nn.functional.cross_entropy(model(bytes_[:, :-1]).flatten(0, 1), bytes_[:, 1:].flatten())
    assert 5.4 < loss.item() < 5.7 and abs(loss.item() - math.log(256)) < 0.1


def test_initial_values_follow_from_the_seed_alone():
    torch.manual_seed(5)
    first = Decoder(SMALLEST, context=8, seed=3).state_dict()
    torch.manual_seed(6)
    state = torch.get_rng_state()
    second = Decoder(SMALLEST, context=8, seed=3).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], Decoder(SMALLEST, context=8, seed=4).state_dict()["head.weight"])
    assert torch.equal(state, torch.get_rng_state()), "the caller's random state is left alone"


def test_a_byte_sees_what_is_before_it_and_nothing_after():
    model = Decoder(SMALLEST, context=12, seed=0).eval()
    before = torch.arange(12)[None] * 7
    after = before.clone()
    after[0, 8] = 200
    ours, theirs = model(before), model(after)
    assert torch.allclose(ours[:, :8], theirs[:, :8], atol=1e-6)
    assert not torch.allclose(ours[:, 8:], theirs[:, 8:], atol=1e-3)
    assert torch.allclose(model(before[:, :5]), ours[:, :5], atol=1e-5), "a shorter window is a prefix"
    swapped = before.clone()
    swapped[0, [2, 3]] = before[0, [3, 2]]
    assert not torch.allclose(model(swapped)[:, -1], ours[:, -1], atol=1e-4), "order matters"


def test_attention_depends_on_distances_not_on_places():
    """Rotary positions: the same two bytes at the same distance weigh each other alike wherever they stand."""
    from skerry.recipe.model import _rotary, _turned

    turns = _rotary(32, 8)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(8, generator=generator), torch.randn(8, generator=generator)
    turned = [_turned(x.expand(32, 8), turns) for x in (query, key)]
    scores = turned[0] @ turned[1].T
    for distance in (0, 1, 5, 20):
        along = scores.diagonal(-distance)
        assert torch.allclose(along, along[0].expand_as(along), atol=1e-4)
    assert torch.allclose(turned[0].norm(dim=-1), query.norm().expand(32), atol=1e-5)


@pytest.mark.parametrize("wrong", [{"width": 18}, {"layers": 0}, {"heads": 0}])
def test_impossible_shapes(wrong):
    with pytest.raises(ConfigError):
        ModelConfig(**{"width": 16, "layers": 1, "heads": 4, "hidden": 8, **wrong})
