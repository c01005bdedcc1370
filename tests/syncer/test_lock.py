"""One syncer a run directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from skerry.errors import RunDirError
from skerry.syncer.lock import Lock

HOLD = """
import sys
from pathlib import Path
from skerry.syncer.lock import Lock
Lock(Path(sys.argv[1]))
print("held", flush=True)
input()
"""


def test_a_second_one_is_told_whose_it_is(tmp_path):
    held = Lock(tmp_path)
    with pytest.raises(RunDirError, match=f"process {os.getpid()}"):
        Lock(tmp_path)
    held.release()
    Lock(tmp_path).release()


@pytest.mark.processes
def test_it_ends_with_its_process(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunDirError, match=f"process {holder.pid}"):
            Lock(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        Lock(tmp_path).release()
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
