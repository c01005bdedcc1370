"""Layout and fragmentation: deterministic, a partition, and what is refused."""

from __future__ import annotations

import json
from itertools import product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.core.layout import Layout, TensorSpec, build_layout
from skerry.errors import ConfigError

MODEL = [
    TensorSpec(name="embed.weight", shape=(256, 32), direct=True),
    *(TensorSpec(name=f"layers.{i}.{n}", shape=s) for i in range(6) for n, s in [("attn.w", (32, 96)), ("norm.w", (32,))]),
    TensorSpec(name="norm.weight", shape=(32,)),
]


def names(layout: Layout, fragment: int) -> list[str]:
    return [layout.tensors[piece.tensor].name for piece in layout.fragments[fragment]]


def layers(layout: Layout) -> list[list[int]]:
    """The numbers of the layers in each fragment."""
    found = [[n for n in names(layout, p) if n.startswith("layers")] for p in range(len(layout.fragments))]
    return [sorted({int(n.split(".")[1]) for n in fragment}) for fragment in found]


@pytest.mark.parametrize("kind", ["balanced", "strided", "layer"])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_fragments_partition_the_parameters_whatever_the_order_of_the_tensors(kind: str, count: int) -> None:
    layout = build_layout(MODEL, count, kind)
    pieces = [piece for fragment in layout.fragments for piece in fragment]
    assert sorted(piece.tensor for piece in pieces) == list(range(len(MODEL)))
    assert all((p.start, p.stop) == (0, layout.tensors[p.tensor].size) for p in pieces)
    assert layout.total == sum(tensor.size for tensor in MODEL) == sum(layout.sizes)
    assert layout.offsets == tuple(sum(layout.sizes[:p]) for p in range(count))
    for seed in range(5):
        shuffled = Random(seed).sample(MODEL, len(MODEL))
        again = build_layout(shuffled, count, kind)
        assert again == layout and again.hash == layout.hash


def test_the_hash_covers_names_shapes_kinds_and_fragments() -> None:
    def model(name: str = "a", shape: tuple[int, ...] = (2, 3), direct: bool = False) -> list[TensorSpec]:
        return [TensorSpec(name=name, shape=shape, direct=direct), TensorSpec(name="b", shape=(6,))]

    layouts = [build_layout(model(), 2, "balanced"), build_layout(model(name="c"), 2, "balanced"),
               build_layout(model(shape=(3, 2)), 2, "balanced"), build_layout(model(direct=True), 2, "balanced"),
               build_layout(model(), 1, "balanced")]  # fmt: skip
    assert len({layout.hash for layout in layouts}) == len(layouts)


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6), data=st.data())
@settings(max_examples=200, deadline=None)
def test_balanced_stays_within_four_thirds_of_the_best_peak(sizes: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, min(3, len(sizes))))
    layout = build_layout([TensorSpec(name=str(i), shape=(n,)) for i, n in enumerate(sizes)], count, "balanced")
    ways = product(range(count), repeat=len(sizes))
    best = min(max(sum(n for n, b in zip(sizes, way, strict=True) if b == bin_) for bin_ in range(count)) for way in ways)
    assert 3 * max(layout.sizes) <= 4 * best


@given(kinds=st.lists(st.tuples(st.booleans(), st.integers(1, 100)), min_size=2, max_size=12), data=st.data())
@settings(max_examples=200, deadline=None)
def test_embeddings_have_fragments_of_their_own(kinds: list[tuple[bool, int]], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(kinds)))
    specs = [TensorSpec(name=str(i), shape=(n,), direct=direct) for i, (direct, n) in enumerate(kinds)]
    layout = build_layout(specs, count, "balanced")
    assert len(layout.fragments) == count and all(layout.fragments)
    for fragment in layout.fragments:
        assert count == 1 or len({layout.tensors[piece.tensor].direct for piece in fragment}) == 1


