"""The one thread that works on the run's tensors (numerics/merger.py), so that the event loop never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Worker:
    """One thread that does one job after the other. `on_failure` hears of what no job may raise: a fault of ours."""

    def __init__(self, on_failure: Callable[[BaseException], None]) -> None:
        self.queued = 0  # jobs asked for and not done
        self._on_failure = on_failure
        self._thread = ThreadPoolExecutor(1, "skerry-merger")

    def submit(self, job: Callable[..., Any], *args: Any, then: Callable[[Any], None] | None = None) -> asyncio.Future[Any]:
        """Do the job after all earlier ones; then, on the event loop, `then` with its result. OSError is the caller's
        business, who should await the future if the job may raise it."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, job, *args)
        self.queued += 1

        def done(finished: asyncio.Future[Any]) -> None:
            self.queued -= 1
            try:
                result = finished.result()
                if then is not None:
                    then(result)
            except OSError:
                pass
            except Exception as error:
                self._on_failure(error)

        future.add_done_callback(done)
        return future

    def end(self) -> None:
        """Wait for the jobs, and end the thread."""
        self._thread.shutdown()
