"""The adaptive grace window."""

from __future__ import annotations

import json

import pytest

from skerry.core.grace import ENOUGH, Average, Grace
from skerry.core.plain import dump, load


def filled(gamma: float = 0.9, overlap: int = 2, *, step: float, quorum: float, sync: float, samples: int = ENOUGH) -> Grace:
    grace = Grace(gamma, overlap)
    for _ in range(samples):
        for average, value in ((grace.step, step), (grace.quorum, quorum), (grace.sync, sync)):
            average.add(value)
    return grace


def test_the_window_is_gamma_times_the_slack() -> None:
    assert filled(0.5, 3, step=2.0, quorum=1.0, sync=0.5).window() == pytest.approx(0.5 * (3 * 2.0 - 1.5))


def test_negative_slack_is_no_grace() -> None:
    assert filled(step=1.0, quorum=1.5, sync=1.0).window() == 0.0


def test_before_five_samples_of_each_the_window_is_one_step() -> None:
    assert Grace(0.9, 2).window() == 0.0
    grace = filled(step=1.0, quorum=0.1, sync=0.1, samples=ENOUGH - 1)
    assert grace.window() == 1.0
    grace.step.add(1.0)
    grace.quorum.add(0.1)
    assert grace.window() == 1.0
    grace.sync.add(0.1)
    assert grace.window() == pytest.approx(0.9 * 1.8)


def test_without_gamma_there_is_never_a_window() -> None:
    assert filled(0.0, step=1.0, quorum=0.0, sync=0.0, samples=1).window() == 0.0


def test_averages_keep_nine_tenths_and_begin_with_the_first_sample() -> None:
    average = Average()
    average.add(10.0)
    assert average.value == 10.0
    average.add(0.0)
    assert average.value == pytest.approx(9.0) and average.samples == 2


def test_state_comes_back() -> None:
    grace, again = filled(step=1.0, quorum=0.2, sync=0.1), Grace(0.9, 2)
    load(again, json.loads(json.dumps(dump(grace))))
    assert again.window() == grace.window() and dump(again) == dump(grace)
