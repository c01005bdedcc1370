"""A syncer in a process of its own, for tests that kill it, stop its disk or measure it.

As a program (python -m support.syncer_process JSON) it is that process: {"run_dir", "policy", "config"}.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from support.puppet import TOKEN, until

ROOT = Path(__file__).resolve().parents[2]


class SyncerProcess:
    """Started on construction; `ready` waits for its address."""

    def __init__(self, run_dir: Path, policy: dict[str, Any], **config: Any) -> None:
        self.run_dir = run_dir
        token_file = run_dir.parent / "token"
        token_file.write_bytes(TOKEN.secret)
        spec = {"run_dir": str(run_dir), "policy": policy,
                "config": {"token_file": str(token_file), **config}}  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "support.syncer_process", json.dumps(spec)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            cwd=ROOT / "tests", env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'src'}"},
        )  # fmt: skip
        self.lines: list[str] = []  # of its stderr
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in iter(self.process.stderr.readline, b""):
            self.lines.append(line.decode())

    def __enter__(self) -> SyncerProcess:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        if error[0] is not None:
            print(f"exit {self.process.returncode}", self.log)  # shown with the test that failed

    async def ready(self) -> str:
        """The line that joins a learner has been printed; gives the address."""
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line, self.log
        return line.decode().split()[2]

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of that event."""
        lines = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    async def end(self, number: signal.Signals | None = None) -> int:
        """Send a signal, or none; gives the exit code."""
        if number is not None:
            self.process.send_signal(number)
        await until(lambda: self.process.poll() is not None)
        return self.process.returncode

    def peak(self) -> int:
        """Most memory that it held, in bytes."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

    def lift_limit(self) -> None:
        """The disk has room again."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def limit(self, nbytes: int) -> None:
        """The disk takes no file longer than that."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))


def main() -> int:
    from skerry.core.policy import Policy
    from skerry.errors import SkerryError
    from skerry.syncer.config import SyncerConfig
    from skerry.syncer.server import run_syncer

    spec = json.loads(sys.argv[1])
    config = {**spec["config"], "token_file": Path(spec["config"]["token_file"])}
    try:
        return run_syncer(SyncerConfig(run_dir=Path(spec["run_dir"]), **config), Policy(**spec["policy"]))
    except SkerryError as error:
        print(f"skerry: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
