"""What tests/lab/test_equal_bits.py records of a run of the lab, and of this machine's arithmetic.

Rules: only the lab's public face is used (`skerry.lab`, the Task protocol, the command line), so that internals may be renamed.
`figures`, `decisions` and `early_decisions` hold nothing that depends on the value of a parameter; `early_bits` and
`model_hash` hold nothing else. "Early" is what happened before a version was made at EARLY of the budget: what is
changed at the end of runs on purpose leaves it alone.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skerry import Policy
from skerry.cli import main
from skerry.lab import World, run, run_data_parallel

EARLY = 0.75
EVALS = 5
VOCABULARY, WIDTH, CONTEXT = 32, 16, 8
Record = dict[str, Any]


# ---------------------------------------------------------------- the task


class Block(nn.Module):
    """A layer of a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.feed_norm = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm(x)).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.feed_norm(x))))


class TinyTask:
    """A language model of 5,000 parameters on made-up text. `tied`: head and embedding are one tensor;
    `spoilt`: (learner, step) whose loss is no number."""

    def __init__(self, dtype: torch.dtype = torch.float32, *, tied: bool = False,
                 spoilt: tuple[int, int] | None = None) -> None:  # fmt: skip
        self.dtype, self.tied, self.spoilt = dtype, tied, spoilt

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            parts = {"embed": nn.Embedding(VOCABULARY, WIDTH), "layers": nn.Sequential(Block(), Block()),
                     "norm": nn.LayerNorm(WIDTH), "head": nn.Linear(WIDTH, VOCABULARY)}  # fmt: skip
        if self.tied:
            parts["head"].weight = parts["embed"].weight
        return nn.ModuleDict(parts).to(self.dtype)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), lr=0.01)

    def set_rate(self, optimizer: torch.optim.Optimizer, progress: float, since_start: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - 0.9 * progress) * min(1.0, (since_start + 1) / 4)

    def batch(self, learner: int, step: int) -> tuple[Tensor, int, int]:
        """Each byte follows from the one before, but for noise. Learners differ in how much they see a step."""
        draws = torch.Generator().manual_seed(1 + 1000 * learner + step)
        text = torch.randint(VOCABULARY, (2 + learner % 2, CONTEXT + 1), generator=draws)
        for at in range(CONTEXT):
            text[:, at + 1] = (5 * text[:, at] + 3 + text[:, at + 1] // 8) % VOCABULARY
        return text, learner, step

    def loss(self, model: nn.Module, batch: tuple[Tensor, int, int]) -> tuple[Tensor, int]:
        text, learner, step = batch
        x = model["layers"](model["embed"](text[:, :-1]))
        loss = F.cross_entropy(model["head"](model["norm"](x)).float().flatten(0, 1), text[:, 1:].flatten())
        return loss * float("nan") if (learner, step) == self.spoilt else loss, text[:, 1:].numel()

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> float:
        return self.loss(model, self.batch(-1, 0))[0].item()


class WatchedTask(TinyTask):
    """It notes what it is asked for: who makes which step at which rate, and the bits of every loss and global model."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._rate: tuple[float, int] = (0.0, 0)
        self._steps: dict[int, list[tuple[int, int, float]]] = defaultdict(list)
        self._versions: list[tuple[int, float, float]] = []
        self._losses: dict[int, list[bytes]] = defaultdict(list)
        self._models: list[str] = []
        self.early: tuple[str, str] | None = None

    def set_rate(self, optimizer: torch.optim.Optimizer, progress: float, since_start: int) -> None:
        super().set_rate(optimizer, progress, since_start)
        self._rate = (progress, since_start)

    def batch(self, learner: int, step: int) -> tuple[Tensor, int, int]:
        if learner >= 0:
            self._steps[learner].append((step, self._rate[1], round(self._rate[0], 9)))
        return super().batch(learner, step)

    def loss(self, model: nn.Module, batch: tuple[Tensor, int, int]) -> tuple[Tensor, int]:
        loss, tokens = super().loss(model, batch)
        self._losses[batch[1]].append(bits(loss))
        return loss, tokens

    def evaluate(self, model: nn.Module) -> float:
        self._models.append(digest(*map(bits, model.parameters())))
        return super().evaluate(model)

    def version(self, share: float, step: int, virtual_s: float) -> None:
        """The run's progress: a version was made."""
        if share >= EARLY and self.early is None:
            self.early = (self.decisions(), digest(json.dumps(self._models), *self._of_all(self._losses)))
        self._versions.append((step, round(virtual_s, 6), round(share, 9)))

    def decisions(self) -> str:
        """Over the steps of every learner and the moments of the versions, till now."""
        return digest(json.dumps([self._versions, sorted(self._steps.items())]))

    @staticmethod
    def _of_all(notes: dict[int, list[bytes]]) -> Iterator[bytes]:
        return (b"".join(notes[learner]) for learner in sorted(notes))


# ---------------------------------------------------------------- records


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def digest(*parts: str | bytes) -> str:
    """SHA-256 of texts or bytes, each with its length."""
    made = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        made.update(b"%d:" % len(raw) + raw)
    return made.hexdigest()


@contextmanager
def one_thread() -> Iterator[None]:
    """Equal bits are promised for one torch thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def play(policy: Policy | None, world: World, *, seed: int = 0, **task: Any) -> Record:
    """Run it and note. Policy None: the data-parallel baseline, 40 steps."""
    watched = WatchedTask(**task)
    rest: dict[str, Any] = {"seed": seed, "evals": EVALS, "progress": watched.version}
    with one_thread():
        result = run(watched, policy, world, **rest) if policy else run_data_parallel(watched, world, steps=40, **rest)
    made = figures(result.plain())
    assert watched.early, "the run has made no version late in it"
    return {"figures": made, "early_decisions": watched.early[0],
            "decisions": digest(json.dumps(made, sort_keys=True), watched.decisions()),
            "early_bits": watched.early[1], "model_hash": result.model_hash}  # fmt: skip


def play_command(folder: Path, *arguments: str) -> Record:
    """The same of `skerry lab`: the recipe's model on a text of our own. What is early in it nobody sees."""
    text, out = folder / "text.txt", io.StringIO()
    text.write_text("Skerries are small rocky islands, too small to live on.\n" * 200)
    with one_thread(), redirect_stdout(out):
        assert main(["lab", "--data", str(text), "--evals", str(EVALS), "--json", *arguments]) == 0
    result = json.loads(out.getvalue())
    made = figures(result)
    return {"figures": made, "decisions": digest(json.dumps(made, sort_keys=True)), "model_hash": result["model_hash"]}


def figures(result: Record) -> Record:
    """What a result says beside losses and parameters, in plain numbers; times and shares rounded."""
    names = ("rounds", "rounds_skipped", "rounds_cancelled", "bytes", "params")
    return {
        **{name: result[name] for name in names},
        **{name: round(result[name], 6) for name in ("virtual_s", "wait_share", "goodput", "mean_contributors")},
        "tokens": _without_zeros(result["tokens"]),
        "evals": [[step, tokens, round(at, 6)] for step, tokens, at, _ in result["eval_curve"]],
        "learners": sorted(
            [one["learner"], one["generations"], one["steps"], one["tokens"], _without_zeros(one["lost_by_cause"])]
            for one in result["per_learner"]
        ),
        "faults": [[one["fault"].partition("@")[0], round(one["at"], 6), one["struck"], round(one["down_s"], 6)]
                   for one in result["faults"]],
    }  # fmt: skip


def _without_zeros(amounts: Record) -> Record:
    return {name: _without_zeros(one) if isinstance(one, dict) else one for name, one in amounts.items() if one}


# ---------------------------------------------------------------- this machine's arithmetic


@cache
def arithmetic() -> dict[str, str]:
    """Hashes of what this machine makes of fixed computations, of the kinds and shapes of the runs; nothing of Skerry."""
    with one_thread():
        kinds = {"normal": [_normal((64, 64), seed) for seed in range(4)], "fp32": _trained(torch.float32),
                 "bf16": _trained(torch.bfloat16), "decoder": _decoder(), "outer": _outer()}  # fmt: skip
        return {name: digest(*map(bits, tensors))[:16] for name, tensors in kinds.items()}


def _normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _trained(dtype: torch.dtype) -> list[Tensor]:
    """The task's model in a few steps of AdamW: losses, gradients, parameters."""
    task = TinyTask(dtype)
    model = task.model(0)
    optimizer, made = task.optimizer(model), []
    for step in range(8):
        loss, _ = task.loss(model, task.batch(step, step))
        loss.backward()
        made += [loss, *(parameter.grad.clone() for parameter in model.parameters())]
        optimizer.step()
        optimizer.zero_grad()
    return [*made, *model.parameters()]


def _decoder() -> list[Tensor]:
    """What a Llama-style decoder is made of, at the sizes of the recipe's smallest: forward and backward."""
    width, hidden, time = 64, 192, 16
    shapes = [(1, time, width), (width, width), (width, width), (hidden, width), (hidden, width), (width, hidden), (256, width)]
    x, query, key, gate, up, down, head = leaves = [_normal(shape, 10 + i) for i, shape in enumerate(shapes)]
    for leaf in leaves:
        leaf.mul_(0.125).requires_grad_()
    turns = torch.polar(torch.ones(time, 16), torch.outer(torch.arange(time), 0.1 ** torch.arange(16.0)))
    normed = F.rms_norm(x, (width,), eps=1e-5)
    heads = (F.linear(normed, part).view(1, time, 2, 32).transpose(1, 2) for part in (query, key))
    turned = [torch.view_as_real(torch.view_as_complex(one.unflatten(-1, (-1, 2))) * turns).flatten(-2) for one in heads]
    mixed = F.scaled_dot_product_attention(*turned, turned[1], is_causal=True).transpose(1, 2).reshape(1, time, width)
    fed = x + F.linear(F.silu(F.linear(mixed, gate)) * F.linear(mixed, up), down)
    loss = F.cross_entropy(F.linear(fed, head)[0], torch.arange(time))
    loss.backward()
    return [loss, *(leaf.grad for leaf in leaves)]


def _outer() -> list[Tensor]:
    """Norms by numpy's products of runs, and what is done to flat values: sums, blends, momentum, rounding."""
    values = _normal((4, 5120), 30)
    runs = values.numpy().reshape(-1, 256)
    squares = np.matmul(runs[:, None], runs[:, :, None])
    sums = torch.mul(values[0], 0.3).add_(values[1], alpha=0.7).add_(values[2], alpha=1 / 3)
    blended = values[2].clone().lerp_(values[3], 0.3)
    tail = np.dot(runs[0, :77].astype(np.float64), runs[1, :77].astype(np.float64))
    total = np.add.reduce(squares, axis=None, dtype=np.float64)
    rounded = sums.to(torch.bfloat16)
    return [torch.from_numpy(squares), sums, blended, torch.tensor([tail, total]), rounded, rounded.float() - blended]
