"""The merger: rounds accumulate, close, or leave no trace; memory is used again."""

from __future__ import annotations

import numpy as np

from skerry.core.policy import Policy
from skerry.numerics.merger import Merger
from support.puppet import small_layout

POLICY = Policy(fragments=2, interval=4, merge="direct", codec_up="fp32", outer_lr=0.5, outer_momentum=0.0)
LAYOUT = small_layout(POLICY)


def body(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)


def made() -> Merger:
    theta = np.random.default_rng(0).normal(size=LAYOUT.total).astype(np.float32)
    return Merger(POLICY, LAYOUT, theta.copy(), np.zeros_like(theta))


def add(merger: Merger, fragment: int, step: int, values: np.ndarray, weight: float) -> None:
    contribution = body(values)
    sent = memoryview(contribution)
    merger.add(fragment, step, sent, merger.screen(fragment, sent), weight)


def test_a_round_moves_its_fragment_and_no_other():
    merger, size = made(), LAYOUT.sizes[1]
    before = merger.theta.copy()
    add(merger, 1, 5, np.full(size, 2.0), 1.0)
    add(merger, 1, 5, np.full(size, 6.0), 3.0)
    encoded = merger.close(1, 5)
    assert np.allclose(merger.values(1), before[LAYOUT.offsets[1] :] - 0.5 * 5.0, atol=1e-6)
    assert np.array_equal(merger.values(0), before[: LAYOUT.sizes[0]])
    assert encoded.tobytes() == merger.values(1).tobytes(), "what is sent is what is held"


def test_two_rounds_are_kept_apart_and_a_cancelled_one_leaves_no_trace():
    merger = made()
    before = merger.theta.copy()
    add(merger, 0, 1, np.full(LAYOUT.sizes[0], 100.0), 1.0)
    add(merger, 1, 2, np.full(LAYOUT.sizes[1], 4.0), 1.0)
    merger.cancel(0, 1)
    merger.cancel(0, 9)  # nothing was ever in it
    add(merger, 0, 3, np.full(LAYOUT.sizes[0], 2.0), 1.0)
    merger.close(1, 2)
    merger.close(0, 3)
    expected = before - 0.5 * np.repeat([2.0, 4.0], LAYOUT.sizes).astype(np.float32)
    assert np.allclose(merger.theta, expected, atol=1e-6)


def test_bodies_are_used_again():
    merger = made()
    first = merger.encode(0)
    merger.reuse(0, [first])
    assert merger.encode(0) is first and merger.encode(0) is not first


def test_a_first_value_is_screened():
    merger = made()
    before, value = merger.values(0).copy(), np.arange(merger.values(0).size, dtype=np.float32)
    flaw, body = merger.provide(0, value.data.cast("B"))
    assert flaw == "" and np.array_equal(body.view(np.float32), value), "its encoding is what will be sent"
    assert np.array_equal(merger.values(0), before), "it is not the run's yet"
    merger.adopt(0, value.data.cast("B"))
    assert np.array_equal(merger.values(0), value)
    value[-1] = np.inf
    assert "non-finite" in merger.provide(0, value.data.cast("B"))[0]