def test_strided_takes_every_pth_layer_and_layer_takes_neighbours() -> None:
    assert layers(build_layout(MODEL, 3, "strided")) == [[0, 3], [1, 4], [2, 5]]
    assert layers(build_layout(MODEL, 3, "layer")) == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("kind", ["strided", "layer"])
def test_what_belongs_to_no_layer_goes_with_the_first_one(kind: str) -> None:
    layout = build_layout(MODEL, 6, kind)
    assert {"embed.weight", "norm.weight"} <= set(names(layout, 0))


def test_layers_are_ordered_by_number_not_by_name() -> None:
    layout = build_layout([TensorSpec(name=f"h.{i}.w", shape=(2,)) for i in range(12)], 12, "layer")
    assert [names(layout, p) for p in range(12)] == [[f"h.{i}.w"] for i in range(12)]


def test_named_patterns_are_averaged_directly() -> None:
    layout = build_layout(MODEL, 2, "balanced", direct=["norm"])
    assert {t.name for t in layout.tensors if t.direct} == {t.name for t in MODEL if "norm" in t.name} | {"embed.weight"}


def test_tensors_without_elements_are_left_out() -> None:
    layout = build_layout([*MODEL, TensorSpec(name="empty", shape=(0, 4))], 2, "balanced")
    assert layout == build_layout(MODEL, 2, "balanced")


@pytest.mark.parametrize(("kind", "count", "what"), [("balanced", 15, "14 trainable tensors"), ("layer", 7, "6 layers"),
                                                     ("strided", 7, "6 layers")])  # fmt: skip
def test_more_fragments_than_parts_are_refused(kind: str, count: int, what: str) -> None:
    with pytest.raises(ConfigError, match=rf"policy.fragments = {count} .*{what}.*or less"):
        build_layout(MODEL, count, kind)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ConfigError, match="no trainable parameters"):
        build_layout([], 1, "balanced")


def test_json_gives_the_same_layout_back() -> None:
    layout = build_layout(MODEL, 4, "balanced")
    assert Layout.from_json(layout.to_json()) == layout
    assert Layout.from_json(layout.to_json()).hash == layout.hash


A, B = ["a", [2, 3], False], ["b", [4], True]


@pytest.mark.parametrize("plain", [
    "no JSON", "[]", "{}", "3", "[" * 100_000, {"tensors": 3, "fragments": []}, {"tensors": [["a"]], "fragments": []},
    {"tensors": [A], "fragments": [[[0, 0, 5]]]},
    {"tensors": [A], "fragments": [[[0, 0, 7]]]},
    {"tensors": [A], "fragments": [[[0, 0, 4], [0, 3, 6]]]},
    {"tensors": [A], "fragments": [[[0, 0, 2], [0, 4, 6]]]},
    {"tensors": [A], "fragments": [[[0, 0, 6]], [[0, 0, 6]]]},
    {"tensors": [A], "fragments": [[[0, 0, 6]], []]},
    {"tensors": [A], "fragments": [[[0, 0, 6], [0, 6, 6]]]},
    {"tensors": [A], "fragments": [[[0, 0, 6], [1, 0, 4]]]},
    {"tensors": [A, B], "fragments": [[[0, 0, 6]]]},
    {"tensors": [A, A], "fragments": [[[0, 0, 6], [1, 0, 6]]]},
    {"tensors": [["a", [-2, -3], False]], "fragments": [[[0, 0, 6]]]},
    {"tensors": [["a", [float("inf")], False]], "fragments": [[[0, 0, 6]]]},
])  # fmt: skip
def test_what_is_no_partition_is_no_layout(plain: object) -> None:
    with pytest.raises(ConfigError, match="not a layout"):
        Layout.from_json(plain if isinstance(plain, str) else json.dumps(plain))


def test_pieces_of_one_tensor_may_lie_in_several_fragments() -> None:
    layout = Layout.from_json(json.dumps({"tensors": [A, B], "fragments": [[[0, 0, 2], [1, 0, 4]], [[0, 2, 6]]]}))
    assert layout.sizes == (6, 4)
