"""A syncer among strangers and liars: it goes on, and so does everybody who is honest (measured: benchmarks/hostile.py)."""

from __future__ import annotations

import asyncio
import dataclasses
import typing
from pathlib import Path

import pytest
from benchmarks.hostile import POLICY, Fuzzer, besiege

from skerry.errors import ProtocolError
from skerry.fabric.messages import KINDS
from skerry.fabric.wire import LARGEST_MESSAGE, FrameReader

pytestmark = pytest.mark.processes


def test_a_syncer_among_hostile_peers_goes_on(tmp_path: Path) -> None:
    found = asyncio.run(besiege(tmp_path, 1500, seed=7))
    assert found["up"] and found["rounds"] > 0 and found["links"] > 0 and found["joins"] > 0
    assert found["whole"] >= 0.99 and found["relinked"] == 0
    assert found["join_s"] < 5
    assert found["log"] < 200_000, "what is refused so often is said in few lines"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.cls.__name__)
def test_the_fuzzer_makes_frames_of_every_kind_that_are_read_and_that_are_not(kind: typing.Any) -> None:
    fuzzer = Fuzzer(5)
    read = ended = 0
    for _ in range(3000):
        data = fuzzer.frame(kind, headers=False)
        reader = FrameReader(LARGEST_MESSAGE)
        part = data[: len(reader.buffer())]
        reader.buffer()[: len(part)] = part
        reader.feed(len(part))
        try:
            read += reader.next() is not None
        except ProtocolError:
            ended += 1
    assert read and (ended or not dataclasses.fields(kind.cls))


def test_the_fuzzer_repeats_itself() -> None:
    one, two = Fuzzer(3), Fuzzer(3)
    assert all(one.frame(kind) == two.frame(kind) for kind in KINDS) and POLICY.quorum == 3
