"""What a run leaves on disk: whole files or none, and a full disk costs nothing but time."""

from __future__ import annotations

import json
import resource
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from skerry.core.layout import Layout, Piece, TensorSpec, build_layout
from skerry.core.messages import Count, Join, Report, Tick
from skerry.core.policy import Policy
from skerry.core.syncer import SyncerCore
from skerry.errors import ConfigError, DataError, RunDirError
from skerry.store.export import export_model, load_values
from skerry.store.files import Growing, clear_unfinished, settle
from skerry.store.metrics import MetricsLog
from skerry.store.records import Evaluation, Exited
from skerry.store.snapshot import Origin, Snapshot, by_name, fill, load_snapshot, write_snapshot
from skerry.store.tape import Action, Ended, Event, Head, Tape, read_tape, segments, verify

TENSORS = [
    TensorSpec(name="emb.weight", shape=(7, 4), direct=True),
    TensorSpec(name="a.weight", shape=(4, 4)),
    TensorSpec(name="a.bias", shape=(4,)),
    TensorSpec(name="scale", shape=()),
]
LAYOUT = build_layout(TENSORS, 2, "balanced")
POLICY = Policy(fragments=2, interval=4, steps=100)
HEAD = Head(run="r1", began=0.0, policy=POLICY, layout=LAYOUT, state=None)
ORIGIN = Origin(aliases={"head.weight": "emb.weight"}, config={"width": 4})


