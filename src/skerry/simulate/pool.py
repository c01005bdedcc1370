"""Processes that reckon side by side.

Rules: results come in the order of the tasks and do not depend on how many processes there are; however this process ends,
they end with it; one that dies is an error, not a wait without end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any, TypeVar

T = TypeVar("T")


class Pool:
    """`jobs` processes, started when first needed; with one, everything is done in this process."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if self._pool is None:
            return
        if kind is not None:  # nobody wants what they are at
            for process in multiprocessing.active_children():
                process.terminate()
        self._pool.shutdown()

    def map(self, function: Callable[..., T], *tasks: Sequence[Any]) -> Iterator[T]:
        """As the built-in map."""
        if self._jobs == 1:
            return map(function, *tasks)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._jobs, multiprocessing.get_context("spawn"), _begin)
        # Not the executor's own map: it cancels futures when it is left, and stumbles over them as its processes end.
        futures = [self._pool.submit(function, *task) for task in zip(*tasks, strict=True)]
        return (future.result() for future in futures)


def _begin() -> None:
    """In a new process: Ctrl-C is its parent's affair; without a parent it has nothing to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
