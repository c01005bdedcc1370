"""The shapes of the reference model that there are, by name. No torch: what only configures a run does without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from skerry.config.checks import whole
from skerry.errors import ConfigError

Size = Literal["nano", "tiny", "small"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the decoder. Raises ConfigError where the numbers do not fit each other."""

    width: int
    layers: int
    heads: int
    hidden: int  # width of the feed-forward part

    def __post_init__(self) -> None:
        whole(self, "width", "layers", "heads", "hidden", where="model.")
        if self.width % (2 * self.heads):
            raise ConfigError(f"model.width = {self.width} does not divide into {self.heads} heads of even width",
                              remedy="make width a multiple of twice the number of heads")  # fmt: skip


SIZES: dict[Size, ModelConfig] = {
    "nano": ModelConfig(width=64, layers=4, heads=2, hidden=192),  # 0.25M parameters
    "tiny": ModelConfig(width=128, layers=4, heads=4, hidden=384),  # 0.92M
    "small": ModelConfig(width=320, layers=8, heads=5, hidden=864),  # 10.1M
}
