"""Lines for the learner's user: once when something begins, then every minute while it lasts."""

from __future__ import annotations

import sys
import time

EVERY = 60.0  # seconds


class Notices:
    """Says things on standard error. `name`: who speaks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._said: dict[str, float] = {}  # topic -> when

    def say(self, text: str) -> None:
        """Say it now. A terminal that is gone hears nothing."""
        try:
            print(f"skerry: {self.name}: {text}", file=sys.stderr, flush=True)
        except OSError:
            pass

    def keep_saying(self, topic: str, text: str) -> None:
        """Say it unless something on this topic was said in the last minute."""
        now = time.monotonic()
        if now - self._said.get(topic, -EVERY) >= EVERY:
            self._said[topic] = now
            self.say(text)

    def over(self, topic: str, text: str) -> None:
        """Say that it is over, if anything was said on this topic."""
        if self._said.pop(topic, None) is not None:
            self.say(text)
