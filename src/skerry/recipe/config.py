"""The recipe's configuration: which model learns what from which bytes, and how.

Rules: everything that decides a batch or an initial value is here, so that two learners with equal configurations and
equal files run the same job. Rates follow the run's progress (0 to 1), never a learner's own count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from skerry.config.checks import not_negative, one_of, positive, share, whole
from skerry.errors import cannot_work
from skerry.recipe.sizes import Size


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """The reference language-model job. Raises ConfigError where a value cannot work."""

    # What learns
    model: Size = "tiny"  # 0.25M, 0.9M or 10M parameters
    seed: int = 0  # initial values and batches
    # From what
    data: tuple[str, ...] = ()  # files or folders; empty = the Python standard library's own sources
    shards: int = 0  # parts the training text is divided into, one a learner; 0 = the number of learners `skerry train` starts
    context: int = 64  # bytes a window
    batch: int = 8  # windows a step
    # How: AdamW, warm-up and cosine on the run's progress
    lr: float = 2.5e-3  # at its peak
    lr_final: float = 0.02  # share of lr that is left at the end
    warmup: float = 0.02  # share of the run
    rewarmup: int = 20  # steps over which a learner that (re)starts in mid-run warms up
    weight_decay: float = 0.1  # of matrices; embeddings and norms have none
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    # How good
    eval_windows: int = 256  # fixed held-out windows
    eval_interval: float = 5.0  # seconds between two evaluations during the run
    # On what
    threads: int = 1  # of the training process

    def __post_init__(self) -> None:
        one_of(self, "model", Size, where="recipe.")
        whole(self, "seed", "shards", "rewarmup", least=0, where="recipe.")
        whole(self, "batch", "eval_windows", "threads", where="recipe.")
        whole(self, "context", least=2, where="recipe.")
        not_negative(self, "weight_decay", "eval_interval", where="recipe.")
        positive(self, "lr", where="recipe.")
        share(self, "lr_final", "warmup", where="recipe.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise cannot_work("recipe.betas", self.betas, "give two numbers from 0 to below 1")

    def shared_by(self, learners: int) -> RecipeConfig:
        """With a shard of the data for each of so many learners, unless the shards are given."""
        return replace(self, shards=self.shards or learners)
