"""Lines for the learner's user: once when something begins or its reason changes, then every minute while it lasts."""

from __future__ import annotations

import sys
import time

EVERY = 60.0  # seconds
MOST = 8  # reasons on one topic that are told of in that time


class Notices:
    """Says things on standard error. `name`: who speaks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._said: dict[str, dict[str, float]] = {}  # topic -> reason -> when

    def say(self, text: str) -> None:
        """Say it now. A terminal that is gone hears nothing."""
        try:
            print(f"skerry: {self.name}: {text}", file=sys.stderr, flush=True)
        except OSError:
            pass

    def keep_saying(self, topic: str, text: str, reason: str = "") -> None:
        """Say it unless something on this topic, and for this reason, was said in the last minute."""
        now = time.monotonic()
        said = {known: when for known, when in self._said.get(topic, {}).items() if now - when < EVERY}
        if reason not in said and len(said) < MOST:
            said[reason] = now
            self.say(text)
        self._said[topic] = said

    def over(self, topic: str, text: str) -> None:
        """Say that it is over, if anything was said on this topic."""
        if self._said.pop(topic, None) is not None:
            self.say(text)
