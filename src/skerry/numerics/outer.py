"""The outer optimizer: SGD with Nesterov momentum on the merged outer gradient.

    b <- mu*b + D;   Theta <- Theta - lr*(D + mu*b)

It gives what torch.optim.SGD(nesterov=True) gives, bit for bit, but works on slices of one flat array: a fragment is
stepped block by block as its merged gradient is made (Accumulator.results), while the block is in the cache, from one slot
into another (slots.py).
Source: DiLoCo (arXiv 2311.08105), algorithm 1; Sutskever et al. 2013 in torch's formulation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from skerry.errors import cannot_work


@dataclass(frozen=True, kw_only=True)
class OuterNesterov:
    """Outer SGD. `momentum` 0 is plain SGD: the buffer is then neither read nor written.
    Raises ConfigError unless lr > 0 and 0 <= momentum < 1."""

    lr: float
    momentum: float

    def __post_init__(self) -> None:
        if not 0 < self.lr < float("inf"):
            raise cannot_work("outer lr", self.lr, "give a positive number")
        if not 0 <= self.momentum < 1:
            raise cannot_work("outer momentum", self.momentum, "give at least 0 and below 1")

    def step(self, theta: torch.Tensor, buffer: torch.Tensor, delta: torch.Tensor,
             new_theta: torch.Tensor, new_buffer: torch.Tensor) -> None:  # fmt: skip
        """One outer step. theta: the global value; buffer: its momentum, zeros before the first step; delta: the merged outer
        gradient, used as scratch (its content is lost). What comes of the first two is written to the last two, which may be
        the same tensors. All flat fp32 of one length."""
        assert theta.shape == buffer.shape == delta.shape == new_theta.shape == new_buffer.shape and theta.dim() == 1
        if self.momentum:
            torch.mul(buffer, self.momentum, out=new_buffer)
            new_buffer.add_(delta)
            delta.add_(new_buffer, alpha=self.momentum)
        torch.add(theta, delta, alpha=-self.lr, out=new_theta)
