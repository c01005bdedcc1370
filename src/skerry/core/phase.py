"""The phases of a run, in their order; none comes back, but that a run which is restored waits for its learners again.

    waiting   until a first model lies ready and `wait_for` learners have joined
    running   t follows the K-th fastest live learner, and rounds (rounds.py) are opened as it reaches them
    ending    the budget is reached: the rounds that go on close
    final     one last round takes every fragment from all
    ended     nothing is pending any more
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where the run stands."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDING = "ending"
    FINAL = "final"
    ENDED = "ended"


WAITING, RUNNING, ENDING, FINAL, ENDED = Phase
