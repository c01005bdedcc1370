"""Corpus, split, shards and batches; every way in which data can be missing."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from skerry.errors import DataError
from skerry.recipe.data import Corpus, held_out_windows, load_corpus, windows


def folder(root: Path, files: dict[str, bytes]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    return str(root)


def many(count: int = 64) -> dict[str, bytes]:
    return {f"d{i % 3}/f{i}.txt": bytes([i]) * 100 for i in range(count)}


def corpus_of(train: np.ndarray) -> Corpus:
    return Corpus(train=train, held_out=np.zeros(100, np.uint8), files=1, split="files", sha256="")


def text(length: int) -> np.ndarray:
    """Every 4 bytes tell their place: place = value / 4, little-endian."""
    return np.arange(-(-length // 4), dtype="<u4").view(np.uint8)[:length]


def places(windows_of: np.ndarray) -> np.ndarray:
    """Where in `text` each window begins, to within 4 bytes."""
    found = []
    for window in windows_of.astype(np.uint8):
        # A window holds whole words at one of four phases; the right one counts up.
        for phase in range(4):
            words = window[phase : phase + 4 * ((len(window) - phase) // 4)].copy().view("<u4").astype(np.int64)
            if (np.diff(words) == 1).all():
                found.append(4 * words[0] - phase)
                break
    return np.array(found)


# ---------------------------------------------------------------- the corpus


def test_train_and_held_out_are_disjoint_by_file(tmp_path):
    root = folder(tmp_path, many())
    corpus = load_corpus([root], 10)
    assert corpus.split == "files" and corpus.files == 64
    train, held_out = set(corpus.train.tolist()), set(corpus.held_out.tolist())
    assert not train & held_out and train | held_out == set(range(64)) and 1 <= len(held_out) <= 12


def test_a_file_more_moves_no_other(tmp_path):
    before = load_corpus([folder(tmp_path, many())], 10)
    after = load_corpus([folder(tmp_path, {"d0/new.txt": bytes([200]) * 100})], 10)
    assert set(before.held_out.tolist()) <= set(after.held_out.tolist())
    assert set(before.train.tolist()) <= set(after.train.tolist())
    assert before.sha256 != after.sha256


def test_the_hash_is_over_names_and_contents(tmp_path):
    files = {"a": b"x" * 50, "b": b"y" * 50}
    corpus = load_corpus([folder(tmp_path / "one", files)], 10)
    expected = hashlib.sha256(b"a\x0050\0" + b"x" * 50 + b"b\x0050\0" + b"y" * 50).hexdigest()
    assert corpus.sha256 == expected
    assert load_corpus([folder(tmp_path / "two", files)], 10).sha256 == expected, "wherever the folder is"
    assert load_corpus([folder(tmp_path / "three", {"a": b"x" * 50, "c": b"y" * 50})], 10).sha256 != expected


def test_one_file_is_divided_by_bytes(tmp_path):
    folder(tmp_path, {"only.txt": text(1600).tobytes()})
    corpus = load_corpus([str(tmp_path / "only.txt")], 10)
    assert corpus.split == "bytes" and len(corpus.held_out) == 100
    assert np.concatenate((corpus.train, corpus.held_out)).tobytes() == text(1600).tobytes()


def test_a_file_that_is_named_twice_counts_once(tmp_path):
    root = folder(tmp_path, many())
    assert load_corpus([root, root, str(tmp_path / "d0" / "f0.txt")], 10).files == 64


def test_hidden_files_and_caches_are_left_out(tmp_path):
    extra = {".hidden": b"h" * 99, ".git/config": b"g" * 99, "__pycache__/x.pyc": b"p" * 99}
    assert load_corpus([folder(tmp_path, many() | extra)], 10).files == 64


def test_the_standard_library_by_default():
    corpus = load_corpus([], 64)
    assert corpus.split == "files" and corpus.files > 300 and len(corpus.train) > 5e6
    assert 0.01 < len(corpus.held_out) / len(corpus.train) < 0.15
    assert b"class ThreadPoolExecutor" in bytes(corpus.train) + bytes(corpus.held_out)
    assert b"class TestCase" in bytes(corpus.train) + bytes(corpus.held_out), "unittest itself belongs to it"
    assert b"class TestLongLong" not in bytes(corpus.train)
    assert corpus.sha256 == load_corpus([], 64).sha256


@pytest.mark.parametrize(
    ("files", "ask", "says"),
    [
        ({}, "nowhere", "no such file or folder"),
        ({}, "", "the data is empty"),
        ({"a.txt": b"", "b.txt": b""}, "", "the data is empty"),
        ({"a.txt": b"short"}, "", "too short"),
        ({"a.txt": b"x" * 129}, "a.txt", "too short"),
    ],
)
def test_data_that_cannot_work(tmp_path, files, ask, says):
    with pytest.raises(DataError, match=says) as caught:
        load_corpus([str(Path(folder(tmp_path, files)) / ask)], 64)
    assert caught.value.exit_code == 3 and caught.value.remedy and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    root = folder(tmp_path, many())
    (tmp_path / "memory").symlink_to("/proc/self/mem")  # reading its beginning fails, for root too
    with pytest.raises(DataError, match=r"cannot read .*memory: Input/output error"):
        load_corpus([root], 10)


def test_just_enough(tmp_path):
    corpus = load_corpus([folder(tmp_path, {"a.txt": b"x" * 130})], 64)
    assert len(corpus.train) == len(corpus.held_out) == 65
    drawn = windows(corpus, seed=0, learner=3, step=9, batch=2, context=64, shards=4)
    assert drawn.shape == (2, 65)


# ---------------------------------------------------------------- batches


def test_a_batch_is_a_pure_function_of_its_arguments():
    corpus = corpus_of(text(100_000))
    ask = {"batch": 5, "context": 16, "shards": 4}
    first = windows(corpus, seed=1, learner=2, step=3, **ask)
    windows(corpus, seed=9, learner=9, step=9, **ask)
    assert np.array_equal(first, windows(corpus, seed=1, learner=2, step=3, **ask))
    for other in ({"seed": 2}, {"learner": 3}, {"step": 4}):
        assert not np.array_equal(first, windows(corpus, **({"seed": 1, "learner": 2, "step": 3} | other), **ask))
    # Pinned: a change here would change what a resumed run trains on.
    assert places(first).tolist() == [97238, 80187, 72503, 31194, 43162]


def test_shards_are_disjoint_and_together_everything():
    corpus = corpus_of(text(64_000))
    seen = []
    for learner in range(3):
        found = [windows(corpus, seed=0, learner=learner, step=s, batch=16, context=16, shards=3) for s in range(300)]
        starts = np.concatenate([places(part) for part in found])
        touched = np.zeros(64_000, bool)
        for start in starts:
            touched[start : start + 17] = True
        seen.append(touched)
    assert not (seen[0] & seen[1]).any() and not (seen[0] & seen[2]).any() and not (seen[1] & seen[2]).any()
    assert np.mean(seen[0] | seen[1] | seen[2]) > 0.85
    assert all(0.2 < np.mean(part) < 0.4 for part in seen)


def test_a_learner_beyond_the_plan_reads_a_shard_with_windows_of_its_own():
    corpus = corpus_of(text(64_000))
    ask = {"seed": 0, "step": 0, "batch": 64, "context": 16, "shards": 3}
    block = 64 * 16
    owner, guest = (places(windows(corpus, learner=learner, **ask)) for learner in (2, 17))
    assert {(start + 4) // block % 3 for start in (*owner, *guest)} == {2}
    assert not np.array_equal(owner, guest)


@pytest.mark.parametrize("length", [17, 18, 40, 100, 1000])
@pytest.mark.parametrize("shards", [0, 1, 3, 8])
def test_any_text_of_one_window_or_more_serves_any_number_of_learners(length, shards):
    corpus = corpus_of(text(length))
    for learner in range(10):
        drawn = windows(corpus, seed=0, learner=learner, step=0, batch=7, context=16, shards=shards)
        assert drawn.shape == (7, 17) and drawn.dtype == np.int64


def test_held_out_windows_are_spread_over_all_of_it():
    corpus = Corpus(train=text(10), held_out=text(10_000), files=1, split="files", sha256="")
    found = places(held_out_windows(corpus, count=50, context=16))
    assert len(found) == 50 and found[0] == 0 and found[-1] >= 10_000 - 17 - 4 and (np.diff(found) > 100).all()
    assert held_out_windows(corpus, count=10_000, context=16).shape == (10_000 // 17, 17)
