"""Where figures go: in one form, into a folder, and one line where they cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from skerry.cli import main


@pytest.mark.parametrize("what", ["bandwidth", "goodput"])
def test_a_full_disk_is_one_line(what):
    command = [sys.executable, "-m", "skerry.cli", "simulate", what]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    says = "skerry: cannot write the output: No space left on device; free space where it goes\n"
    assert (ended.returncode, ended.stderr) == (7, says)


@pytest.mark.parametrize(("given", "says"), [
    (["--out", "short.txt"], "--out = 'short.txt' cannot work; it is a file: name a folder"),
    (["--out", ""], "--out = '' cannot work; give a path"),
    (["--json", "--csv"], "--json and --csv do not go together; give one; --out DIR writes both"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_reckoned(given, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("")
    assert main(["simulate", "bandwidth", *given]) == 2
    assert capsys.readouterr() == ("", f"skerry: {says}\n")
