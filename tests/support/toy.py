"""A Task of a few dozen parameters for tests of the lab: regression on noisy data, a tenth of a millisecond a step."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ToyTask:
    """Rows of a fixed linear map plus an embedding; batch = f(learner, step), so runs are comparable to the bit."""

    def __init__(self, seed: int = 0, tokens: int = 8, lr: float = 0.05) -> None:
        self.seed, self.tokens, self.lr = seed, tokens, lr
        self.target = torch.randn(5, 3, generator=torch.Generator().manual_seed(99))

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return nn.ModuleDict({"embed": nn.Embedding(4, 5), "first": nn.Linear(5, 6), "second": nn.Linear(6, 3)})

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=self.lr)

    def set_rate(self, optimizer: torch.optim.Optimizer, progress: float, since_start: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.lr * (1 - 0.9 * progress) * min(1.0, (since_start + 1) / 4)

    def batch(self, learner: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        return self._rows(1 + hash((self.seed, learner, step)) % (1 << 40))

    def _rows(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        draws = torch.Generator().manual_seed(seed)
        x, kind = torch.randn(self.tokens, 5, generator=draws), torch.randint(4, (self.tokens,), generator=draws)
        return x, kind, x @ self.target + kind[:, None] + 0.1 * torch.randn(self.tokens, 3, generator=draws)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, int]:
        x, kind, y = batch
        out = model["second"](torch.tanh(model["first"](x + model["embed"](kind))))
        return ((out - y) ** 2).mean(), len(x)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> float:
        return self.loss(model, self._rows(7))[0].item()
