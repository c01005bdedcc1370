"""The lab's tensors: what a trainer, its agent and the syncer do to them, as in the real processes.

The inner loop is that of recipe/job.py, the agent's part that of learner/holdings.py, the syncer's part is the syncer's
own (numerics/merger.py). A body is bytes in the policy's codec, so the wire's rounding is in the result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skerry.codecs import get_codec
from skerry.core.layout import Layout
from skerry.core.messages import Cancel, Close, Merge, TakeOverRule
from skerry.core.policy import Policy
from skerry.numerics.accumulate import Screened, weight_of
from skerry.numerics.merger import Body, Merger
from skerry.numerics.parameters import Fragments, Parameters
from skerry.numerics.task import Task

Values = NDArray[np.float32]


class LabTrainer:
    """One learner's model, inner optimizer and base values."""

    def __init__(self, task: Task, seed: int, policy: Policy, layout: Layout, learner: int) -> None:
        self._task, self._learner, self._policy = task, learner, policy
        self._model = task.model(seed)
        self._optimizer = task.optimizer(self._model)
        self._fragments = Fragments(Parameters(self._model), layout)
        self._up, self._down = get_codec(policy.codec_up), get_codec(policy.codec_down)
        self._base = [np.zeros(size, np.float32) for size in layout.sizes]

    def step(self, step: int, progress: float, since_start: int) -> int:
        """One inner step; gives its tokens."""
        task, optimizer = self._task, self._optimizer
        task.set_rate(optimizer, progress, since_start)
        loss, tokens = task.loss(self._model, task.batch(self._learner, step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return tokens

    def copy_out(self, fragment: int) -> Values:
        """The fragment's parameters, flat, fp32."""
        copy = np.empty_like(self._base[fragment])
        self._fragments.copy_out(fragment, copy)
        return copy

    def hand_over(self, fragment: int, copy: Values) -> Body:
        """v = base - copy, encoded."""
        body = np.empty(self._up.nbytes(copy.size), np.uint8)
        self._up.encode(self._base[fragment] - copy, memoryview(body))
        return body

    def take_over(self, fragment: int, rule: TakeOverRule, body: Body, copy: Values | None) -> None:
        """Take the value over; it becomes the base, rounded to the parameters' dtypes."""
        value = np.empty_like(self._base[fragment])
        self._down.decode(memoryview(body), value)
        self._fragments.round(fragment, value)
        if rule == "overwrite":
            self._fragments.overwrite(fragment, value)
        elif rule == "blend":
            self._fragments.blend(fragment, value, self._policy.blend)
        elif rule == "carry":
            self._fragments.add(fragment, value - self._base[fragment])
        else:
            assert copy is not None, "rebase without what was handed over"
            self._fragments.add(fragment, value - copy)
        self._base[fragment] = value


class LabModel:
    """The global model: the syncer's merger, and an encoded body of every fragment's present version."""

    def __init__(self, policy: Policy, layout: Layout) -> None:
        self.merger = Merger(policy, layout)
        self._bodies: dict[int, Body] = {}
        self._screened = Screened(())

    def seed(self, fragment: int, body: Values) -> str:
        """A first value: flat, fp32."""
        self.merger.values(fragment)[:] = body
        flaw, self._bodies[fragment] = self.merger.seed(fragment)
        return flaw

    def screen(self, fragment: int, body: Body) -> str:
        """First pass over a contribution."""
        self._screened = self.merger.screen(fragment, body)
        return self._screened.flaw

    def add(self, merge: Merge, body: Body) -> None:
        """Second pass: into its round."""
        self.merger.add(merge.fragment, merge.step, body, self._screened, weight_of(merge.tokens, merge.steps))

    def close(self, close: Close) -> None:
        """The outer step."""
        self._bodies[close.fragment] = self.merger.close(close.fragment, close.step)

    def cancel(self, cancel: Cancel) -> None:
        """Forget a round."""
        self.merger.cancel(cancel.fragment, cancel.step)

    def body(self, fragment: int) -> Body:
        """The present version, encoded; a new one never changes it."""
        return self._bodies[fragment]
