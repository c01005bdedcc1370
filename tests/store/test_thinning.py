"""metrics.jsonl over months: what is put away, what of it stays, and that it is read as one."""

import json
import os
import resource
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry.store import metrics as module
from skerry.store.metrics import MetricsLog, Tail, read, read_run
from skerry.store.records import Begin, Event, Round, Sample, Status, encode
from skerry.store.thinning import DAY, FULL, HOUR, MB_A_MONTH, MINUTE, SEGMENT, TEN, Thinning, kept_of, segments, thin

OLD = Path(__file__).parent / "old_run"


LAST = ("phase", "step", "exported", "learners")


def status(t, **more):
    return Status(t=t, run="r", phase="running", step=int(t), rounds=int(t), params=10**9, bytes_up=10**13, **more)


def sample(t, learner):
    return Sample(t=t, learner=learner, generation=1, state="training", clock=10**6, steps=10**6, tokens=10**12, tokens_s=1e5,
                  loss=2.34567891234, median_step_s=0.123456, max_gap_s=1.23456, max_hook_s=0.001234, hook_share=0.00012345,
                  pid_trainer=123456, pid_agent=123457, host="a-host-of-the-fleet")  # fmt: skip


def closed(t, learners=8):
    return Round(t=t, fragment=3, step=int(t), version=10**5, contributors=learners, included=tuple(range(learners)),
                 learners=learners, open_s=1.2345, grace_s=0.1234)  # fmt: skip


def an_hour(begin=0.0, learners=8, rounds=10):
    """As a syncer writes it: once a second, and each round."""
    for second in range(round(HOUR)):
        t = begin + second
        yield status(t)
        yield from (sample(t, learner) for learner in range(learners))
        yield from (closed(t + i / rounds) for i in range(rounds))


def lines(records):
    return [encode(record) + b"\n" for record in records]


def test_a_month_of_eight_learners_at_ten_rounds_a_second_fits():
    hour = lines(an_hour())
    minutes = kept_of(hour, MINUTE)
    tens = kept_of(minutes, TEN)
    whole, day, past = (sum(map(len, kept)) for kept in (hour, minutes, tens))
    assert min(FULL + 1, -(-whole // SEGMENT) + 1) * SEGMENT + 24 * day + 29 * 24 * past < MB_A_MONTH * 1e6
    assert (FULL + 1) * SEGMENT + 24 * day + 29 * 24 * past < MB_A_MONTH * 1e6, "nor if there are more rounds"
    times = [record.t for record in map(module.decode, minutes) if isinstance(record, Status)]
    assert times == [59.0 + 60 * i for i in range(60)]
    assert len(minutes) == 60 * 10 and len(tens) == 6 * 10


kinds = st.one_of(
    st.builds(status, st.floats(0, 5000)), st.builds(sample, st.floats(0, 5000), st.integers(0, 2)),
    st.builds(closed, st.floats(0, 5000)), st.builds(Begin, t=st.floats(0, 5000), unix=st.just(1.0)),
    st.builds(Event, t=st.floats(0, 5000), event=st.sampled_from(["join", "dead"]), learner=st.integers(-1, 1)),
)  # fmt: skip


@given(st.lists(kinds))
def test_thinning_leaves_lines_as_they_were_and_once_is_enough(records):
    whole = lines(records)
    once = kept_of(whole, MINUTE)
    assert kept_of(once, MINUTE) == once and kept_of(kept_of(whole, MINUTE), TEN) == kept_of(whole, TEN)
    rest = iter(whole)
    assert all(line in rest for line in once), "in their order"
    assert [line for line in once if b"begin" in line] == [line for line in whole if b"begin" in line]


def test_an_old_run_thinned_reads_as_it_did(tmp_path):
    """Of a run of half a minute the last of everything is left, and so is what its end was."""
    shutil.copytree(OLD, tmp_path / "run")
    before = read_run(tmp_path / "run")
    path = tmp_path / "run/metrics.jsonl"
    was = path.stat().st_mtime_ns
    thin(path, MINUTE)
    after = read_run(tmp_path / "run")
    assert path.stat().st_size < (OLD / "metrics.jsonl").stat().st_size / 4 and path.stat().st_mtime_ns == was
    assert [vars(after)[name] for name in LAST] == [vars(before)[name] for name in LAST]


@pytest.fixture
def small(monkeypatch):
    """Segments of a kilobyte."""
    monkeypatch.setattr(module, "SEGMENT", 1 << 10)


def test_what_is_full_is_put_away_and_all_of_it_is_read(tmp_path, small):
    path = tmp_path / "metrics.jsonl"
    log, tail, heard = MetricsLog(path, print), Tail(path), []
    log.add(Begin(t=0.0, unix=1.0))
    for t in range(40):
        log.add(status(float(t)))
        log.flush()
        if t % 2:
            heard += tail.new()
    log.close()
    put = segments(path)
    assert len(put) > 4 and [p.name for p in put][:2] == ["000001.jsonl", "000002.jsonl"]
    assert [record.t for record in heard] == [0.0, *map(float, range(40))], "who looks on misses nothing"
    assert [record.t for p in (*put, path) for record in read(p)][-2:] == [38.0, 39.0]
    assert read_run(tmp_path).rounds == 39
    again = MetricsLog(path, print)
    for t in range(40, 60):
        again.add(status(float(t)))
        again.flush()
    again.close()
    assert [p.name for p in segments(path)][: len(put)] == [p.name for p in put]
    assert read_run(tmp_path).rounds == 59


def test_segments_are_thinned_by_age_and_only_so_many_are_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    (tmp_path / "metrics").mkdir()
    now, whole = time.time(), b"".join(lines(an_hour(learners=1, rounds=0)))
    ages = [2 * DAY, 2 * HOUR, *[60.0] * (FULL + 1)]
    for number, age in enumerate(ages, 1):
        segment = tmp_path / f"metrics/{number:06}.jsonl"
        segment.write_bytes(whole)
        os.utime(segment, (now - age, now - age))
    thinning = Thinning(path)
    for _ in range(2):
        thinning.go_over(now)
        counts = [len(segment.read_bytes().splitlines()) for segment in segments(path)]
        assert counts == [2 * 6, 2 * 60, 2 * 60, *[2 * 3600] * FULL]
    thinning.go_over(now + DAY + HOUR)
    assert {len(segment.read_bytes().splitlines()) for segment in segments(path)} == {2 * 6}


def test_a_full_disk_puts_nothing_away(tmp_path, small):
    path, said, limit = tmp_path / "metrics.jsonl", [], resource.getrlimit(resource.RLIMIT_FSIZE)
    log = MetricsLog(path, said.append)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
    try:
        for t in range(20):
            log.add(status(float(t)))
            log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not segments(path) and len(said) == 1
    log.flush()
    log.close()
    assert [record.t for put in segments(path) for record in read(put)] == list(map(float, range(20))), "nothing was lost"


def test_a_line_cut_off_by_a_kill_is_mended_under_a_tails_eyes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    whole = lines([status(1.0), status(2.0)])
    path.write_bytes(whole[0] + whole[1][:20])
    tail = Tail(path)
    assert [record.t for record in tail.new()] == [1.0]
    log = MetricsLog(path, print)
    log.add(status(3.0))
    log.close()
    assert [record.t for record in tail.new()] == [3.0]
    assert [json.loads(line)["t"] for line in path.read_bytes().splitlines()] == [1.0, 3.0]
