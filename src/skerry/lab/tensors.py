"""The lab's tensors: what a trainer, its agent and the syncer do to them, as in the real processes.

The inner loop is that of recipe/job.py; the agent's part (exchange.py) and the syncer's (numerics/merger.py) are their own. A
body is bytes in the policy's codec, so the wire's rounding is in the result.
"""

from __future__ import annotations

import numpy as np

from skerry.core.layout import Layout
from skerry.core.messages import Merge, TakeOverRule
from skerry.core.policy import Policy
from skerry.exchange import Exchange, Values, change
from skerry.numerics.accumulate import Screened
from skerry.numerics.merger import Body, Merger
from skerry.numerics.parameters import Fragments, Parameters
from skerry.numerics.task import Task


class LabTrainer:
    """One learner's model, inner optimizer and base values."""

    def __init__(self, task: Task, seed: int, policy: Policy, layout: Layout, learner: int) -> None:
        self._task, self._learner, self._blend = task, learner, policy.blend
        self._model = task.model(seed)
        self._optimizer = task.optimizer(self._model)
        parameters = Parameters(self._model)
        self._fragments = Fragments(parameters, layout)
        self._exchange = Exchange(policy, layout, parameters.dtypes)
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
        return self._exchange.hand_over(self._base[fragment], copy)

    def take_over(self, fragment: int, rule: TakeOverRule, body: Body, copy: Values | None) -> None:
        """Take the value over; it becomes the base, rounded to the parameters' dtypes."""
        value = np.empty_like(self._base[fragment])
        self._exchange.decode(fragment, body.data, value)
        added = change(rule, value, self._base[fragment], copy)
        if added is not None:
            self._fragments.add(fragment, added)
        elif rule == "blend":
            self._fragments.blend(fragment, value, self._blend)
        else:
            self._fragments.overwrite(fragment, value)
        self._base[fragment] = value


class LabModel:
    """The global model: the syncer's merger, and an encoded body of every fragment's present version."""

    def __init__(self, policy: Policy, layout: Layout) -> None:
        self.merger = Merger(policy, layout)
        self._made: dict[int, Body] = {}
        self._bodies: dict[int, Body] = {}

    def provide(self, fragment: int, body: Values) -> str:
        """A first value: flat, fp32."""
        flaw, self._made[fragment] = self.merger.provide(fragment, body.data.cast("B"))
        return flaw

    def adopt(self, fragment: int, body: Values) -> None:
        """It is the run's."""
        self.merger.adopt(fragment, body.data.cast("B"))
        self.publish(fragment)

    def screen(self, fragment: int, body: Body) -> tuple[str, tuple[float, ...], Screened]:
        """First pass over a contribution."""
        screened = self.merger.screen(fragment, body.data)
        return screened.flaw, screened.norms, screened

    def add(self, merge: Merge, body: Body, screened: Screened) -> None:
        """Second pass: into its round."""
        self.merger.add(merge.fragment, merge.step, body.data, screened, merge.weight)

    def close(self, fragment: int, step: int, version: int) -> str:
        """The outer step."""
        try:
            self._made[fragment] = self.merger.close(fragment, step)
        except FloatingPointError as error:
            return str(error)
        return ""

    def publish(self, fragment: int) -> None:
        """It is what is sent."""
        self._bodies[fragment] = self._made.pop(fragment)

    def cancel(self, fragment: int, step: int) -> None:
        """Forget a round."""
        self.merger.cancel(fragment, step)

    def body(self, fragment: int) -> Body:
        """The present version, encoded; a new one never changes it."""
        return self._bodies[fragment]
