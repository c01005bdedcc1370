"""What the launcher shows of a run just now: its state (store/fold.py) and the last words about it.

Rules: nothing here asks a process anything, so that looking at a run never slows it.
"""

from __future__ import annotations

import time
from collections import deque

from skerry.store.fold import RunState
from skerry.store.records import Begin, Evaluation, Event, FaultNote, Line

RECENT_WORDS = 8


class RunView:
    """`take` each record as it is written."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = RunState()
        self.words: deque[str] = deque(maxlen=RECENT_WORDS)

    def take(self, record: Line) -> str | None:
        """Gives text worth telling at once, if the record bears any."""
        self.state.take(record)
        text = told(record)
        return self.say(text) if text else None

    def say(self, text: str) -> str:
        """Note a word; gives it with the time before it."""
        self.words.append(f"{self.now:6.1f}s  {text}")
        return self.words[-1]

    @property
    def now(self) -> float:
        """Seconds since the run began."""
        began = self.state.began
        return self.state.t if began is None else time.time() - began


def told(record: Line) -> str:
    """The record in words; "" for what is shown as figures."""
    match record:
        case Begin(text=text):
            return f"begin: {text}"
        case Event(event=event, text=text, learner=learner):
            return (f"learner {learner} " if learner >= 0 else "") + event + (f": {text}" if text else "")
        case Evaluation(step=step, loss=loss):
            return f"step {step}: eval loss {'not a number' if loss is None else f'{loss:.3f}'}"
        case FaultNote(event=event, kind=kind, target=target):
            return f"{'fault' if event == 'strike' else 'fault over'}: {kind} {target}"
    return ""
