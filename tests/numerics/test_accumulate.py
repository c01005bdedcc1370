"""Accumulators against the formulas in float64, RDA's edges, screening."""

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skerry.codecs import get_codec
from skerry.core.layout import TensorSpec, build_layout
from skerry.core.screening import HEAVIEST, weight_of
from skerry.numerics import accumulate
from skerry.numerics.accumulate import BLOCK, Accumulator, Part, parts_of, screen
from skerry.numerics.outer import OuterNesterov

FP32 = get_codec("fp32")
PARTS = (
    Part("norm", 100, False),
    Part("long", 2 * BLOCK + 777, False),  # begins and ends within a block, has a whole one
    Part("embedding", 5000, True),
    Part("one", 1, False),
    Part("last", BLOCK - 300, False),
)
SIZE = sum(part.size for part in PARTS)


def body_of(values: np.ndarray, codec=FP32) -> memoryview:
    body = memoryview(bytearray(codec.nbytes(values.size)))
    codec.encode(values.astype(np.float32), body)
    return body


def slices(parts: Sequence[Part]) -> list[slice]:
    ends = np.cumsum([part.size for part in parts])
    return [slice(int(end) - part.size, int(end)) for part, end in zip(parts, ends, strict=True)]


def add(accumulator: Accumulator, parts: Sequence[Part], values: np.ndarray, weight: float, codec=FP32) -> None:
    body = body_of(values, codec)
    screened = screen(parts, body, codec)
    assert screened.flaw == ""
    accumulator.add(body, codec, screened, weight)


def result(accumulator: Accumulator, parts: Sequence[Part]) -> np.ndarray:
    out = np.full(sum(part.size for part in parts), np.nan, np.float32)
    for at, block in accumulator.results():
        out[at : at + block.numel()] = block.numpy()
    return out