@contextmanager
def small_files(nbytes: int):
    """The operating system refuses files larger than that, as a full disk would."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=LAYOUT.total).astype(np.float32)


def snapshot(**changes) -> Snapshot:
    base = {"run": "r1", "t": 12.5, "layout": LAYOUT, "origin": ORIGIN, "published": ((3, 7), (4, 9)), "state": {"step": 9},
            "traffic": (10, 20), "theta": values(1), "momentum": values(2)}  # fmt: skip
    return Snapshot(**{**base, **changes})


def test_snapshot_comes_back_whole(tmp_path):
    write_snapshot(snapshot(), tmp_path / "a.part")
    settle(tmp_path / "a.part", tmp_path / "a")
    back = load_snapshot(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    for name in ("run", "t", "layout", "origin", "published", "state", "traffic"):
        assert getattr(back, name) == getattr(snapshot(), name)
    assert np.array_equal(back.theta, values(1)) and np.array_equal(back.momentum, values(2))


def test_no_snapshot_and_no_snapshot_file(tmp_path):
    with pytest.raises(RunDirError, match="no snapshot"):
        load_snapshot(tmp_path / "none")
    (tmp_path / "junk").write_bytes(b"\x07" * 100)
    with pytest.raises(RunDirError, match="no snapshot this version can read"):
        load_snapshot(tmp_path / "junk")
    save_file({"theta": values()}, tmp_path / "other")
    with pytest.raises(RunDirError, match="no snapshot this version can read"):
        load_snapshot(tmp_path / "other")


def test_full_disk_leaves_the_old_snapshot(tmp_path):
    final, part = tmp_path / "a", tmp_path / "a.part"
    write_snapshot(snapshot(), part)
    settle(part, final)
    with small_files(64), pytest.raises(OSError, match="too large"):
        write_snapshot(snapshot(run="r2"), part)
    assert load_snapshot(final).run == "r1"
    part.write_bytes(b"half")
    (tmp_path / ".tmpabc").write_bytes(b"half")
    clear_unfinished(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_names_and_flat_values_are_inverse():
    flat = values()
    named = by_name(LAYOUT, flat)
    assert {name: array.shape for name, array in named.items()} == {t.name: t.shape for t in LAYOUT.tensors}
    back = np.empty_like(flat)
    fill(LAYOUT, named, back)
    assert np.array_equal(flat, back)


def test_a_tensor_in_pieces_is_put_together():
    layout = Layout((TensorSpec(name="w", shape=(2, 3)),),
                    ((Piece(tensor=0, start=4, stop=6),), (Piece(tensor=0, start=0, stop=4),)))  # fmt: skip
    flat = np.array([4, 5, 0, 1, 2, 3], np.float32)
    assert by_name(layout, flat)["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    back = np.empty_like(flat)
    fill(layout, by_name(layout, flat), back)
    assert np.array_equal(flat, back)


def test_export_keeps_all_names_and_is_a_way_in(tmp_path):
    export_model(tmp_path / "model", LAYOUT, ORIGIN, values())
    found = load_file(tmp_path / "model" / "model.safetensors")
    assert set(found) == {t.name for t in TENSORS} | {"head.weight"}
    assert np.array_equal(found["head.weight"], by_name(LAYOUT, values())["emb.weight"])
    assert json.loads((tmp_path / "model" / "config.json").read_text()) == {"width": 4}
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    back = np.empty(LAYOUT.total, np.float32)
    load_values(tmp_path / "model" / "model.safetensors", LAYOUT, back)
    assert np.array_equal(back, values())


def test_values_of_another_model_are_refused(tmp_path):
    path, into = tmp_path / "x.safetensors", np.empty(LAYOUT.total, np.float32)
    good = by_name(LAYOUT, values())
    save_file({k: v for k, v in good.items() if k != "a.bias"}, path)
    with pytest.raises(ConfigError, match=r"no tensor a\.bias"):
        load_values(path, LAYOUT, into)
    save_file({**good, "a.bias": np.zeros((5,), np.float32)}, path)
    with pytest.raises(ConfigError, match=r"a\.bias is \(5,\), the learner's is \(4,\)"):
        load_values(path, LAYOUT, into)
    with pytest.raises(DataError, match="cannot read"):
        load_values(tmp_path / "none", LAYOUT, into)


def test_a_growing_file_waits_for_a_full_disk(tmp_path):
    said: list[str] = []
    file = Growing(tmp_path / "f", said.append)
    file.add(b"0123456789")
    file.flush()
    with small_files(16):
        for _ in range(3):
            file.add(b"0123456789")
            file.flush()
    assert len(said) == 1 and "tries again" in said[0]
    file.close()
    assert (tmp_path / "f").read_bytes() == b"0123456789" * 4
    assert len(said) == 2 and "nothing was lost" in said[1]


def test_a_growing_file_is_given_up_whole(tmp_path):
    said: list[str] = []
    file = Growing(tmp_path / "f", said.append)
    with small_files(1 << 10):
        for _ in range(70):
            file.add(b"x" * (1 << 20))
            file.flush()
    file.close()
    assert file.given_up and "ends here" in said[-1]
    assert (tmp_path / "f").stat().st_size <= 1 << 10


def test_figures_are_lines_of_json(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", print)
    log.add(Exited(unix=1.5, learner=0, code=-9))
    log.add(Evaluation(t=2.0, step=4, rounds=1, loss=float("nan")))
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"event": "exit", "unix": 1.5, "learner": 0, "code": -9}, {"t": 2.0, "step": 4, "rounds": 1, "loss": None}]


def recorded(folder, *, change=None):
    """A short run of a core, written to a tape."""
    core = SyncerCore(POLICY, LAYOUT)
    tape = Tape(folder, HEAD, print)
    events = [
        (0.1, Join(layout=LAYOUT.hash)),
        (0.2, Join(layout="other")),
        (0.3, Report(learner=0, generation=1, clock=0, count=Count(1, 10, 1000))),
        (11.0, Tick()),
    ]
    for t, event in events:
        tape.event(t, event)
        for action in core.handle(t, event):
            tape.action(action if change is None else change(action))
    tape.close(12.0)
    return tape.path, events


def test_a_tape_holds_what_was_told_and_decided(tmp_path):
    path, events = recorded(tmp_path)
    head, *rest, end = read_tape(path)
    assert head == HEAD and end == Ended()
    assert [(e.t, e.event) for e in rest if isinstance(e, Event)] == events
    assert [type(e.action).__name__ for e in rest if isinstance(e, Action)][:2] == ["Welcome", "RequestInitial"]
    found = verify(path)
    assert found.difference == "" and found.events == 4 and found.actions >= 3
    recorded(tmp_path)
    assert [p.name for p in segments(tmp_path)] == ["0001.tape", "0002.tape"]


def test_a_tape_cut_anywhere_is_the_beginning_of_the_truth(tmp_path):
    path, _ = recorded(tmp_path)
    whole = path.read_bytes()
    entries = list(read_tape(path))
    head_ends = 4 + int.from_bytes(whole[:4], "little")
    for cut in range(head_ends, len(whole)):
        path.write_bytes(whole[:cut])
        found = list(read_tape(path))
        assert found == entries[: len(found)]
        assert verify(path).difference == ""


def test_no_tape(tmp_path):
    for junk in (b"", b"\x05\x00\x00\x00hello", b"\xff" * 50):
        (tmp_path / "t").write_bytes(junk)
        with pytest.raises(RunDirError, match="no tape"):
            list(read_tape(tmp_path / "t"))


def test_a_changed_decision_is_found(tmp_path):
    path, _ = recorded(tmp_path, change=lambda a: type(a)(**{**fields_of(a), "code": "x"}) if hasattr(a, "code") else a)
    assert "the tape has Refused(code='x'" in verify(path).difference


def test_a_changed_rule_is_found(tmp_path, monkeypatch):
    path, _ = recorded(tmp_path)
    monkeypatch.setattr(SyncerCore, "progress", 0.5)
    assert "at event 1" in verify(path).difference


def fields_of(message) -> dict:
    return {name: getattr(message, name) for name in message.__slots__}
