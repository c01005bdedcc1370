"""Text from an exported model: its two files are read, and bytes drawn one after the other.

Rules: the same model, prompt, temperature and seed give the same text; the model sees its last `context` bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from skerry.errors import DataError, RunDirError, cannot_work
from skerry.recipe.model import Decoder
from skerry.recipe.sizes import ModelConfig


def load_model(path: Path) -> Decoder:
    """The model of a run's directory, or of its model/ folder. Raises RunDirError if none is there, DataError if it is
    not the recipe's."""
    folder = path / "model" if (path / "model").is_dir() else path
    about, values = folder / "config.json", folder / "model.safetensors"
    if not about.is_file() or not values.is_file():
        raise RunDirError(f"{path} holds no exported model", remedy="name a run that has ended, or its model folder")
    try:
        plain = json.loads(about.read_text())
        model = Decoder(msgspec.convert(plain["model"], ModelConfig), context=int(plain["context"]))
        model.load_state_dict(load_file(values))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, msgspec.ValidationError) as error:
        first = str(error).partition("\n")[0]
        raise DataError(f"the model in {folder} is not one of the recipe's: {first}",
                        remedy="sample models that `skerry train` or `skerry join` trained") from error  # fmt: skip
    return model.eval()


def sample(model: Decoder, prompt: bytes, *, count: int, temperature: float = 0.8, seed: int = 0) -> Iterator[int]:
    """Draw `count` bytes that continue the prompt (an empty one: a new line). Temperature 0 takes the likeliest byte.
    Raises ConfigError."""
    if temperature < 0:
        raise cannot_work("temperature", temperature, "give 0 or more")
    if count < 1:
        raise cannot_work("bytes", count, "give 1 or more")
    return _draw(model, prompt or b"\n", count, temperature, torch.Generator().manual_seed(seed))


@torch.inference_mode()
def _draw(model: Decoder, prompt: bytes, count: int, temperature: float, generator: torch.Generator) -> Iterator[int]:
    seen = list(prompt)
    for _ in range(count):
        logits = model(torch.tensor([seen[-model.context :]]))[0, -1]
        if temperature:
            chances = torch.softmax(logits / temperature, 0)
            drawn = int(torch.multinomial(chances, 1, generator=generator))
        else:
            drawn = int(logits.argmax())
        seen.append(drawn)
        yield drawn