def merged(parts: Sequence[Part], rule: str, contributions: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    accumulator = Accumulator(parts, rule)
    for values, weight in zip(contributions, weights, strict=True):
        add(accumulator, parts, values, weight)
    return result(accumulator, parts)


def reference(parts: Sequence[Part], rule: str, contributions: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """algorithm.md's formulas, written out in float64."""
    out = np.zeros(sum(part.size for part in parts))
    total = sum(weights)
    for part, where in zip(parts, slices(parts), strict=True):
        vs = [values[where].astype(np.float64) for values in contributions]
        if part.direct or rule == "direct":
            out[where] = sum(w * v for w, v in zip(weights, vs, strict=True)) / total
            continue
        norms = [np.linalg.norm(v) for v in vs]
        direction = sum(w * v / n for w, v, n in zip(weights, vs, norms, strict=True) if n)
        length = np.linalg.norm(direction)
        if length > 1e-6 * total:
            out[where] = sum(w * n for w, n in zip(weights, norms, strict=True)) / total * direction / length
    return out


def worst(parts: Sequence[Part], have: np.ndarray, want: np.ndarray) -> float:
    """The largest relative L2 distance of any tensor."""
    distances = []
    for where in slices(parts):
        length = np.linalg.norm(want[where].astype(np.float64))
        apart = np.linalg.norm(have[where].astype(np.float64) - want[where])
        distances.append(apart / length if length else apart)
    return max(distances)


def some(count: int, size: int = SIZE, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal(size) * 10.0 ** rng.uniform(-6, 2)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("rule", ["rda", "direct"])
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_equals_the_formulas_in_float64(rule, name):
    codec, contributions = get_codec(name), some(5)
    weights = [weight_of(tokens, 24) for tokens in (1, 500, 49152, 10**9, 3)]
    accumulator = Accumulator(PARTS, rule)
    sent = []
    for values, weight in zip(contributions, weights, strict=True):
        add(accumulator, PARTS, values, weight, codec)
        sent.append(np.empty_like(values))
        codec.decode(body_of(values, codec), sent[-1])
    assert worst(PARTS, result(accumulator, PARTS), reference(PARTS, rule, sent, weights)) < 5e-7


SMALL = (Part("a", 40, False), Part("table", 300, True), Part("b", 700, False), Part("c", 30, False))


@st.composite
def grouped(draw):
    """Contributions with something in common (or opposed), of different length, some tensors zero; and a way to merge
    them: partial sums in any order, of any depth."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 24))
    common = rng.standard_normal(sum(part.size for part in SMALL))
    contributions = []
    for _ in range(count):
        values = draw(st.floats(-1, 1)) * common + rng.standard_normal(common.size)
        values *= 10.0 ** draw(st.integers(-8, 3))
        for where in slices(SMALL):
            if draw(st.integers(0, 9)) == 0:
                values[where] = 0
        contributions.append(values.astype(np.float32))
    weights = draw(st.lists(st.floats(1.0, 1e15), min_size=count, max_size=count))
    merges = [draw(st.tuples(st.integers(0, left - 1), st.integers(0, left - 2))) for left in range(count, 1, -1)]
    return contributions, weights, merges


@settings(max_examples=300, deadline=None)
@given(grouped(), st.sampled_from(["rda", "direct"]))
def test_any_grouping_equals_the_flat_merge(case, rule):
    contributions, weights, merges = case
    groups = []
    for values, weight in zip(contributions, weights, strict=True):
        groups.append(Accumulator(SMALL, rule))
        add(groups[-1], SMALL, values, weight)
    for one, other in merges:
        taken = groups.pop(one)
        groups[other].merge(taken.partial())
    flat = merged(SMALL, rule, contributions, weights)
    assert worst(SMALL, result(groups[0], SMALL), flat) < 1e-6
    assert worst(SMALL, flat, reference(SMALL, rule, contributions, weights)) < 1e-6


def test_a_thousand_contributions_in_groups_equal_the_flat_merge():
    contributions, weights = some(1000, 1070), [1.0 + m % 7 for m in range(1000)]
    top, sites = Accumulator(SMALL, "rda"), [Accumulator(SMALL, "rda") for _ in range(31)]
    for m, (values, weight) in enumerate(zip(contributions, weights, strict=True)):
        add(sites[m % 31], SMALL, values, weight)
    for site in sites:
        top.merge(site.partial())
    assert worst(SMALL, result(top, SMALL), merged(SMALL, "rda", contributions, weights)) < 1e-6


def test_merging_with_an_empty_one_changes_nothing():
    (values,) = some(1)
    want = merged(PARTS, "rda", [values], [2.0])
    full, empty = (Accumulator(PARTS, "rda", torch.full((SIZE,), float("nan"))) for _ in range(2))
    add(full, PARTS, values, 2.0)
    full.merge(Accumulator(PARTS, "rda", torch.full((SIZE,), float("nan"))).partial())
    empty.merge(full.partial())
    np.testing.assert_array_equal(result(full, PARTS), want)
    np.testing.assert_array_equal(result(empty, PARTS), want)


def test_rda_keeps_the_norm_where_direct_averaging_shrinks_it():
    parts, count = (Part("a", 50_000, False),), 16
    rng = np.random.default_rng(7)
    contributions = [rng.standard_normal(50_000) for _ in range(count)]
    contributions = [3 * v / np.linalg.norm(v) for v in contributions]
    assert np.linalg.norm(merged(parts, "rda", contributions, [2.0] * count)) == pytest.approx(3, rel=1e-5)
    shrunk = np.linalg.norm(merged(parts, "direct", contributions, [2.0] * count))
    assert shrunk == pytest.approx(3 / np.sqrt(count), rel=0.05)
    embedding = (Part("a", 50_000, True),)
    np.testing.assert_array_equal(merged(embedding, "rda", contributions, [2.0] * count),
                                  merged(parts, "direct", contributions, [2.0] * count))  # fmt: skip


@pytest.mark.parametrize("rule", ["rda", "direct"])
@pytest.mark.parametrize("weight", [1e-9, 1.0, HEAVIEST])
@pytest.mark.parametrize("scale", [1e-15, 1e-4, 1e8])
def test_one_contributor_gets_its_own_back(rule, weight, scale):
    (values,) = some(1)
    values = (values / np.abs(values).max() * scale).astype(np.float32)
    assert worst(PARTS, merged(PARTS, rule, [values], [weight]), values) < 3e-7


def test_directions_that_cancel_out_give_nothing():
    (values,) = some(1)
    rda = [where for part, where in zip(PARTS, slices(PARTS), strict=True) if not part.direct]
    for difference, comes_to in [(0, 0), (1e-6, 0), (1e-4, 1)]:
        have = merged(PARTS, "rda", [values, -values], [5.0, 5.0 * (1 - difference)])
        for where in rda:
            assert np.linalg.norm(have[where]) == pytest.approx(comes_to * np.linalg.norm(values[where]), rel=1e-4)


def test_a_zero_tensor_keeps_its_weight():
    (values,) = some(1)
    for nothing in (0.0, 1e-25):
        have = merged(PARTS, "rda", [values, np.full(SIZE, nothing)], [1.0, 3.0])
        assert worst(PARTS, have, values / 4) < 5e-7
    np.testing.assert_array_equal(merged(PARTS, "rda", [np.zeros(SIZE)] * 2, [1.0, 3.0]), np.zeros(SIZE))


def test_without_weight_nothing_moves():
    memory = torch.full((SIZE,), float("nan"))
    np.testing.assert_array_equal(result(Accumulator(PARTS, "rda", memory), PARTS), np.zeros(SIZE))
    np.testing.assert_array_equal(merged(PARTS, "direct", some(1), [0.0]), np.zeros(SIZE))


def test_reset_and_lent_memory_leave_no_trace():
    first, second = some(2)
    memory = torch.full((SIZE + 5,), float("nan"))
    accumulator = Accumulator(PARTS, "rda", memory)
    add(accumulator, PARTS, first, 9.0)
    accumulator.reset()
    add(accumulator, PARTS, second, 2.0)
    np.testing.assert_array_equal(result(accumulator, PARTS), merged(PARTS, "rda", [second], [2.0]))
    assert memory[SIZE:].isnan().all()


@pytest.mark.parametrize("fill", ["random", "equal", "signs"])
def test_norms_are_those_of_float64(fill):
    parts = (Part("a", 3_000_001, False),)
    rng = np.random.default_rng(1)
    values = {"random": rng.standard_normal(parts[0].size), "equal": np.full(parts[0].size, 0.0123),
              "signs": 3e-4 * np.sign(rng.standard_normal(parts[0].size))}[fill].astype(np.float32)  # fmt: skip
    (norm,) = screen(parts, body_of(values), FP32).norms
    assert norm == pytest.approx(np.linalg.norm(values.astype(np.float64)), rel=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, -1e13])
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_a_flaw_is_found_wherever_it_is_and_named(bad, name):
    codec, (values,) = get_codec(name), some(1)
    for part, where in zip(PARTS, slices(PARTS), strict=True):
        for at in {where.start, where.stop - 1, min(where.stop - 1, where.start + BLOCK)}:
            spoiled = values.copy()
            spoiled[at] = bad
            flaw = screen(PARTS, body_of(spoiled, codec), codec).flaw
            assert flaw.endswith(f"in tensor {part.name}") and flaw.startswith("non-finite or too large values (norm ")


def test_a_flawed_or_overweight_contribution_cannot_be_added():
    values = np.full(SIZE, np.inf, np.float32)
    accumulator = Accumulator(PARTS, "rda")
    with pytest.raises(AssertionError):
        accumulator.add(body_of(values), FP32, screen(PARTS, body_of(values), FP32), 1.0)
    (good,) = some(1)
    for weight in (float("nan"), -1.0, 2 * HEAVIEST):
        with pytest.raises(AssertionError):
            accumulator.add(body_of(good), FP32, screen(PARTS, body_of(good), FP32), weight)
    np.testing.assert_array_equal(result(accumulator, PARTS), np.zeros(SIZE))


def test_a_body_of_another_length_is_an_error():
    with pytest.raises(ValueError, match="elements in fp32"):
        screen(PARTS, body_of(np.zeros(SIZE - 1)), FP32)


def test_nothing_overflows_at_the_limits():
    parts = (Part("a", 4, False), Part("b", 4, True))
    big, small = np.full(8, 5e11), np.full(8, 2e-18)
    for rule in ("rda", "direct"):
        contributions = [big] * 1000 + [small] * 1000
        have = merged(parts, rule, contributions, [HEAVIEST] * 2000)
        assert worst(parts, have, reference(parts, rule, contributions, [HEAVIEST] * 2000)) < 1e-4


def test_weight_is_quantity_times_quality():
    assert weight_of(49152, 24) == 49152 * (49152 / 24)
    assert weight_of(0, 1) == 0
    assert weight_of(2**62, 1) == HEAVIEST


def test_memory_does_not_grow_with_the_contributions(monkeypatch):
    monkeypatch.setattr(accumulate, "BLOCK", 1024)
    values, accumulator = body_of(some(1)[0]), Accumulator(PARTS, "rda")
    tracemalloc.start()
    for _ in range(30):
        accumulator.add(values, FP32, screen(PARTS, values, FP32), 1.0)
    assert tracemalloc.get_traced_memory()[1] < SIZE / 4  # bytes: a sixteenth of one fragment
    tracemalloc.stop()


def test_parts_of_a_layout_and_a_whole_round():
    specs = [TensorSpec(name="emb", shape=(10, 7), direct=True), TensorSpec(name="w", shape=(300, 300)),
             TensorSpec(name="n", shape=(5,))]  # fmt: skip
    layout = build_layout(specs, 2, "balanced")
    parts = [parts_of(layout, fragment) for fragment in range(2)]
    assert parts == [(Part("emb", 70, True),), (Part("n", 5, False), Part("w", 90_000, False))]
    contributions, weights = some(3, layout.sizes[1]), [1.0, 2.0, 3.0]
    accumulator = Accumulator(parts[1], "rda")
    for values, weight in zip(contributions, weights, strict=True):
        add(accumulator, parts[1], values, weight)
    theta, buffer = torch.ones(layout.sizes[1]), torch.zeros(layout.sizes[1])
    outer = OuterNesterov(lr=0.8, momentum=0.4)
    for at, delta in accumulator.results():
        stop = at + delta.numel()
        outer.step(theta[at:stop], buffer[at:stop], delta)
    want = reference(parts[1], "rda", contributions, weights)
    np.testing.assert_allclose(theta.numpy(), 1 - 0.8 * 1.4 * want, rtol=1e-5, atol=1e-6)
