"""How the trainer fares, worked out by the agent from what the trainer publishes in shared memory."""

from __future__ import annotations

import math
import os
import socket

import numpy as np

from skerry.fabric.messages import Vitals
from skerry.island.memory import IslandMemory


def vitals(memory: IslandMemory, trainer_pid: int) -> Vitals:
    """As they stand now."""
    pulse = memory.pulse()
    steps = memory.step_durations(pulse.steps)
    return Vitals(
        learner=memory.learner, generation=memory.generation, median_step_us=int(np.median(steps)) if steps.size else 0,
        max_gap_us=pulse.max_gap_us, max_hook_us=pulse.max_hook_us, hook_us=pulse.hook_us,
        span_us=pulse.busy_us + pulse.waited_us, loss=pulse.loss if math.isfinite(pulse.loss) else None,
        pid_trainer=trainer_pid, pid_agent=os.getpid(), host=socket.gethostname(),
    )  # fmt: skip
