"""The reference model: a small Llama-style decoder over bytes (RMSNorm, rotary positions, SwiGLU; vocabulary 256).

Rules: initial values are a pure function of (config, seed), whatever the global random state; the parameters are the
whole model (what a learner hands over), so there is no other state; separate matrices for query, key, value, gate and up
(measured on a CPU: no slower than joint ones, whose gradients must be joined again) and complex rotary turns.
Source: LLaMA (arXiv 2302.13971), RoFormer (2104.09864), SwiGLU (2002.05202), RMSNorm (1910.07467).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skerry.recipe.sizes import ModelConfig

VOCABULARY = 256


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key = nn.Linear(config.width, config.width, bias=False)
        self.value = nn.Linear(config.width, config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        """x: [batch, time, width]; turns: complex [time, head width / 2]; gives [batch, time, width]."""
        batch, time, width = x.shape
        query, key, value = (part(x).view(batch, time, self.heads, -1).transpose(1, 2)
                             for part in (self.query, self.key, self.value))  # fmt: skip
        mixed = F.scaled_dot_product_attention(_turned(query, turns), _turned(key, turns), value, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, time, width))
        return out


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate x) * up x)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.hidden, bias=False)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, width]; gives the same shape."""
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class Block(nn.Module):
    """One layer: attention and feed-forward, each with its norm before it and the residual around it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.attention = Attention(config)
        self.feed_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.feed = FeedForward(config)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        """x: [batch, time, width]; turns: as for Attention; gives the same shape."""
        x = x + self.attention(self.attention_norm(x), turns)
        out: Tensor = x + self.feed(self.feed_norm(x))
        return out


class Decoder(nn.Module):
    """The language model. `seed` decides the initial values."""

    turns: Tensor

    def __init__(self, config: ModelConfig, *, context: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.context = context
        with torch.random.fork_rng(devices=()):  # the modules' own initial values, soon overwritten, cost random state
            self.embed = nn.Embedding(VOCABULARY, config.width)
            self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
            self.norm = nn.RMSNorm(config.width, eps=1e-5)
            self.head = nn.Linear(config.width, VOCABULARY, bias=False)
        self.register_buffer("turns", _rotary(context, config.width // config.heads), persistent=False)
        self._initialise(seed)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [batch, time <= context] of int64; gives logits [batch, time, 256]."""
        turns = self.turns[: tokens.shape[1]]
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, turns)
        logits: Tensor = self.head(self.norm(x))
        return logits

    @torch.no_grad()
    def _initialise(self, seed: int) -> None:
        """Normal values scaled to each matrix's input; what writes into the residual is scaled down by the depth, and the
        head is small, so that the first predictions are nearly uniform (loss ln 256 = 5.55)."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
                continue
            scale = parameter.shape[-1] ** -0.5
            if name.endswith(("attention.out.weight", "feed.down.weight")):
                scale /= (2 * self.config.layers) ** 0.5
            elif name in ("embed.weight", "head.weight"):
                scale = 1.0 if name == "embed.weight" else 0.02
            parameter.normal_(0.0, scale, generator=generator)


def _rotary(context: int, head_width: int) -> Tensor:
    """Complex numbers of length 1, [context, head width / 2]: position and pair of elements -> the turn of that pair."""
    rates = 10_000.0 ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angles = torch.outer(torch.arange(context, dtype=torch.float64), rates)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def _turned(x: Tensor, turns: Tensor) -> Tensor:
    """x: [..., time, head width], each pair of neighbouring elements taken as a complex number and turned."""
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)
