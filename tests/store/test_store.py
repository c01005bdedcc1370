"""What a run leaves on disk: whole files or none, and a full disk costs nothing but time."""

from __future__ import annotations

import json
import resource
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from skerry.core.layout import Layout, Piece, TensorSpec, build_layout
from skerry.core.policy import Policy
from skerry.errors import ConfigError, DataError, RunDirError
from skerry.store.export import export_model, load_values
from skerry.store.files import Growing, clear_unfinished, settle
from skerry.store.metrics import MetricsLog
from skerry.store.records import Evaluation, Exited
from skerry.store.snapshot import Origin, Snapshot, by_name, fill, keep_initial, load_snapshot, split, write_snapshot

TENSORS = [
    TensorSpec(name="emb.weight", shape=(7, 4), direct=True),
    TensorSpec(name="a.weight", shape=(4, 4)),
    TensorSpec(name="a.bias", shape=(4,)),
    TensorSpec(name="scale", shape=()),
]
LAYOUT = build_layout(TENSORS, 2, "balanced")
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
            "policy": Policy(fragments=2), "events": 77,
            "traffic": (10, 20), "theta": split(LAYOUT, values(1)), "momentum": split(LAYOUT, values(2))}  # fmt: skip
    return Snapshot(**{**base, **changes})


def test_snapshot_comes_back_whole(tmp_path):
    write_snapshot(snapshot(), tmp_path / "a.part")
    settle(tmp_path / "a.part", tmp_path / "a")
    back = load_snapshot(tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    for name in ("run", "t", "layout", "origin", "published", "state", "traffic"):
        assert getattr(back, name) == getattr(snapshot(), name)
    assert np.array_equal(np.concatenate(back.theta), values(1))
    assert np.array_equal(np.concatenate(back.momentum), values(2))


def test_no_snapshot_and_no_snapshot_file(tmp_path):
    with pytest.raises(RunDirError, match="no snapshot"):
        load_snapshot(tmp_path / "none")
    (tmp_path / "junk").write_bytes(b"\x07" * 100)
    with pytest.raises(RunDirError, match="no snapshot this version can read"):
        load_snapshot(tmp_path / "junk")
    save_file({"theta": values()}, tmp_path / "other")
    with pytest.raises(RunDirError, match="no snapshot this version can read"):
        load_snapshot(tmp_path / "other")


def test_the_first_snapshot_is_kept(tmp_path):
    path, initial = tmp_path / "snapshot.safetensors", tmp_path / "initial.safetensors"
    for t, versions in ((1.0, (0, 0)), (2.0, (0, 0)), (3.0, (1, 0))):
        one = snapshot(t=t, published=tuple((version, 0) for version in versions))
        write_snapshot(one, tmp_path / "a.part")
        settle(tmp_path / "a.part", path)
        keep_initial(one, path)
    assert load_snapshot(path).t == 3.0 and load_snapshot(initial).t == 2.0


def test_it_is_the_file_that_safetensors_reads(tmp_path):
    write_snapshot(snapshot(), tmp_path / "a")
    found = load_file(tmp_path / "a")
    assert np.array_equal(found["theta"], values(1)) and np.array_equal(found["momentum"], values(2))


@pytest.mark.parametrize("name", ["theta", "momentum"])
def test_a_snapshot_that_is_not_finite_is_refused(tmp_path, name):
    bad = split(LAYOUT, values(3))
    bad[1][2] = np.nan
    write_snapshot(snapshot(**{name: bad}), tmp_path / "a")
    with pytest.raises(RunDirError, match=f"a is damaged: {name} is not finite"):
        load_snapshot(tmp_path / "a")


def test_a_short_theta_is_refused(tmp_path):
    write_snapshot(snapshot(), tmp_path / "a")
    with safe_open(tmp_path / "a", framework="numpy") as file:
        metadata, momentum = file.metadata(), file.get_tensor("momentum")
    save_file({"theta": values(1)[:-3], "momentum": momentum}, tmp_path / "b", metadata)
    with pytest.raises(RunDirError, match=f"{LAYOUT.total - 3} values of float32 for a model of {LAYOUT.total}"):
        load_snapshot(tmp_path / "b")


def test_any_flipped_bit_and_any_cut_of_a_snapshot_is_found(tmp_path):
    path = tmp_path / "a"
    write_snapshot(snapshot(), path)
    good, random = path.read_bytes(), np.random.default_rng(0)
    for bit in random.choice(8 * len(good), 1500, replace=False):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(bad)
        with pytest.raises(RunDirError) as caught:
            load_snapshot(path)
        assert "\n" not in str(caught.value)
    for cut in random.choice(len(good), 100, replace=False):
        path.write_bytes(good[:cut])
        with pytest.raises(RunDirError):
            load_snapshot(path)


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
    named = by_name(LAYOUT, split(LAYOUT, flat))
    assert {name: array.shape for name, array in named.items()} == {t.name: t.shape for t in LAYOUT.tensors}
    back = np.empty_like(flat)
    fill(LAYOUT, named, split(LAYOUT, back))
    assert np.array_equal(flat, back)


def test_a_tensor_in_pieces_is_put_together():
    layout = Layout((TensorSpec(name="w", shape=(2, 3)),),
                    ((Piece(tensor=0, start=4, stop=6),), (Piece(tensor=0, start=0, stop=4),)))  # fmt: skip
    flat = np.array([4, 5, 0, 1, 2, 3], np.float32)
    assert by_name(layout, split(layout, flat))["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    back = np.empty_like(flat)
    fill(layout, by_name(layout, split(layout, flat)), split(layout, back))
    assert np.array_equal(flat, back)


def test_export_keeps_all_names_and_is_a_way_in(tmp_path):
    export_model(tmp_path / "model", LAYOUT, ORIGIN, split(LAYOUT, values()))
    found = load_file(tmp_path / "model" / "model.safetensors")
    assert set(found) == {t.name for t in TENSORS} | {"head.weight"}
    assert np.array_equal(found["head.weight"], by_name(LAYOUT, split(LAYOUT, values()))["emb.weight"])
    assert json.loads((tmp_path / "model" / "config.json").read_text()) == {"width": 4}
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    assert np.array_equal(np.concatenate(load_values(tmp_path / "model" / "model.safetensors", LAYOUT)), values())


def test_values_of_another_model_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    good = by_name(LAYOUT, split(LAYOUT, values()))
    save_file({k: v for k, v in good.items() if k != "a.bias"}, path)
    with pytest.raises(ConfigError, match=r"no tensor a\.bias"):
        load_values(path, LAYOUT)
    save_file({**good, "a.bias": np.zeros((5,), np.float32)}, path)
    with pytest.raises(ConfigError, match=r"a\.bias is \(5,\), the learner's is \(4,\)"):
        load_values(path, LAYOUT)
    with pytest.raises(DataError, match="cannot read"):
        load_values(tmp_path / "none", LAYOUT)


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
