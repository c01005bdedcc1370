"""The adaptive grace window: how long a round may wait, after its quorum is complete, for the others.

    xi_slack = tau * xi_step - (xi_quorum + xi_sync),   grace = gamma * max(0, xi_slack)

so that waiting uses only time which the overlap already hides. Each xi is an exponential moving average (0.9) of what was
measured; before five samples of each, the grace is one xi_step. Source: Decoupled DiLoCo, adaptive grace window.
"""

from __future__ import annotations

from dataclasses import dataclass

KEEP = 0.9
ENOUGH = 5


@dataclass(slots=True)
class Average:
    """An exponential moving average, and how many samples it has seen."""

    value: float = 0.0
    samples: int = 0

    def add(self, sample: float) -> None:
        """Take one sample in; the first one is the average."""
        self.value = sample if self.samples == 0 else KEEP * self.value + (1.0 - KEEP) * sample
        self.samples += 1


class Grace:
    """The three averages, in seconds, and the window that follows from them."""

    step: Average  # xi_step: between advances of the run's step
    quorum: Average  # xi_quorum: from the ask to the K-th complete contribution
    sync: Average  # xi_sync: from the close to the median receipt

    def __init__(self, gamma: float, overlap: int) -> None:
        self.gamma = gamma
        self.overlap = overlap
        self.step, self.quorum, self.sync = Average(), Average(), Average()

    def amend(self, gamma: float) -> None:
        """Wait that share of the slack from now on."""
        self.gamma = gamma

    def window(self) -> float:
        """Seconds to wait after the K-th complete contribution."""
        if self.gamma == 0.0:
            return 0.0
        if min(self.step.samples, self.quorum.samples, self.sync.samples) < ENOUGH:
            return self.step.value
        slack = self.overlap * self.step.value - (self.quorum.value + self.sync.value)
        return self.gamma * max(0.0, slack)
