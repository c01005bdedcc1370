"""The merger: rounds accumulate, close, or leave no trace; memory is used again."""

from __future__ import annotations

import numpy as np
import pytest

from skerry.core.policy import Policy
from skerry.numerics.merger import Merger
from skerry.numerics.slots import checksum_of
from support.puppet import small_layout

POLICY = Policy(fragments=2, interval=4, merge="direct", codec_up="fp32", outer_lr=0.5, outer_momentum=0.0)
LAYOUT = small_layout(POLICY)


def body(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)


def made() -> Merger:
    merger, random = Merger(POLICY, LAYOUT), np.random.default_rng(0)
    for fragment, size in enumerate(LAYOUT.sizes):
        merger.adopt(fragment, random.normal(size=size).astype(np.float32))
    return merger


def whole(merger: Merger) -> np.ndarray:
    return np.concatenate(merger.slots.thetas())


def close(merger: Merger, fragment: int, step: int, version: int = 1) -> np.ndarray:
    """The version exists at once; gives it, encoded."""
    body, checksum = merger.close(fragment, step)
    merger.slots.flip(fragment, version=version, step=step, position=0, checksum=checksum)
    return body


def add(merger: Merger, fragment: int, step: int, values: np.ndarray, weight: float) -> None:
    contribution = body(values)
    sent = memoryview(contribution)
    merger.add(fragment, step, sent, merger.screen(fragment, sent), weight)


def test_a_round_moves_its_fragment_and_no_other():
    merger, size = made(), LAYOUT.sizes[1]
    before = whole(merger)
    add(merger, 1, 5, np.full(size, 2.0), 1.0)
    add(merger, 1, 5, np.full(size, 6.0), 3.0)
    encoded = close(merger, 1, 5)
    assert np.allclose(merger.values(1), before[LAYOUT.offsets[1] :] - 0.5 * 5.0, atol=1e-6)
    assert np.array_equal(merger.values(0), before[: LAYOUT.sizes[0]])
    assert encoded.tobytes() == merger.values(1).tobytes(), "what is sent is what is held"


def test_two_rounds_are_kept_apart_and_a_cancelled_one_leaves_no_trace():
    merger = made()
    before = whole(merger)
    add(merger, 0, 1, np.full(LAYOUT.sizes[0], 100.0), 1.0)
    add(merger, 1, 2, np.full(LAYOUT.sizes[1], 4.0), 1.0)
    merger.cancel(0, 1)
    merger.cancel(0, 9)  # nothing was ever in it
    add(merger, 0, 3, np.full(LAYOUT.sizes[0], 2.0), 1.0)
    close(merger, 1, 2)
    close(merger, 0, 3)
    expected = before - 0.5 * np.repeat([2.0, 4.0], LAYOUT.sizes).astype(np.float32)
    assert np.allclose(whole(merger), expected, atol=1e-6)


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


def test_a_version_is_none_until_it_is_turned() -> None:
    merger = made()
    before, size = merger.values(0).copy(), LAYOUT.sizes[0]
    add(merger, 0, 4, np.ones(size), 1.0)
    body, checksum = merger.close(0, 4)
    assert np.array_equal(merger.values(0), before) and merger.slots.headers[0].version == 0
    assert np.array_equal(body.view(np.float32), merger.slots.made(0).theta)
    assert checksum == checksum_of(merger.slots.made(0)), "taken block by block, it is that of the slot"
    add(merger, 0, 5, np.full(size, 2.0), 1.0)  # nothing came of the first one
    merger.slots.flip(0, version=1, step=5, position=9, checksum=merger.close(0, 5).checksum)
    assert np.allclose(merger.values(0), before - 1.0, atol=1e-6)
    assert merger.slots.headers[0][:3] == (1, 5, 9)


def test_a_value_that_would_not_be_finite_is_none() -> None:
    policy = POLICY.replace(outer_lr=1e30, outer_momentum=0.5)
    merger = Merger(policy, LAYOUT)
    for fragment, size in enumerate(LAYOUT.sizes):
        merger.adopt(fragment, np.ones(size, np.float32))
    values = np.zeros(LAYOUT.sizes[1])
    values[-1] = 1e11
    add(merger, 1, 3, values, 1.0)
    with pytest.raises(FloatingPointError, match="not be finite"):
        merger.close(1, 3)
    assert (merger.values(1) == 1.0).all() and not merger.slots.present(1).momentum.any()
    add(merger, 1, 4, np.zeros(LAYOUT.sizes[1]), 1.0)
    close(merger, 1, 4)
    assert (merger.values(1) == 1.0).all()
