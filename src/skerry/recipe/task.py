"""The recipe as a Task (numerics/task.py): bytes in, next byte out, AdamW, warm-up and cosine on the run's progress."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skerry.recipe.config import RecipeConfig
from skerry.recipe.data import Corpus, held_out_windows, load_corpus, windows
from skerry.recipe.model import VOCABULARY, Decoder
from skerry.recipe.sizes import SIZES


class LanguageTask:
    """A byte-level language model on `corpus` (default: what `config.data` names). Raises DataError."""

    def __init__(self, config: RecipeConfig, corpus: Corpus | None = None) -> None:
        self.config = config
        self.corpus = corpus or load_corpus(config.data, config.context)
        self._held_out = torch.from_numpy(
            held_out_windows(self.corpus, count=config.eval_windows, context=config.context))  # fmt: skip

    def description(self) -> dict[str, Any]:
        """What is exported with the model: enough to load it again (sample.py)."""
        return {"model": asdict(SIZES[self.config.model]), "context": self.config.context, "vocabulary": VOCABULARY}

    def model(self, seed: int) -> Decoder:
        """A freshly initialised decoder; equal seeds give equal parameters."""
        return Decoder(SIZES[self.config.model], context=self.config.context, seed=seed)

    def optimizer(self, model: nn.Module) -> torch.optim.AdamW:
        """AdamW; only the matrices of the layers and the head decay."""
        plain = {id(p) for m in model.modules() if isinstance(m, nn.Embedding | nn.RMSNorm) for p in m.parameters()}
        trainable = [p for p in model.parameters() if p.requires_grad]
        groups = [{"params": [p for p in trainable if id(p) not in plain], "weight_decay": self.config.weight_decay},
                  {"params": [p for p in trainable if id(p) in plain], "weight_decay": 0.0}]  # fmt: skip
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=self.config.lr, betas=self.config.betas, fused=True)

    def set_rate(self, optimizer: torch.optim.Optimizer, progress: float, since_start: int) -> None:
        """Set the learning rate of the next step; `since_start`: steps which this optimizer has made."""
        rate = self.config.lr * schedule(self.config, progress, since_start)
        for group in optimizer.param_groups:
            group["lr"] = rate

    def batch(self, learner: int, step: int) -> Tensor:
        """Windows of int64 bytes, [batch, context + 1]: a pure function of (configuration, learner, step)."""
        config = self.config
        return torch.from_numpy(windows(self.corpus, seed=config.seed, learner=learner, step=step, batch=config.batch,
                                        context=config.context, shards=config.shards))  # fmt: skip

    def loss(self, model: nn.Module, batch: Tensor) -> tuple[Tensor, int]:
        """Mean nats per byte, and how many bytes were predicted."""
        target = batch[:, 1:].reshape(-1)
        return F.cross_entropy(model(batch[:, :-1]).view(-1, VOCABULARY), target), target.numel()

    @torch.inference_mode()
    def evaluate(self, model: nn.Module) -> float:
        """Mean nats per byte on the fixed held-out windows."""
        training = model.training
        model.eval()
        total, count = 0.0, 0
        for part in self._held_out.split(self.config.batch):
            loss, tokens = self.loss(model, part)
            total, count = total + loss.item() * tokens, count + tokens
        model.train(training)
        return total / count


def schedule(config: RecipeConfig, progress: float, since_start: int) -> float:
    """Share of the peak rate: linear warm-up, then cosine to `lr_final`; a fresh optimizer in mid-run is warmed up again."""
    rising = min(1.0, progress / config.warmup) if config.warmup else 1.0
    falling = max(0.0, progress - config.warmup) / max(1e-9, 1.0 - config.warmup)
    cosine = config.lr_final + (1.0 - config.lr_final) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, falling)))
    again = min(1.0, (since_start + 1) / (config.rewarmup + 1))
    return max(1e-3, min(rising, again)) * cosine
